//! A sharded model's index, which follows the changes of the tensors.

use lora_kernels_adapters::base::LARGEST_INDEX;
use lora_kernels_adapters::{BaseModel, Tensor};
use serde_json::{Value, json};

use super::edit::Document;
use super::source::Source;
use crate::failure::Failure;
use crate::merge::change::Changes;

/// The index's text with the added tensors, in the last shard, and with the model's new size.
/// `None` if it stays as it is.
pub fn edited(
    index: &Source,
    base: &BaseModel,
    changes: &Changes<'_>,
) -> Result<Option<String>, Failure> {
    // (elements, bytes) that the result has more or fewer than the base.
    let mut more = (0, 0);
    let mut count = |sign: i128, of: Tensor<'_>, shape: &[usize]| {
        let elements = shape.iter().product::<usize>() as i128;
        more.0 += sign * elements;
        more.1 += sign * elements * of.dtype.bitsize() as i128 / 8;
    };
    for added in &changes.added {
        count(
            1,
            added.from,
            added
                .change
                .replaced
                .map_or(added.from.shape, |new| new.shape),
        );
    }
    for tensors in changes.tensors.values() {
        for (&name, change) in tensors {
            if let (Some(new), Some((_, old))) = (change.replaced, base.tensor(name)) {
                count(1, old, new.shape);
                count(-1, old, old.shape);
            }
        }
    }
    if changes.added.is_empty() && more == (0, 0) {
        return Ok(None);
    }
    let mut document = Document::read(index, LARGEST_INDEX)?;
    let resize = |document: &mut Document, field: &str, more: i128| {
        let field = ["metadata", field];
        // Some tools write it as 1.5e10.
        let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as u64);
        let before = document
            .get(&field)
            .and_then(|value| value.as_u64().or_else(|| whole(value.as_f64()?)));
        if let Some(after) = before.and_then(|before| u64::try_from(i128::from(before) + more).ok())
        {
            document.set(&field, &json!(after));
        }
    };
    resize(&mut document, "total_parameters", more.0);
    resize(&mut document, "total_size", more.1);
    if let (false, Some(last)) = (changes.added.is_empty(), base.shards().last()) {
        let entries = { changes.added.iter() }
            .map(|added| (added.name.as_str(), Value::from(last.name.as_str())));
        if !document.append(&["weight_map"], entries) {
            return Err(Failure::Refused(format!(
                "can't change {}: it has no weight_map",
                index.path.display()
            )));
        }
    }
    Ok(Some(document.into_text()))
}
