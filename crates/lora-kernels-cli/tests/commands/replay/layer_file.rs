//! A small recorded layer that tests can modify.

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

use super::{IN, OUT, RANK, TOKENS};

/// Builds a safetensors file.
#[derive(Clone)]
pub struct LayerFile {
    tensors: Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>,
    pub metadata: HashMap<String, String>,
}

impl LayerFile {
    /// A small layer with every tensor except recorded results.
    pub fn good() -> Self {
        let metadata = HashMap::from([("scaling".to_owned(), "1.5".to_owned())]);
        Self {
            tensors: Vec::new(),
            metadata,
        }
        .with("x", &[TOKENS, IN])
        .with("weight", &[OUT, IN])
        .with("bias", &[OUT])
        .with("lora_A", &[RANK, IN])
        .with("lora_B", &[OUT, RANK])
        .with("dy", &[TOKENS, OUT])
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(other, ..)| *other != name);
        self
    }

    /// Sets a tensor with this shape, filled with numbers of its own.
    pub fn with(self, name: &'static str, shape: &[usize]) -> Self {
        let seed = name.bytes().map(usize::from).sum::<usize>();
        let numbers = |i| ((i * 7919 + seed * 977) % 2003) as f32 / 1001.0 - 1.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(numbers).collect();
        self.with_values(name, shape, &values)
    }

    pub fn with_values(self, name: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.with_bytes(name, Dtype::F32, shape, bytes)
    }

    pub fn with_bytes(
        self,
        name: &'static str,
        dtype: Dtype,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Self {
        let mut case = self.without(name);
        case.tensors.push((name, dtype, shape.to_vec(), bytes));
        case
    }

    /// Replaces the first element of a tensor.
    pub fn with_first(self, name: &'static str, value: f32) -> Self {
        let (_, _, shape, mut bytes) = self
            .tensors
            .iter()
            .find(|(other, ..)| *other == name)
            .unwrap()
            .clone();
        bytes[..4].copy_from_slice(&value.to_le_bytes());
        self.with_bytes(name, Dtype::F32, &shape, bytes)
    }

    /// Multiplies a tensor by a power of two.
    pub fn times(mut self, name: &str, factor: f32) -> Self {
        let (.., bytes) = self
            .tensors
            .iter_mut()
            .find(|(other, ..)| *other == name)
            .unwrap();
        for value in bytes.chunks_exact_mut(4) {
            let product = factor * f32::from_le_bytes(value.try_into().unwrap());
            value.copy_from_slice(&product.to_le_bytes());
        }
        self
    }

    pub fn with_scaling(mut self, scaling: &str) -> Self {
        self.metadata
            .insert("scaling".to_owned(), scaling.to_owned());
        self
    }

    /// Converts all tensors from f32.
    pub fn converted(mut self, to: Dtype) -> Self {
        for (_, dtype, _, bytes) in &mut self.tensors {
            *dtype = to;
            let values = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            *bytes = values
                .flat_map(|value| match to {
                    Dtype::BF16 => bf16::from_f32(value).to_le_bytes(),
                    _ => f16::from_f32(value).to_le_bytes(),
                })
                .collect();
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let view = |(name, dtype, shape, bytes): &'_ (&'static str, Dtype, Vec<usize>, Vec<u8>)| {
            (*name, *dtype, shape.clone(), bytes.clone())
        };
        let tensors: Vec<_> = self.tensors.iter().map(view).collect();
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (
                *name,
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }
}
