//! Quantised models, recognised by their config and by their tensors. Nothing can be added to their
//! quantised weights; others in such a model can be merged.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde_json::Value;

use super::BaseModel;
use crate::shown::shown;
use crate::tensor::Tensor;

/// How weights of a model are quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantisation {
    method: String,
    original: Option<String>,
}

impl Quantisation {
    /// The method's name, with its bits where the config says them: `GPTQ (4 bit)`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The name of the model that this one was made from, where the config names it.
    pub fn original(&self) -> Option<&str> {
        self.original.as_deref()
    }

    /// What to do instead of merging into quantised weights, as an imperative sentence without a
    /// full stop.
    pub fn way_out(&self) -> String {
        let original = match &self.original {
            Some(name) => {
                format!("the unquantised model that it was made from (its config names {name})")
            }
            None => "the unquantised model that it was made from".into(),
        };
        format!("merge into {original}, and quantise the result again")
    }
}

impl fmt::Display for Quantisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.method)
    }
}

/// What a model's tensors and its config show of its quantisation, found once.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// The names of weights that the model holds under other names only, with the tensor that holds
    /// each: `layer.weight`, `layer.qweight`.
    stored: BTreeMap<String, String>,
    /// The method that the config names.
    method: Option<String>,
}

/// Endings of the tensors that hold a weight of another name, and the ending of that name.
const PACKED: [(&str, &str); 13] = [
    (".qweight", ".weight"),
    (".weight_packed", ".weight"),
    (".W_q", ".weight"),
    (".codes", ".weight"),
    (".q_weight", ".weight"),
    (".trellis", ".weight"),
    (".Qidxs", ".weight"),
    (".dense_weights", ".weight"),
    (".weight._data", ".weight"),
    (".weight:_data", ".weight"),
    ("._weight_qdata", ".weight"),
    (".weight_q", ".weight"),
    ("_blocks", ""),
];

impl BaseModel {
    /// How the model is quantised, by its config, else by its tensors; `None` if neither shows it.
    /// Some of its weights may still be unquantised; see [`BaseModel::quantised`].
    pub fn quantisation(&self) -> Option<Quantisation> {
        let method = self.packed().method.clone().or_else(|| {
            let mut stored = self.packed().stored.keys().map(String::as_str);
            stored
                .next()
                .map(|weight| self.by_tensors(weight))
                .or_else(|| {
                    let small = |name: &&str| {
                        let (_, tensor) = self.tensor(name)?;
                        (is_weight(name) && is_quantised(&tensor)).then_some(())
                    };
                    let weight = self.names().find(|name| small(name).is_some())?;
                    Some(self.by_tensors(weight))
                })
        })?;
        Some(self.named(method))
    }

    /// How the weight `name` (`model.layers.0.q_proj.weight`) is quantised: it isn't of a type of
    /// floating-point numbers, or the model holds it under another name only
    /// ([`BaseModel::quantised_weights`]). `None` if it isn't quantised, or isn't in the model.
    pub fn quantised(&self, name: &str) -> Option<Quantisation> {
        let is_stored = self.packed().stored.contains_key(name);
        let is_small = || {
            self.tensor(name)
                .is_some_and(|(_, tensor)| is_quantised(&tensor))
        };
        let method = &self.packed().method;
        // Methods whose tensors aren't known here store a weight under other names, too.
        let is_stored_somehow = || method.is_some() && self.is_hidden(name);
        if !is_stored && !is_small() && !is_stored_somehow() {
            return None;
        }
        let method = { method.clone() }.unwrap_or_else(|| self.by_tensors(name));
        Some(self.named(method))
    }

    /// Whether the model lacks the weight `name`, and its module has tensors that are no bias.
    fn is_hidden(&self, name: &str) -> bool {
        let Some(path) = name
            .strip_suffix("weight")
            .filter(|path| path.ends_with('.'))
        else {
            return false;
        };
        let names = self.homes.range(path.to_owned()..).map(|(name, _)| name);
        let mut own = names
            .map_while(|name| name.strip_prefix(path))
            .filter(|name| *name != "bias" && !name.contains('.'));
        !self.has(name) && own.next().is_some()
    }

