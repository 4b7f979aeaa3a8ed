//! Headers of the files that are written.

use std::borrow::Cow;

use lora_kernels_adapters::{Dtype, MappedFile};
use serde_json::{Value, json};

/// A tensor of a file that is written.
pub struct Entry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: usize,
}

/// The header of a file with the tensors of `file`, in their order and with these sizes, and then
/// `added`. The text stays as it was as far as it says the same.
pub fn of<'a>(file: &'a MappedFile, kept: &[Entry<'_>], added: &[Entry<'_>]) -> Cow<'a, [u8]> {
    let was = file.in_file_order();
    let same = |(entry, (tensor, _)): (&Entry<'_>, &(lora_kernels_adapters::Tensor<'_>, _))| {
        entry.shape == tensor.shape && entry.dtype == tensor.dtype
    };
    let is_same = kept.iter().zip(&was).all(same);
    let mut end = 0;
    let mut text = match is_same {
        true if added.is_empty() => return Cow::Borrowed(file.header()),
        true => {
            end = file.bytes() - file.header().len();
            reopened(&file.header()[8..])
        }
        false if file.metadata().is_empty() => "{".into(),
        false => format!("{{\"__metadata__\":{}", json!(file.metadata())),
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
    Cow::Owned([&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat())
}

/// The text of a JSON object without its last brace.
fn reopened(header: &[u8]) -> String {
    let text = String::from_utf8_lossy(header);
    let text = text.trim_end();
    text.strip_suffix('}').unwrap_or(text).to_owned()
}
