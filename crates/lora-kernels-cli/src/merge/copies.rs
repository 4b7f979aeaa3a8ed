//! Tensors that lie in several shards of a model.

use lora_kernels_adapters::BaseModel;

use super::change::Changes;
use crate::failure::Failure;

/// Makes every change in each shard that holds the tensor with the same value, because readers
/// differ in which of the shards they take it from. A copy with another value stays, and is warned
/// of: the index names the tensor that counts.
pub fn change_all<'a>(base: &'a BaseModel, changes: &mut Changes<'a>) -> Result<(), Failure> {
    let mut more = Vec::new();
    for (shard, tensors) in &changes.tensors {
        for (&name, change) in tensors {
            for &copy in base.copies(name) {
                let counts = base.tensor(name).map(|(_, tensor)| tensor);
                let Some((other, counts)) = base
                    .shards()
                    .get(copy)
                    .and_then(|shard| shard.file.tensor(name))
                    .zip(counts)
                else {
                    continue;
                };
                let same = (other.dtype, other.shape) == (counts.dtype, counts.shape)
                    && other.has_bytes_of(&counts)?;
                if same {
                    more.push((copy, name, change.clone()));
                    continue;
                }
                let of = |at: usize| base.shards().get(at).map_or("", |shard| &shard.name);
                changes.remarks.warnings.push(format!(
                    "{name} lies in {} and, with another value, in {}, where it stays as it was: \
                     the index names the former, and some readers take the latter",
                    of(*shard),
                    of(copy)
                ));
            }
        }
    }
    for (shard, name, change) in more {
        let tensors = changes.tensors.entry(shard).or_default();
        tensors.insert(name, change);
    }
    Ok(())
}
