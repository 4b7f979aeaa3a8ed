//! Random adapters for a model.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::Expected;
use super::draw::Draw;
use super::model::{Kind, Model, PARAMETER, Weight};
use crate::scene::{Numbers, Scene};

/// How an adapter lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Peft,
    /// A file without a config; the scaling is stated.
    Plain,
    /// A file without a config, with a tensor alpha for each module.
    Alphas,
}

pub struct Made {
    format: Format,
    /// On top of the scaling.
    pub weight: f64,
    config: Map<String, Value>,
    tensors: Vec<(String, Numbers)>,
    loras: Vec<Lora>,
    /// Whole tensors: the base's names and the values.
    saved: Vec<(String, Numbers)>,
    /// Biases of lora_B: the base's names, the scaling, the values.
    biases: Vec<(String, f64, Numbers)>,
    /// Rows of embeddings: the base's names, the indices, the values.
    rows: Vec<(String, Vec<usize>, Numbers)>,
    scaling: f64,
}

struct Lora {
    /// The weight's place in the model.
    at: usize,
    scaling: f64,
    /// (rank, in_features) for each expert.
    a: Vec<Numbers>,
    /// (out_features, rank) for each expert.
    b: Vec<Numbers>,
    magnitude: Option<Numbers>,
}

impl Made {
    /// `alone`: no other adapter is merged with it, and its weight is 1.
    pub fn draw(draw: &mut Draw, model: &Model, weight: f64, alone: bool) -> Self {
        // --scaling would be for all files of several adapters.
        let format = match draw.between(0, 9) {
            0 if alone => Format::Plain,
            1 if alone => Format::Alphas,
            _ => Format::Peft,
        };
        let mut made = Self {
            format,
            weight,
            config: Map::new(),
            tensors: Vec::new(),
            loras: Vec::new(),
            saved: Vec::new(),
            biases: Vec::new(),
            rows: Vec::new(),
            scaling: draw.pick(&[0.5, 1.0, 2.0, 4.0]),
        };
        let rslora = format == Format::Peft && draw.chance(15);
        let dora = alone && format == Format::Peft && draw.chance(20);
        let rank = draw.pick(if rslora { &[1, 4] } else { &[1, 2, 3, 4] });
        let divisor = |rank: usize| {
            if rslora {
                (rank as f64).sqrt()
            } else {
                rank as f64
            }
        };
        let default = made.scaling;
        let share = draw.pick(&[30, 60, 100]);
        let fits = |weight: &Weight| match weight.kind {
            Kind::Linear | Kind::Transposed => true,
            Kind::Experts => format == Format::Peft && !dora,
            Kind::Embedding | Kind::Convolution(_) => format == Format::Peft && !dora,
        };
        let can: Vec<usize> = (0..model.weights.len())
            .filter(|&at| fits(&model.weights[at]))
            .collect();
        let mut chosen: Vec<usize> = can.iter().copied().filter(|_| draw.chance(share)).collect();
        // Without a layer of the trunk, names are too few to find a mapping from.
        let is_layer = |at: &usize| model.is_layer_of_trunk(&model.weights[*at]);
        if !chosen.iter().any(is_layer) {
            let layers: Vec<usize> = can.iter().copied().filter(is_layer).collect();
            chosen.push(draw.pick(&layers));
            chosen.sort_unstable();
        }
        let lora_bias = format == Format::Peft
            && !dora
            && chosen.iter().all(|&at| model.weights[at].bias.is_some())
            && draw.chance(50);
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        let mut parameters = Vec::new();
        let (front, name) = match format {
            Format::Peft => (
                draw.pick(&[
                    "base_model.model.",
                    "base_model.model.",
                    "",
                    "_orig_mod.base_model.model.",
                ]),
                draw.pick(&["", "", ".default", ".mine"]),
            ),
            _ => ("", ""),
        };
        for at in chosen {
            let weight = &model.weights[at];
            let path = &weight.adapters_path;
            let (mut own, mut scaling) = (rank, default);
            // A rank of its own; PEFT's patterns don't reach bare parameters in every version.
            if format != Format::Plain && weight.kind != Kind::Experts && draw.chance(25) {
                own = draw.pick(if rslora { &[1, 4] } else { &[1, 2, 3, 4] });
                scaling = draw.pick(&[0.25, 1.0, 2.0]);
                ranks.insert(path.clone(), json!(own));
                alphas.insert(path.clone(), json!(scaling * divisor(own)));
            }
            let dtypes = [Dtype::F32, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
            let (type_a, type_b) = (draw.pick(&dtypes), draw.pick(&dtypes));
            let experts = if weight.kind == Kind::Experts {
                weight.value.shape[0]
            } else {
                1
            };
            let (n, k) = weight.sizes();
            let a: Vec<Numbers> = (0..experts)
                .map(|_| draw.numbers(type_a, &[own, k]))
                .collect();
            let b: Vec<Numbers> = (0..experts)
                .map(|_| draw.numbers(type_b, &[n, own]))
                .collect();
            let magnitude = dora.then(|| draw.positive(Dtype::F32, &[n]));
            made.name(front, name, path, weight, &a, &b, own, scaling);
            if weight.kind == Kind::Experts {
                let end: Vec<&str> = path.rsplit('.').take(2).collect();
                parameters.push(format!("{}.{}.{PARAMETER}", end[1], end[0]));
            }
            if let Some(magnitude) = &magnitude {
                let end = if name.is_empty() { "" } else { ".weight" };
                let key = format!("{front}{path}.lora_magnitude_vector{name}{end}");
                // PEFT saves the vector under its own name, or as its module's weight.
                made.tensors.push((key, magnitude.clone()));
            }
            if lora_bias {
                let bias = draw.numbers(type_b, &[n]);
                made.tensors
                    .push((format!("{front}{path}.lora_B{name}.bias"), bias.clone()));
                made.biases
                    .push((format!("{}.bias", weight.path), scaling, bias));
            }
            made.loras.push(Lora {
                at,
                scaling,
                a,
                b,
                magnitude,
            });
        }
        made.config = json!({
            "r": rank, "lora_alpha": default * divisor(rank), "use_rslora": rslora,
            "use_dora": dora, "lora_bias": lora_bias, "rank_pattern": ranks,
            "alpha_pattern": alphas, "target_parameters": parameters,
            "fan_in_fan_out": model.weights.iter().any(|weight| weight.kind == Kind::Transposed),
        })
        .as_object()
        .unwrap()
        .clone();
        if alone && format == Format::Peft {
            made.whole(draw, model, front, name, lora_bias);
        }
        made
    }

    /// lora_A and lora_B under the names that PEFT gives them.
    #[expect(clippy::too_many_arguments)]
    fn name(
        &mut self,
        front: &str,
        name: &str,
        path: &str,
        weight: &Weight,
        a: &[Numbers],
        b: &[Numbers],
        rank: usize,
        scaling: f64,
    ) {
        let (a, b) = stored(weight, a, b, rank);
        let keys = match weight.kind {
            Kind::Embedding => {
                ["A", "B"].map(|part| format!("{front}{path}.lora_embedding_{part}{name}"))
            }
            _ => ["A", "B"].map(|part| format!("{front}{path}.lora_{part}{name}.weight")),
        };
        let [key_a, key_b] = keys;
        self.tensors.extend([(key_a, a), (key_b, b)]);
        if self.format == Format::Alphas {
            let alpha = Numbers::new(Dtype::F32, &[], vec![scaling * rank as f64]);
            self.tensors.push((format!("{front}{path}.alpha"), alpha));
        }
    }

    /// Tensors trained whole: norms, biases, and rows of the embeddings.
    fn whole(&mut self, draw: &mut Draw, model: &Model, front: &str, name: &str, lora_bias: bool) {
        let mut modules = Vec::new();
        if draw.chance(30) {
            let wrapper = match name {
                "" => draw
                    .pick(&["", ".modules_to_save", ".modules_to_save.default"])
                    .to_owned(),
                _ => format!(".modules_to_save{name}"),
            };
            for (base, adapters, value) in &model.norms {
                let dtype = draw.float();
                let new = draw.numbers(dtype, &value.shape);
                let module = adapters.strip_suffix(".weight").unwrap();
                self.tensors
                    .push((format!("{front}{module}{wrapper}.weight"), new.clone()));
                self.saved.push((base.clone(), new));
            }
            modules.push("norm");
        }
        self.config.insert("modules_to_save".into(), json!(modules));
        if !lora_bias && draw.chance(20) {
            self.config.insert("bias".into(), json!("lora_only"));
            for lora in &self.loras {
                let weight = &model.weights[lora.at];
                let Some(old) = &weight.bias else {
                    continue;
                };
                let new = draw.numbers(old.dtype, &old.shape);
                self.tensors
                    .push((format!("{front}{}.bias", weight.adapters_path), new.clone()));
                self.saved.push((format!("{}.bias", weight.path), new));
            }
        }
        let embedding = { model.weights.iter().enumerate() }
            .find(|(_, weight)| weight.kind == Kind::Embedding)
            .filter(|(at, _)| self.loras.iter().all(|lora| lora.at != *at));
        if let Some((_, weight)) = embedding.filter(|_| draw.chance(30)) {
            let tokens = weight.value.shape[0];
            let indices: Vec<usize> = (0..tokens).filter(|_| draw.chance(40)).collect();
            if indices.is_empty() {
                return;
            }
            let rows = draw.numbers(Dtype::F32, &[indices.len(), weight.value.shape[1]]);
            let key = format!(
                "{front}{}.token_adapter.trainable_tokens_delta{name}",
                weight.adapters_path
            );
            self.tensors.push((key, rows.clone()));
            self.config.insert(
                "trainable_token_indices".into(),
                match draw.chance(50) {
                    true => json!(indices),
                    false => json!({"embed_tokens": indices}),
                },
            );
            self.rows.push((weight.name(), indices, rows));
        }
    }

    pub fn path(&self, name: &str) -> String {
        match self.format {
            Format::Peft => name.to_owned(),
            _ => format!("{name}.safetensors"),
        }
    }

    pub fn write(&self, scene: &Scene, name: &str) {
        let tensors: Vec<(&str, &Numbers)> = self
            .tensors
            .iter()
            .map(|(name, value)| (&**name, value))
            .collect();
        match self.format {
            Format::Peft => scene.adapter(name, Value::Object(self.config.clone()), &tensors),
            _ => scene.put(&self.path(name), &tensors),
        }
    }

    /// The paths of its modules.
    pub fn paths<'a>(&self, model: &'a Model) -> impl Iterator<Item = &'a str> {
        self.loras
            .iter()
            .map(|lora| &*model.weights[lora.at].adapters_path)
    }

    pub fn scaling_argument(&self) -> Option<String> {
        (self.format == Format::Plain).then(|| format!("--scaling={}", self.scaling))
    }

    /// Does to the model what the adapter means. Returns whether DoRA would divide by 0.
    pub fn add_to(&self, model: &Model, expected: &mut BTreeMap<String, Expected>) -> bool {
        let mut is_undefined = false;
        for lora in &self.loras {
            let weight = &model.weights[lora.at];
            let Expected { sum, tolerance } = expected.get_mut(&weight.name()).unwrap();
            let factor = lora.scaling * self.weight;
            let (n, k) = weight.sizes();
            for (expert, (a, b)) in lora.a.iter().zip(&lora.b).enumerate() {
                let delta = b.dot(a);
                for (at, delta) in delta.values.iter().enumerate() {
                    let place = match weight.kind {
                        Kind::Transposed | Kind::Embedding => at % k * n + at / k,
                        _ => expert * n * k + at,
                    };
                    sum.values[place] += factor * delta;
                }
            }
            if let Some(magnitude) = &lora.magnitude {
                *tolerance = 1e-6;
                for row in 0..n {
                    let place = |column: usize| match weight.kind {
                        Kind::Transposed => column * n + row,
                        _ => row * k + column,
                    };
                    let squares: f64 = (0..k).map(|at| sum.values[place(at)].powi(2)).sum();
                    is_undefined |= squares == 0.0;
                    for at in 0..k {
                        sum.values[place(at)] *= magnitude.values[row] / squares.sqrt();
                    }
                }
            }
        }
        for (name, new) in &self.saved {
            let sum = &mut expected.get_mut(name).unwrap().sum;
            sum.values.clone_from(&new.values);
        }
        for (name, scaling, bias) in &self.biases {
            let sum = &mut expected.get_mut(name).unwrap().sum;
            for (sum, bias) in sum.values.iter_mut().zip(&bias.values) {
                *sum += scaling * self.weight * bias;
            }
        }
        for (name, indices, rows) in &self.rows {
            let sum = &mut expected.get_mut(name).unwrap().sum;
            let columns = rows.shape[1];
            for (row, values) in indices.iter().zip(rows.values.chunks(columns)) {
                sum.values[row * columns..(row + 1) * columns].copy_from_slice(values);
            }
        }
        is_undefined
    }
}

