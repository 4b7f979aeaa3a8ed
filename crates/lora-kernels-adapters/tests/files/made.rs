//! Small files made for a test.

use std::path::Path;

use serde_json::{Value, json};

/// Builds a safetensors file: name, type and shape of each tensor. Every tensor holds other
/// numbers.
#[derive(Clone, Default)]
pub struct Tensors(Vec<(String, &'static str, Vec<usize>)>);

impl Tensors {
    pub fn with(self, name: &str, shape: &[usize]) -> Self {
        self.typed(name, "F32", shape)
    }

    pub fn typed(mut self, name: &str, dtype: &'static str, shape: &[usize]) -> Self {
        self.0.retain(|(other, ..)| other != name);
        self.0.push((name.into(), dtype, shape.to_vec()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, ..)| other != name);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, dtype, shape) in &self.0 {
            let size = match *dtype {
                "F64" | "I64" => 8,
                "F16" | "BF16" => 2,
                "I8" | "U8" | "F8_E4M3" | "F8_E5M2" => 1,
                _ => 4,
            };
            let start = data.len();
            data.extend((0..shape.iter().product::<usize>() * size).map(|i| (i * 37 % 61) as u8));
            header.insert(
                name.clone(),
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