    /// The first quantised weight of the modules in the module `path`, and how it is quantised.
    pub fn quantised_below(&self, path: &str) -> Option<(String, Quantisation)> {
        let front = format!("{path}.");
        let begins = |name: &&String| name.starts_with(&front);
        let own = self.homes.range(front.clone()..).map(|(name, _)| name);
        let stored = self.packed().stored.range(front.clone()..);
        let stored = stored.map(|(name, _)| name).take_while(begins);
        let mut names = stored.chain(own.take_while(begins).filter(|name| is_weight(name)));
        names.find_map(|name| Some((name.clone(), self.quantised(name)?)))
    }

    /// The names of the weights that the model holds under other names only, sorted, each with the
    /// tensor that holds it: (`layer.weight`, `layer.qweight`). An adapter's module can be found by
    /// them, though nothing can be added to it.
    pub fn quantised_weights(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let stored = self.packed().stored.iter();
        stored.map(|(name, tensor)| (name.as_str(), tensor.as_str()))
    }

    fn packed(&self) -> &Packed {
        self.packed.get_or_init(|| {
            let mut packed = Packed {
                method: self.config().and_then(by_config),
                ..Packed::default()
            };
            for name in self.names() {
                for (ending, weights) in PACKED {
                    let Some(path) = name.strip_suffix(ending) else {
                        continue;
                    };
                    let weight = format!("{path}{weights}");
                    // MXFP4's blocks have scales beside them; a list of blocks has not.
                    let alone = ending == "_blocks" && !self.has(&format!("{path}_scales"));
                    if !path.is_empty() && !alone && !self.has(&weight) {
                        packed.stored.insert(weight, name.to_owned());
                    }
                }
            }
            packed
        })
    }

    fn has(&self, name: &str) -> bool {
        self.homes.contains_key(name)
    }

    fn named(&self, method: String) -> Quantisation {
        Quantisation {
            method,
            original: self.config().and_then(original),
        }
    }

    /// The method that the tensors of the quantised weight `name` show.
    fn by_tensors(&self, name: &str) -> String {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let of = |ending: &str| {
            self.tensor(&format!("{path}{ending}"))
                .map(|(_, tensor)| tensor)
        };
        let has = |ending: &str| of(ending).is_some();
        let columns =
            |tensor: Option<Tensor<'_>>| tensor.and_then(|tensor| tensor.shape.get(1).copied());
        let stored = self.packed().stored.get(name);
        let ending = stored
            .and_then(|stored| stored.strip_prefix(path))
            .unwrap_or("");
        let method = match ending {
            ".qweight" if has(".wscales") => "SVDQuant",
            ".qweight" if has(".weight_scales") => "EETQ (8 bit)",
            ".qweight" if has(".g_idx") => "GPTQ",
            // GPTQ packs rows, AWQ columns.
            ".qweight" if has(".scales") => match columns(of(".qweight")) == columns(of(".scales"))
            {
                true => "GPTQ",
                false => "AWQ",
            },
            ".qweight" => "GPTQ or AWQ",
            ".weight_packed" => "compressed-tensors",
            ".W_q" => "HQQ",
            ".codes" => "AQLM",
            ".q_weight" => "ExLlamaV2",
            ".trellis" => "ExLlamaV3",
            ".Qidxs" => "QuIP#",
            ".dense_weights" => "SpQR",
            ".weight._data" => "Quanto",
            ".weight:_data" | "._weight_qdata" => "torchao",
            "_blocks" => "MXFP4",
            _ => "",
        };
        if !method.is_empty() {
            return method.into();
        }
        let Some((_, tensor)) = self.tensor(name) else {
            return "a method that isn't known".into();
        };
        let is_fp8 = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
        let below = format!("{name}.quant_state");
        let mut states = self.homes.range(below.clone()..).take(1);
        let has_state = states.any(|(name, _)| name.starts_with(&below));
        match tensor.dtype {
            Dtype::U8 if has_state || has(".weight.absmax") => "bitsandbytes (4 bit)".into(),
            Dtype::I8 if has(".SCB") || has(".weight.SCB") => "bitsandbytes (8 bit)".into(),
            Dtype::I8 if has(".weight_scales") => "EETQ (8 bit)".into(),
            Dtype::I8 if has(".weight_scale") => "compressed-tensors (8 bit)".into(),
            Dtype::U8 if has(".weight_scale_2") => "NVFP4".into(),
            Dtype::U8 if has(".weight_scale") => "BitNet".into(),
            Dtype::U32 | Dtype::I32 if has(".scales") => "MLX".into(),
            _ if is_fp8 && has(".weight_scale_inv") => "FP8 (blocks with weight_scale_inv)".into(),
            _ if is_fp8 => "FP8".into(),
            other => format!("a method that isn't known ({other:?})"),
        }
    }
}

