//! Remarks on adapters that change nothing, or that are given twice.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lora_kernels_adapters::{Dtype, Module, Tensor, TensorFile};

use super::{Finder, Selected, Source};
use crate::failure::Failure;
use crate::merge::numbers::{all_chunks, is_float};
use crate::show::few;
use crate::steps::step;

impl<'a> Finder<'a, '_> {
    /// Warns of an adapter that changes nothing, or whose modules change nothing in part.
    pub(super) fn remark_on(&mut self, source: &Source<'a, '_>) -> Result<(), Failure> {
        let selected = source.selected;
        let (mut dead, mut which) = (Vec::new(), None);
        for module in &selected.modules {
            if let Some(matrix) = useless(module)? {
                dead.push(module.path);
                which = which.or(Some(matrix));
            }
        }
        let path = selected.path.display();
        let which = which.unwrap_or("lora_B");
        let all = dead.len() == selected.modules.len();
        if all && !self.effects.contains(&source.number) {
            let reason = match (dead.is_empty(), selected.saved.is_empty()) {
                (false, _) => format!(
                    "{which} is all zeros in every module: it was never trained, or lost in saving"
                ),
                (true, _) => "what it has whole is what the base has".to_owned(),
            };
            self.warn(format!("{path} changes nothing: {reason}"));
        } else if !dead.is_empty() {
            self.warn(format!(
                "{} of {} modules of {path} change nothing, because their {which} is all zeros: {}",
                dead.len(),
                selected.modules.len(),
                few(dead)
            ));
        }
        Ok(())
    }
}

/// The name of the matrix that makes a module change nothing.
fn useless(module: &Module<'_>) -> Result<Option<&'static str>, Failure> {
    if module.magnitude.is_some() {
        return Ok(None);
    }
    if let Some(bias) = &module.bias
        && !is_zero(bias)?
    {
        return Ok(None);
    }
    Ok(match () {
        () if is_zero(&module.b)? => Some("lora_B"),
        () if is_zero(&module.a)? => Some("lora_A"),
        () => None,
    })
}

/// Whether all elements of a float tensor are 0 or -0.
fn is_zero(tensor: &Tensor<'_>) -> Result<bool, Failure> {
    let size = match tensor.dtype {
        Dtype::F16 | Dtype::BF16 => 2,
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        _ => return Ok(false),
    };
    // The sign is the highest bit of the last byte.
    let zero = |element: &[u8]| match element {
        [rest @ .., last] => last & 0x7f == 0 && rest.iter().all(|&byte| byte == 0),
        [] => true,
    };
    Ok(is_float(tensor.dtype) && all_chunks(tensor, |chunk| chunk.chunks_exact(size).all(zero))?)
}

/// Warns of adapters that are given more than once.
pub fn twice(sources: &[Source<'_, '_>], warnings: &mut Vec<String>) -> Result<(), Failure> {
    // Adapters of one model are alike in their tensors' sizes, so a little of the contents keeps
    // each from being compared with all others.
    let mut distinct: HashMap<u64, Vec<&Selected<'_>>> = HashMap::new();
    for source in sources {
        let selected = source.selected;
        let alike = distinct.entry(fingerprint(selected)?).or_default();
        let mut earlier = None;
        for other in alike.iter().copied() {
            step();
            if same(other, selected)? {
                earlier = Some(other);
                break;
            }
        }
        let Some(earlier) = earlier else {
            alike.push(selected);
            continue;
        };
        let (first, second) = (earlier.path.display(), selected.path.display());
        warnings.push(match earlier.path == selected.path {
            true => format!("{first} is given more than once: its change is added each time"),
            false => {
                format!("{first} and {second} are the same adapter: its change is added each time")
            }
        });
    }
    Ok(())
}

/// A number that is the same for adapters that [`same`] takes for one.
fn fingerprint(selected: &Selected<'_>) -> Result<u64, Failure> {
    /// Of each tensor, in bytes.
    const LOOKED_AT: usize = 16;
    let file = selected.adapter.file();
    let mut hasher = DefaultHasher::new();
    (file.bytes(), file.tensors().len(), selected.modules.len()).hash(&mut hasher);
    for module in &selected.modules {
        (module.path, module.scaling.to_bits()).hash(&mut hasher);
        for tensor in [module.a, module.b] {
            let bytes = tensor.bytes().min(LOOKED_AT);
            tensor.read_range(0..bytes)?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// Whether two adapters have the same tensors and scalings.
fn same(a: &Selected<'_>, b: &Selected<'_>) -> Result<bool, Failure> {
    let ours = a.modules.iter().map(|module| (module.path, module.scaling));
    let theirs = b.modules.iter().map(|module| (module.path, module.scaling));
    Ok(ours.eq(theirs) && same_content(a.adapter.file(), b.adapter.file())?)
}

fn same_content(a: &TensorFile, b: &TensorFile) -> Result<bool, Failure> {
    let place = |file: &TensorFile| file.path().canonicalize().ok();
    if place(a).is_some() && place(a) == place(b) {
        return Ok(true);
    }
    if a.bytes() != b.bytes() || a.tensors().len() != b.tensors().len() {
        return Ok(false);
    }
    for (a, b) in a.tensors().zip(b.tensors()) {
        if (a.name, a.dtype, a.shape) != (b.name, b.dtype, b.shape) || !a.has_bytes_of(&b)? {
            return Ok(false);
        }
    }
    Ok(true)
}
