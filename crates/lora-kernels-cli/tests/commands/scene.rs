//! Tiny models and adapters with any names, made on disk, and merges of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use half::{bf16, f16};
use lora_kernels_adapters::{Dtype, TensorFile};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The folder of one test. Paths that its functions take are below it.
pub struct Scene {
    pub folder: PathBuf,
    made: Cell<u64>,
}

/// A tensor's numbers, each of which its type represents.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Numbers {
    pub fn new(dtype: Dtype, shape: &[usize], values: Vec<f64>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let values = values.into_iter().map(|value| rounded(dtype, value));
        Self {
            dtype,
            shape: shape.to_vec(),
            values: values.collect(),
        }
    }

    pub fn zeros(shape: &[usize]) -> Self {
        Self::new(Dtype::F32, shape, vec![0.0; shape.iter().product()])
    }

    /// The same numbers, rounded to a type.
    pub fn to(&self, dtype: Dtype) -> Self {
        Self::new(dtype, &self.shape, self.values.clone())
    }

    /// self (rows, inner) · other (inner, columns), exactly.
    pub fn dot(&self, other: &Self) -> Self {
        let (&[rows, inner], &[same, columns]) = (&self.shape[..], &other.shape[..]) else {
            panic!("matrices, not {:?} and {:?}", self.shape, other.shape)
        };
        assert_eq!(inner, same);
        let at = |row: usize, column: usize| {
            let terms = (0..inner)
                .map(|i| self.values[row * inner + i] * other.values[i * columns + column]);
            terms.sum()
        };
        let values = (0..rows * columns).map(|i| at(i / columns, i % columns));
        Self {
            dtype: Dtype::F64,
            shape: vec![rows, columns],
            values: values.collect(),
        }
    }

    pub fn transposed(&self) -> Self {
        let &[rows, columns] = &self.shape[..] else {
            panic!("a matrix, not {:?}", self.shape)
        };
        let at = |i: usize| self.values[i % rows * columns + i / rows];
        Self {
            dtype: self.dtype,
            shape: vec![columns, rows],
            values: (0..rows * columns).map(at).collect(),
        }
    }

    /// self + factor·delta, rounded once to the type of `self`.
    #[track_caller]
    pub fn plus(&self, factor: f64, delta: &Self) -> Self {
        assert_eq!(self.shape, delta.shape);
        let sums = self.values.iter().zip(&delta.values);
        let sums = sums.map(|(value, delta)| value + factor * delta).collect();
        Self::new(self.dtype, &self.shape, sums)
    }

    fn bytes(&self) -> Vec<u8> {
        // The values are the type's own, so that no conversion rounds.
        let values = self.values.iter().copied();
        match self.dtype {
            Dtype::F64 => values.flat_map(f64::to_le_bytes).collect(),
            Dtype::F32 => values.flat_map(|v| (v as f32).to_le_bytes()).collect(),
            Dtype::F16 => values
                .flat_map(|v| f16::from_f64(v).to_le_bytes())
                .collect(),
            Dtype::BF16 => values
                .flat_map(|v| bf16::from_f64(v).to_le_bytes())
                .collect(),
            Dtype::I64 => values.flat_map(|v| (v as i64).to_le_bytes()).collect(),
            Dtype::I32 => values.flat_map(|v| (v as i32).to_le_bytes()).collect(),
            Dtype::I8 => values.map(|v| v as i8 as u8).collect(),
            Dtype::U8 | Dtype::F8_E4M3 => values.map(|v| v as u8).collect(),
            other => panic!("{other:?} isn't written by tests"),
        }
    }
}

fn rounded(dtype: Dtype, value: f64) -> f64 {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => nearest(dtype, value),
        _ => value,
    }
}

