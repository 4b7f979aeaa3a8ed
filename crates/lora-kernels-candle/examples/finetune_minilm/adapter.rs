//! The trained adapter: from PEFT's files to variables and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use lora_kernels::reference::relative_error;
use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{Adapter, DType, PeftConfig, PeftWriter, ReadOptions};
use lora_kernels_candle::Lora;
use serde::Serialize;

use crate::Failure;

/// lora_A and lora_B of a module, in f32.
type Matrices = [Vec<f32>; 2];

pub struct Trained {
    config: PeftConfig,
    /// Keyed by path. The tensors are variables.
    modules: HashMap<String, Lora>,
    variables: Vec<Var>,
    initial: HashMap<String, Matrices>,
}

/// The difference between our trained adapter and PEFT's.
#[derive(Debug, Serialize)]
pub struct Deviation {
    /// ‖ours − PEFT's‖ / ‖PEFT's‖ over all matrices together.
    relative_error: f64,
    /// The same ratio for the change that training made.
    pub relative_error_of_change: f64,
    largest_difference: f64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            relative_error,
            relative_error_of_change,
            largest_difference,
        } = self;
        write!(
            f,
            "the trained adapter differs from PEFT's by {relative_error:.1e} of its norm ({relative_error_of_change:.1e} of what training changed), no element by more than {largest_difference:.1e}"
        )
    }
}

impl Trained {
    pub fn read(folder: &Path, device: &Device) -> Result<Self, Failure> {
        let adapter = Adapter::read(folder, &ReadOptions::default())?;
        let config = adapter
            .config()
            .ok_or_else(|| Failure::file(folder, "there is no adapter_config.json"))?;
        let (mut modules, mut variables, mut initial) =
            (HashMap::new(), Vec::new(), HashMap::new());
        for module in adapter.modules() {
            let matrices = [&module.a, &module.b].map(|tensor| values(folder, tensor));
            let [a, b] = matrices;
            let matrices = [a?, b?];
            let mut variable = |values: &[f32], shape: &[usize]| {
                let variable = Var::from_tensor(&Tensor::from_slice(values, shape, device)?)?;
                variables.push(variable.clone());
                Ok::<_, candle_core::Error>(variable.into_inner())
            };
            let lora = Lora {
                a: variable(&matrices[0], module.a.shape)?,
                b: variable(&matrices[1], module.b.shape)?,
                scaling: module.scaling,
            };
            modules.insert(module.path.to_owned(), lora);
            initial.insert(module.path.to_owned(), matrices);
        }
        Ok(Self {
            config: config.clone(),
            modules,
            variables,
            initial,
        })
    }

    pub fn by_path(&self) -> &HashMap<String, Lora> {
        &self.modules
    }

    pub fn variables(&self) -> Vec<Var> {
        self.variables.clone()
    }

