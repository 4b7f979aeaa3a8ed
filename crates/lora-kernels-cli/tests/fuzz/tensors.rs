//! Tensors, and safetensors files of them.

use lora_kernels_fuzz::Random;

/// A tensor as a file has it.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
    /// Whether the values are around 1.
    pub ordinary: bool,
}

/// The element types that weights and adapters have.
pub const FLOATS: [&str; 4] = ["F32", "BF16", "F16", "F64"];

pub fn size(dtype: &str) -> usize {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" => 2,
        _ => 1,
    }
}

impl Tensor {
    /// With values around 1, or zeros, or, rarely, with any bits.
    pub fn new(random: &mut Random, name: String, dtype: &'static str, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        let kind = random.below(40);
        let mut data = Vec::with_capacity(count * size(dtype));
        for _ in 0..count {
            let bits = random.bits();
            let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
            let value = sign * (0.03 + (bits >> 40) as f32 / (1 << 24) as f32);
            match (kind, dtype) {
                (0, _) => data.extend(std::iter::repeat_n(0, size(dtype))),
                (1, _) => data.extend_from_slice(&bits.to_le_bytes()[..size(dtype)]),
                (_, "F64") => data.extend(f64::from(value).to_le_bytes()),
                (_, "F32") => data.extend(value.to_le_bytes()),
                (_, "BF16") => data.extend_from_slice(&value.to_le_bytes()[2..]),
                (_, "F16") => {
                    // Exponents of 2^-5 to 2^0.
                    let exponent = (10 + (bits >> 8) % 6) << 10;
                    let half = (bits & 1) << 15 | exponent | (bits >> 16) & 0x3ff;
                    data.extend((half as u16).to_le_bytes());
                }
                _ => data.extend_from_slice(&(bits % 7).to_le_bytes()[..size(dtype)]),
            }
        }
        Self {
            name,
            dtype,
            shape: shape.to_vec(),
            data,
            ordinary: kind > 1,
        }
    }

    /// A scalar, as `.alpha` tensors are.
    pub fn scalar(name: String, value: f32) -> Self {
        Self {
            name,
            dtype: "F32",
            shape: Vec::new(),
            data: value.to_le_bytes().to_vec(),
            ordinary: true,
        }
    }
}

/// A safetensors file. Names may occur twice, as they do in damaged files.
pub fn file(tensors: &[Tensor], metadata: &[(&str, String)]) -> Vec<u8> {
    let mut header = String::from("{");
    if !metadata.is_empty() {
        let entries: Vec<String> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
            .collect();
        header += &format!("\"__metadata__\":{{{}}},", entries.join(","));
    }
    let mut at = 0;
    let mut data = Vec::new();
    for tensor in tensors {
        let end = at + tensor.data.len();
        header += &format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{at},{end}]}},",
            quoted(&tensor.name),
            tensor.dtype,
            tensor.shape
        );
        data.extend_from_slice(&tensor.data);
        at = end;
    }
    if header.ends_with(',') {
        header.pop();
    }
    header.push('}');
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &data,
    ]
    .concat()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