/// The nearest number of a type, ties to even, without the conversions that are tested: steps of
/// the type at the value's size are powers of two, so that f64 counts them exactly.
fn nearest(dtype: Dtype, value: f64) -> f64 {
    let (digits, least, largest) = match dtype {
        Dtype::F16 => (11, -14, 65504.0),
        Dtype::BF16 => (8, -126, 2f64.powi(127) * (2.0 - 2f64.powi(-7))),
        _ => return value as f32 as f64,
    };
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = (value.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let step = 2f64.powi(exponent.max(least) + 1 - digits);
    let rounded = (value / step).round_ties_even() * step;
    match rounded.abs() > largest {
        true => f64::INFINITY.copysign(value),
        false => rounded,
    }
}

fn values(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    fn of<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, rest) = data.as_chunks::<N>();
        assert!(rest.is_empty());
        chunks.iter().map(|chunk| value(*chunk)).collect()
    }
    match dtype {
        Dtype::F64 => of(data, f64::from_le_bytes),
        Dtype::F32 => of(data, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => of(data, |b| f16::from_le_bytes(b).into()),
        Dtype::BF16 => of(data, |b| bf16::from_le_bytes(b).into()),
        Dtype::I64 => of(data, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => of(data, |b| i32::from_le_bytes(b).into()),
        Dtype::I8 => of(data, |b| i8::from_le_bytes(b).into()),
        _ => of(data, |[b]| b.into()),
    }
}

impl Scene {
    pub fn new(program: &str, test: &str) -> Self {
        Self {
            folder: crate::common::folder(program, test),
            made: Cell::new(1),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Eighths between -1 and 1 in f32: sums of their products are exact, so that a merge has one
    /// right result.
    pub fn random(&self, shape: &[usize]) -> Numbers {
        let mut state = self.made.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.made.set(self.made.get() + 1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) % 17) as f64 / 8.0 - 1.0
        };
        let values = (0..shape.iter().product()).map(|_| next()).collect();
        Numbers::new(Dtype::F32, shape, values)
    }

    /// lora_A (rank, in_features) and lora_B (out_features, rank).
    pub fn pair(&self, out_features: usize, in_features: usize, rank: usize) -> (Numbers, Numbers) {
        (
            self.random(&[rank, in_features]),
            self.random(&[out_features, rank]),
        )
    }

    /// Writes a safetensors file.
    pub fn put(&self, path: &str, tensors: &[(&str, &Numbers)]) {
        self.put_with(path, tensors, &[]);
    }

    /// Writes a safetensors file with metadata.
    pub fn put_with(&self, path: &str, tensors: &[(&str, &Numbers)], metadata: &[(&str, &str)]) {
        let data: Vec<Vec<u8>> = tensors.iter().map(|(_, numbers)| numbers.bytes()).collect();
        let views = tensors.iter().zip(&data).map(|((name, numbers), data)| {
            let view = TensorView::new(numbers.dtype, numbers.shape.clone(), data);
            (*name, view.unwrap())
        });
        let metadata = metadata
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        let metadata = Some(metadata.collect());
        let path = self.below(path);
        safetensors::serialize_to_file(views, metadata, &path).unwrap();
    }

    /// Writes a text.
    pub fn text(&self, path: &str, text: &str) {
        std::fs::write(self.below(path), text).unwrap();
    }

    fn below(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes a sharded model with its index: for each shard, its name and its tensors.
    pub fn shards(&self, index: &str, shards: &[(&str, &[(&str, &Numbers)])]) {
        let folder = Path::new(index).parent().unwrap().to_str().unwrap();
        let mut map = serde_json::Map::new();
        for (shard, tensors) in shards {
            self.put(&format!("{folder}/{shard}"), tensors);
            map.extend(
                tensors
                    .iter()
                    .map(|(name, _)| (name.to_string(), json!(shard))),
            );
        }
        let bytes: usize = shards
            .iter()
            .flat_map(|(_, tensors)| *tensors)
            .map(|(_, n)| n.bytes().len())
            .sum();
        let document = json!({"metadata": {"total_size": bytes}, "weight_map": map});
        self.text(index, &document.to_string());
    }

    /// Writes an adapter's folder: a config with rank 2 and lora_alpha 4, which `fields` change,
    /// and its tensors.
    pub fn adapter(&self, folder: &str, fields: Value, tensors: &[(&str, &Numbers)]) {
        let mut config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
            "target_modules": ["q_proj"], "modules_to_save": null, "inference_mode": true,
        });
        let fields = fields.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(fields);
        self.text(
            &format!("{folder}/adapter_config.json"),
            &config.to_string(),
        );
        self.put(&format!("{folder}/adapter_model.safetensors"), tensors);
    }

    /// Writes an adapter's folder as [`Scene::adapter`] does, for one module, with a random lora_A
    /// and lora_B of rank 2.
    pub fn adapter_of(&self, folder: &str, module: &str, [outs, ins]: [usize; 2]) {
        let (a, b) = self.pair(outs, ins, 2);
        let [name_a, name_b] =
            ["A", "B"].map(|matrix| format!("base_model.model.{module}.lora_{matrix}.weight"));
        self.adapter(folder, json!({}), &[(&name_a, &a), (&name_b, &b)]);
    }

    fn arguments(&self, verb: &str, inputs: &[&str], out: &str, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut all = vec![verb.to_owned()];
        all.extend(inputs.iter().map(|name| path(name)));
        all.extend(["-o".to_owned(), path(out)]);
        all.extend(["--force", "--device", "cpu"].map(str::to_owned));
        all.extend(more.iter().map(|text| (*text).to_owned()));
        all
    }

    /// Merges in this process: `inputs` are the base and the adapters. Returns what is printed.
    ///
    /// # Errors
    /// The exit status and the message.
    pub fn run(&self, inputs: &[&str], out: &str, more: &[&str]) -> Result<String, (u8, String)> {
        let mut all = self.arguments("merge", inputs, out, more);
        all.insert(0, "lora-kernels".into());
        let (result, printed) = lora_kernels_cli::run_keeping(all);
        result.map(|()| printed)
    }

    #[track_caller]
    pub fn merge(&self, inputs: &[&str], out: &str, more: &[&str]) {
        self.printed(inputs, out, more);
    }

    /// Asserts that a merge ends with status 2, one line that contains all of `fragments`, and
    /// nothing written.
    #[track_caller]
    pub fn refused(&self, inputs: &[&str], more: &[&str], fragments: &[&str]) {
        let out = "refused";
        let (status, message) = self.run(inputs, out, more).expect_err("a refusal");
        assert_eq!(status, 2, "{message}");
        assert_eq!(message.lines().count(), 1, "one line, not: {message}");
        for fragment in fragments {
            assert!(
                message.contains(fragment),
                "`{fragment}` is not in: {message}"
            );
        }
        let left = std::fs::read_dir(&self.folder).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(out)
        });
        assert_eq!(left.count(), 0, "something was written");
    }

    /// Runs `merge` or `unmerge` as a program, whose report is read.
    pub fn program(&self, verb: &str, inputs: &[&str], out: &str, more: &[&str]) -> Output {
        let mut command = crate::common::lora_kernels();
        command.args(self.arguments(verb, inputs, out, more));
        command.output().unwrap()
    }

    /// What a merge prints.
    #[track_caller]
    pub fn printed(&self, inputs: &[&str], out: &str, more: &[&str]) -> String {
        match self.run(inputs, out, more) {
            Ok(printed) => printed,
            Err((status, message)) => panic!("status {status}: {message}"),
        }
    }

    /// What a merge prints as JSON.
    #[track_caller]
    pub fn json(&self, inputs: &[&str], out: &str, more: &[&str]) -> Value {
        let text = self.printed(inputs, out, &[more, &["--json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Every tensor of a file.
    pub fn get(&self, path: &str) -> BTreeMap<String, Numbers> {
        let file = TensorFile::open(&self.path(path)).unwrap();
        let tensors = file.tensors().map(|tensor| {
            let numbers = Numbers {
                dtype: tensor.dtype,
                shape: tensor.shape.to_vec(),
                values: values(tensor.dtype, &tensor.read().unwrap()),
            };
            (tensor.name.to_owned(), numbers)
        });
        tensors.collect()
    }

    /// Asserts that a file has exactly these tensors with exactly these numbers.
    #[track_caller]
    pub fn assert_has(&self, path: &str, expected: &[(&str, &Numbers)]) {
        let got = self.get(path);
        let names: Vec<&str> = got.keys().map(String::as_str).collect();
        let mut wanted: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        for (name, numbers) in expected {
            assert_eq!(&got[*name], *numbers, "{name}");
        }
    }
}