    /// Writes the adapter as PEFT saves it.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for (path, lora) in &self.modules {
            let little_endian = |tensor: &Tensor| -> Result<Vec<u8>, Failure> {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                Ok(values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect())
            };
            bytes.push((path, lora, little_endian(&lora.a)?, little_endian(&lora.b)?));
        }
        let mut writer = PeftWriter::new(self.config.clone());
        for (path, lora, a, b) in &bytes {
            let tensor = |shape, data| lora_kernels_adapters::Tensor::new(DType::F32, shape, data);
            writer.module(path, tensor(lora.a.dims(), a), tensor(lora.b.dims(), b))?;
        }
        Ok(writer.write(folder, Overwrite::Never)?)
    }

    /// Compares with an adapter that has the same modules and shapes.
    pub fn compare(&self, folder: &Path) -> Result<Deviation, Failure> {
        let adapter = Adapter::read(folder, &ReadOptions::default())?;
        let (mut ours, mut theirs, mut before) =
            (Vec::<f32>::new(), Vec::<f32>::new(), Vec::<f32>::new());
        let known: HashSet<&str> = adapter.modules().map(|module| module.path).collect();
        if let Some(path) = self
            .modules
            .keys()
            .find(|path| !known.contains(path.as_str()))
        {
            return Err(Failure::file(
                folder,
                format!("{path}, which was trained, is not there"),
            ));
        }
        for module in adapter.modules() {
            let (Some(lora), Some(initial)) =
                (self.modules.get(module.path), self.initial.get(module.path))
            else {
                return Err(Failure::file(
                    folder,
                    format!("{} was not trained here", module.path),
                ));
            };
            for ((tensor, recorded), initial) in [&lora.a, &lora.b]
                .into_iter()
                .zip([module.a, module.b])
                .zip(initial)
            {
                if tensor.dims() != recorded.shape {
                    let reason = format!(
                        "{} is {:?}, trained was {:?}",
                        recorded.name,
                        recorded.shape,
                        tensor.dims()
                    );
                    return Err(Failure::file(folder, reason));
                }
                ours.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
                theirs.extend(values(folder, &recorded)?);
                before.extend(initial);
            }
        }
        let change = |after: &[f32]| -> Vec<f32> {
            after
                .iter()
                .zip(&before)
                .map(|(after, before)| after - before)
                .collect()
        };
        let differences = ours
            .iter()
            .zip(&theirs)
            .map(|(ours, theirs)| f64::from((ours - theirs).abs()));
        Ok(Deviation {
            relative_error: relative_error(&ours, &theirs),
            relative_error_of_change: relative_error(&change(&ours), &change(&theirs)),
            largest_difference: differences.fold(0.0, f64::max),
        })
    }
}

fn values(folder: &Path, tensor: &lora_kernels_adapters::Tensor<'_>) -> Result<Vec<f32>, Failure> {
    if tensor.element_type() != Some(DType::F32) {
        return Err(Failure::file(folder, format!("{} is not F32", tensor.name)));
    }
    let bytes = tensor
        .read()
        .map_err(|error| Failure::file(folder, error))?;
    let elements = bytes.chunks_exact(4);
    Ok(elements
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/finetune_minilm/recorded")
            .join(name)
    }

    /// PEFT's trained adapter stands in for ours.
    #[test]
    fn what_is_written_is_read_again_as_the_same_adapter() -> Result<(), Failure> {
        let trained = Trained::read(&recorded("adapter_final"), &Device::Cpu)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let written = folder.path().join("adapter");
        trained.write(&written)?;
        let again = Trained::read(&written, &Device::Cpu)?;
        assert_eq!(again.initial, trained.initial);
        for (path, lora) in &trained.modules {
            assert_eq!(again.modules[path].scaling, lora.scaling, "{path}");
        }
        assert_eq!(
            again
                .compare(&recorded("adapter_final"))?
                .largest_difference,
            0.0
        );
        let change = Trained::read(&recorded("adapter_init"), &Device::Cpu)?.compare(&written)?;
        assert_eq!(change.relative_error_of_change, 1.0, "nothing was trained");
        Ok(())
    }

    #[test]
    fn adapters_of_other_modules_or_shapes_are_not_compared() -> Result<(), Failure> {
        let folder = recorded("adapter_final");
        let read = || Trained::read(&folder, &Device::Cpu);
        let path = "encoder.layer.0.output.dense";
        let refused =
            |trained: Trained| trained.compare(&folder).expect_err("a refusal").to_string();

        let mut fewer = read()?;
        fewer.modules.remove(path);
        assert!(refused(fewer).contains("was not trained here"));

        let mut more = read()?;
        more.modules
            .insert("another".to_owned(), more.modules[path].clone());
        assert!(refused(more).contains("another, which was trained, is not there"));

        let mut narrow = read()?;
        let lora = narrow.modules.get_mut(path).expect("a module");
        lora.a = lora.a.narrow(1, 0, 7)?;
        assert!(refused(narrow).contains("trained was [8, 7]"));
        Ok(())
    }
}