fn is_weight(name: &str) -> bool {
    name.ends_with(".weight")
}

/// Whether a weight of this type is quantised: no training is done in it.
fn is_quantised(tensor: &Tensor<'_>) -> bool {
    !matches!(
        tensor.dtype,
        Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64
    )
}

/// The part of a config that describes how the model is quantised.
fn described(config: &Value) -> Option<&Value> {
    let fields = [
        "quantization_config",
        "compression_config",
        "quantization",
        "quantize_config",
    ];
    let mut parts = fields.iter().filter_map(|field| config.get(field));
    parts.find(|value| value.is_object())
}

/// The method that a config names.
fn by_config(config: &Value) -> Option<String> {
    let parts = ["text_config", "llm_config", "language_config"];
    let found =
        described(config).or_else(|| parts.iter().find_map(|part| described(config.get(part)?)))?;
    let text = |field: &str| found.get(field).and_then(Value::as_str).map(shown);
    let method = text("quant_method")
        .or_else(|| text("quant_algo"))
        .or_else(|| text("qformat_weight"))
        .unwrap_or_default();
    let is_set = |field: &str| found.get(field).and_then(Value::as_bool) == Some(true);
    let bits = ["bits", "w_bit", "nbits"]
        .iter()
        .find_map(|field| found.get(field)?.as_u64())
        .or(is_set("load_in_4bit").then_some(4))
        .or(is_set("load_in_8bit").then_some(8));
    let name = match method.to_ascii_lowercase().as_str() {
        "" if found.get("group_size").is_some() => "MLX".to_owned(),
        "" if bits.is_some() && found.get("llm_int8_threshold").is_some() => "bitsandbytes".into(),
        "" => "a method that its config doesn't name".into(),
        "bitsandbytes" | "bitsandbytes_4bit" | "bitsandbytes_8bit" => "bitsandbytes".into(),
        "gptq" => "GPTQ".into(),
        "awq" => "AWQ".into(),
        "fp8" | "fp8_e4m3" | "fbgemm_fp8" => "FP8".into(),
        "mxfp4" => "MXFP4".into(),
        "nvfp4" => "NVFP4".into(),
        "hqq" => "HQQ".into(),
        "eetq" => "EETQ".into(),
        "aqlm" => "AQLM".into(),
        "quanto" => "Quanto".into(),
        "vptq" => "VPTQ".into(),
        "spqr" => "SpQR".into(),
        "higgs" => "HIGGS".into(),
        "bitnet" => "BitNet".into(),
        "compressed-tensors" | "compressed_tensors" => match text("format") {
            Some(format) => format!("compressed-tensors ({format})"),
            None => "compressed-tensors".into(),
        },
        _ => method,
    };
    Some(match bits {
        Some(bits) => format!("{name} ({bits} bit)"),
        None => name,
    })
}

/// The name of the model that a quantised one was made from.
fn original(config: &Value) -> Option<String> {
    let named = ["_name_or_path", "base_model", "original_model"];
    let name = named.iter().find_map(|field| config.get(field)?.as_str())?;
    let is_on_hub = name.split('/').count() == 2
        && name.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        });
    // A quantised model may name itself.
    let marks = [
        "gptq", "awq", "bnb", "4bit", "8bit", "fp8", "int4", "int8", "quant", "gguf", "mlx",
    ];
    let lower = name.to_ascii_lowercase();
    (is_on_hub && !marks.iter().any(|mark| lower.contains(mark))).then(|| shown(name))
}
