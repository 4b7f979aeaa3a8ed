//! Small files made for a test.

use std::path::Path;

use serde_json::{Value, json};

/// Builds a safetensors file: name, type and shape of each tensor. Every tensor holds other
/// numbers, unless it is given some.
#[derive(Clone, Default)]
pub struct Tensors {
    tensors: Vec<Made>,
    metadata: Option<Value>,
}

#[derive(Clone)]
struct Made {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    data: Option<Vec<u8>>,
}

impl Tensors {
    pub fn with(self, name: &str, shape: &[usize]) -> Self {
        self.typed(name, "F32", shape)
    }

    pub fn typed(self, name: &str, dtype: &'static str, shape: &[usize]) -> Self {
        self.made(name, dtype, shape, None)
    }

    /// A tensor of one F32.
    pub fn number(self, name: &str, shape: &[usize], value: f32) -> Self {
        self.made(name, "F32", shape, Some(value.to_le_bytes().to_vec()))
    }

    fn made(self, name: &str, dtype: &'static str, shape: &[usize], data: Option<Vec<u8>>) -> Self {
        let mut made = self.without(name);
        made.tensors.push(Made {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            data,
        });
        made
    }

    /// A pair of matrices with rank 3 of a layer with 7 inputs and 5 outputs.
    pub fn pair(self, a: &str, b: &str) -> Self {
        self.with(a, &[3, 7]).with(b, &[5, 3])
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|other| other.name != name);
        self
    }

    /// Sets the header's `__metadata__`.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        if let Some(metadata) = &self.metadata {
            header.insert("__metadata__".into(), metadata.clone());
        }
        let mut data: Vec<u8> = Vec::new();
        for made in &self.tensors {
            let size = match made.dtype {
                "F64" | "I64" => 8,
                "F16" | "BF16" => 2,
                "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => 1,
                _ => 4,
            };
            let start = data.len();
            match &made.data {
                Some(bytes) => data.extend(bytes),
                None => {
                    let bytes = made.shape.iter().product::<usize>() * size;
                    data.extend((0..bytes).map(|i| (i * 37 % 61) as u8));
                }
            }
            let (dtype, shape) = (made.dtype, &made.shape);
            header.insert(
                made.name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
            );
        }
        file(&Value::from(header).to_string(), &data)
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// The bytes of a file with this header.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// Writes a PEFT folder.
pub fn peft(folder: &Path, config: &str, tensors: &[u8]) {
    std::fs::write(folder.join("adapter_config.json"), config).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), tensors).unwrap();
}

pub const CONFIG: &str =
    r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": ["q"]}"#;

/// The tensors of an adapter on one module.
pub fn one_module() -> Tensors {
    Tensors::default()
        .with("base_model.model.a.q.lora_A.weight", &[3, 7])
        .with("base_model.model.a.q.lora_B.weight", &[5, 3])
}
