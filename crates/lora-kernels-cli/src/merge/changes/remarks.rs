//! Remarks on adapters that change nothing, or that are given twice.

use lora_kernels_adapters::{Dtype, MappedFile, Module, Tensor};

use super::{Finder, Selected, Source};
use crate::merge::numbers::{all_parts, is_float, same_bytes};
use crate::show::few;

impl<'a> Finder<'a, '_> {
    /// Warns of an adapter that changes nothing, or whose modules change nothing in part.
    pub(super) fn remark_on(&mut self, source: &Source<'a, '_>) {
        let selected = source.selected;
        let dead: Vec<&str> = { selected.modules.iter() }
            .filter_map(|module| useless(module).map(|_| module.path))
            .collect();
        let path = selected.path.display();
        let which = { selected.modules.iter() }
            .find_map(useless)
            .unwrap_or("lora_B");
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
    }
}

/// The name of the matrix that makes a module change nothing.
fn useless(module: &Module<'_>) -> Option<&'static str> {
    if module.magnitude.is_some() || module.bias.is_some_and(|bias| !is_zero(&bias)) {
        return None;
    }
    match () {
        () if is_zero(&module.b) => Some("lora_B"),
        () if is_zero(&module.a) => Some("lora_A"),
        () => None,
    }
}

/// Whether all elements of a float tensor are 0 or -0.
fn is_zero(tensor: &Tensor<'_>) -> bool {
    let size = match tensor.dtype {
        Dtype::F16 | Dtype::BF16 => 2,
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        _ => return false,
    };
    // The sign is the highest bit of the last byte.
    let zero = |element: &[u8]| match element {
        [rest @ .., last] => last & 0x7f == 0 && rest.iter().all(|&byte| byte == 0),
        [] => true,
    };
    is_float(tensor.dtype) && all_parts(tensor.data, |part| part.chunks_exact(size).all(zero))
}

/// Warns of adapters that are given more than once.
pub fn twice(sources: &[Source<'_, '_>], warnings: &mut Vec<String>) {
    for (at, source) in sources.iter().enumerate() {
        let earlier = { sources.iter().take(at) }.find(|e| same(e.selected, source.selected));
        if let Some(earlier) = earlier {
            let (first, second) = (
                earlier.selected.path.display(),
                source.selected.path.display(),
            );
            warnings.push(match earlier.selected.path == source.selected.path {
                true => format!("{first} is given more than once: its change is added each time"),
                false => format!(
                    "{first} and {second} are the same adapter: its change is added each time"
                ),
            });
        }
    }
}

/// Whether two adapters have the same tensors and scalings.
fn same(a: &Selected<'_>, b: &Selected<'_>) -> bool {
    let scalings = |of: &Selected<'_>| -> Vec<(String, f32)> {
        let modules = of.modules.iter();
        modules
            .map(|module| (module.path.to_owned(), module.scaling))
            .collect()
    };
    scalings(a) == scalings(b) && same_content(a.adapter.file(), b.adapter.file())
}

fn same_content(a: &MappedFile, b: &MappedFile) -> bool {
    let place = |file: &MappedFile| file.path().canonicalize().ok();
    if place(a).is_some() && place(a) == place(b) {
        return true;
    }
    a.bytes() == b.bytes() && a.tensors().count() == b.tensors().count() && { a.tensors() }
        .zip(b.tensors())
        .all(|(a, b)| {
            (a.name, a.dtype, a.shape) == (b.name, b.dtype, b.shape) && same_bytes(a.data, b.data)
        })
}
