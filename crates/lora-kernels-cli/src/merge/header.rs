//! Headers of the files that are written.

use std::collections::BTreeMap;

use lora_kernels_adapters::{Dtype, TensorFile};
use serde_json::{Value, json};

use crate::failure::Failure;

/// A tensor of a file that is written.
pub struct Entry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: usize,
}

/// The header of a file with the tensors of `file`, in their order and with these sizes, and then
/// `added`. The text stays as it was as far as it says the same: `None` if it is the file's.
pub fn of(
    file: &TensorFile,
    kept: &[Entry<'_>],
    added: &[Entry<'_>],
) -> Result<Option<Vec<u8>>, Failure> {
    let is_same = { kept.iter().zip(file.in_file_order()) }
        .all(|(entry, (tensor, _))| entry.shape == tensor.shape && entry.dtype == tensor.dtype);
    let mut end = 0;
    let mut text = match is_same {
        true if added.is_empty() => return Ok(None),
        true => {
            end = file.bytes() - file.header_bytes();
            reopened(&file.read_header()?[8..])
        }
        false if file.metadata().is_empty() => "{".into(),
        false => {
            let metadata: BTreeMap<&str, &str> = file.metadata().iter().collect();
            format!("{{\"__metadata__\":{}", json!(metadata))
        }
    };
    let rewritten = if is_same { &[] } else { kept };
    for Entry {
        name,
        dtype,
        shape,
        bytes,
    } in rewritten.iter().chain(added)
    {
        let begin = end;
        end += bytes;
        if !text.trim_end().ends_with('{') {
            text.push(',');
        }
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        text.push_str(&format!("{}:{entry}", Value::from(*name)));
    }
    text.push('}');
    // safetensors pads the header so that the tensors begin at a multiple of 8 bytes.
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let length = (text.len() as u64).to_le_bytes();
    Ok(Some([&length[..], text.as_bytes()].concat()))
}

/// The text of a JSON object without its last brace.
fn reopened(header: &[u8]) -> String {
    let text = String::from_utf8_lossy(header);
    let text = text.trim_end();
    text.strip_suffix('}').unwrap_or(text).to_owned()
}