/// lora_A and lora_B as they are stored for a layer of this kind.
fn stored(weight: &Weight, a: &[Numbers], b: &[Numbers], rank: usize) -> (Numbers, Numbers) {
    let (n, k) = weight.sizes();
    match weight.kind {
        Kind::Linear | Kind::Transposed | Kind::Embedding => (a[0].clone(), b[0].clone()),
        Kind::Convolution(kernel) => {
            let mut shape_a = vec![rank];
            shape_a.extend(&weight.value.shape[1..]);
            let mut shape_b = vec![n, rank];
            shape_b.extend(vec![1; kernel]);
            (
                Numbers::new(a[0].dtype, &shape_a, a[0].values.clone()),
                Numbers::new(b[0].dtype, &shape_b, b[0].values.clone()),
            )
        }
        Kind::Experts => {
            let experts = a.len();
            let all_a = a.iter().flat_map(|a| a.values.iter().copied()).collect();
            let all_b = (0..n * rank * experts).map(|at| {
                let (row, column) = (at / (rank * experts), at % (rank * experts));
                b[column % experts].values[row * rank + column / experts]
            });
            (
                Numbers::new(a[0].dtype, &[experts * rank, k], all_a),
                Numbers::new(b[0].dtype, &[n, rank * experts], all_b.collect()),
            )
        }
    }
}
