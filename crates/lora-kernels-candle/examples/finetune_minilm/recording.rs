//! The recording of PEFT's run: batches, settings and losses.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::ParamsAdamW;
use serde::Deserialize;

use crate::Failure;

#[derive(Debug, Deserialize)]
struct Settings {
    optimizer: Optimizer,
    /// The loss before each step.
    losses: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Optimizer {
    name: String,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

pub struct Recording {
    pub losses: Vec<f64>,
    pub optimiser: ParamsAdamW,
    /// (steps, sequences, tokens), u32
    ids: Tensor,
    /// (steps, sequences, tokens), 1 where there is a token
    mask: Tensor,
}

impl Recording {
    pub fn read(folder: &Path, device: &Device) -> Result<Self, Failure> {
        let path = folder.join("finetune.json");
        let text = std::fs::read_to_string(&path).map_err(|error| Failure::file(&path, error))?;
        let Settings { optimizer, losses } =
            serde_json::from_str(&text).map_err(|error| Failure::file(&path, error))?;
        if optimizer.name != "AdamW" {
            return Err(Failure::file(
                &path,
                format!(
                    "the optimiser is {}, only AdamW is known here",
                    optimizer.name
                ),
            ));
        }
        let path = folder.join("batches.safetensors");
        let batches = candle_core::safetensors::load(&path, device)
            .map_err(|error| Failure::file(&path, error))?;
        let tensor = |name: &str, dtype| match batches.get(name) {
            Some(tensor) if tensor.rank() == 3 && tensor.dims()[0] >= losses.len() => {
                Ok(tensor.to_dtype(dtype)?)
            }
            Some(tensor) => Err(Failure::file(
                &path,
                format!("{name} is {:?} for {} steps", tensor.shape(), losses.len()),
            )),
            None => Err(Failure::file(&path, format!("there is no {name}"))),
        };
        Ok(Self {
            ids: tensor("input_ids", DType::U32)?,
            mask: tensor("attention_mask", DType::F32)?,
            optimiser: ParamsAdamW {
                lr: optimizer.lr,
                beta1: optimizer.betas[0],
                beta2: optimizer.betas[1],
                eps: optimizer.eps,
                weight_decay: optimizer.weight_decay,
            },
            losses,
        })
    }

    /// Ids and mask of a step, (sequences, tokens).
    pub fn batch(&self, step: usize) -> candle_core::Result<(Tensor, Tensor)> {
        Ok((self.ids.get(step)?, self.mask.get(step)?))
    }
}
