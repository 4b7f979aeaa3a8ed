//! The header of a safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::Result;
use crate::shown::shown;

/// The longest header that is read, in bytes: the format's limit.
const LONGEST: u64 = 100_000_000;
const LENGTH: usize = 8;
/// The first bytes of a file that tell its format.
const BEGIN: usize = 32;

pub(crate) struct Header {
    /// The offset of the tensors' bytes in the file.
    pub data: usize,
    pub metadata: BTreeMap<String, String>,
    pub tensors: Metadata,
}

impl Header {
    /// Reads the header of a file of this many bytes. `read` fills a buffer from an offset on. The
    /// inner error is a sentence that begins with "it" or "its".
    pub fn read(
        bytes: usize,
        read: impl Fn(&mut [u8], usize) -> Result<()>,
    ) -> Result<std::result::Result<Self, String>> {
        let mut begin = vec![0; bytes.min(BEGIN)];
        read(&mut begin, 0)?;
        let length = match length(&begin, bytes) {
            Ok(length) => length,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut text = vec![0; length];
        read(&mut text, LENGTH)?;
        Ok(Self::parsed(&text, bytes))
    }

    fn parsed(text: &[u8], bytes: usize) -> std::result::Result<Self, String> {
        let parsed: Parsed = serde_json::from_slice(text).map_err(|error| {
            format!(
                "its header is not the JSON it should be: {}",
                shown(&error.to_string())
            )
        })?;
        let mut tensors: Vec<_> = parsed.tensors.into_iter().collect();
        tensors.sort_by(|(name_a, a), (name_b, b)| {
            (a.data_offsets, name_a).cmp(&(b.data_offsets, name_b))
        });
        // `Metadata::new` checks every tensor except that the last one ends with the file.
        let tensors = Metadata::new(None, tensors).map_err(|error| reason(&error))?;
        let data = LENGTH + text.len();
        if tensors.data_len() != bytes - data {
            return Err(format!(
                "its tensors have {} bytes, but {} follow the header: it is truncated, or \
                 something was appended to it",
                tensors.data_len(),
                bytes - data
            ));
        }
        Ok(Self {
            data,
            metadata: parsed.metadata,
            tensors,
        })
    }
}

/// The length of the header in a file of `bytes` that begins so.
fn length(begin: &[u8], bytes: usize) -> std::result::Result<usize, String> {
    if let Some(what) = other_format(begin) {
        return Err(format!("it is {what}"));
    }
    let Some(length) = begin.first_chunk::<LENGTH>() else {
        return Err(format!(
            "it has {bytes} bytes, too few for the length of a header"
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return Err(format!(
            "its header claims {length} bytes, and {LONGEST} are the most; an older .bin or .pt \
             file looks like that, too"
        ));
    }
    match usize::try_from(length) {
        Ok(length) if length <= bytes - LENGTH => Ok(length),
        _ => Err(format!(
            "it has {bytes} bytes and its header claims {length}: it is truncated, or no \
             safetensors file"
        )),
    }
}

/// What a file is that people take for safetensors, by its first bytes.
fn other_format(file: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 5] = [
        (
            b"version https://git-lfs",
            "a pointer of Git LFS, without the file's content: run git lfs pull in its folder",
        ),
        (
            b"GGUF",
            "a GGUF file, llama.cpp's, whose weights are mostly quantised and have other names: \
             merge into the safetensors model that it was made from, and convert the result",
        ),
        (
            b"PK\x03\x04",
            "a ZIP archive, like any .bin or .pt file: those hold pickles, which can run code and \
             are not read; load it with the program that wrote it, and save it as safetensors",
        ),
        (b"<!DOCTYPE", "a web page: the download failed"),
        (b"<html", "a web page: the download failed"),
    ];
    let mut known = KNOWN.iter();
    known.find_map(|(begins, what)| file.starts_with(begins).then_some(*what))
}

#[derive(Default)]
struct Parsed {
    metadata: BTreeMap<String, String>,
    tensors: HashMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Parsed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> std::result::Result<Parsed, A::Error> {
                let mut parsed = Parsed::default();
                while let Some(name) = entries.next_key::<String>()? {
                    if name == "__metadata__" {
                        parsed.metadata = entries.next_value::<Option<_>>()?.unwrap_or_default();
                    } else if let Some((twice, _)) = parsed.tensors.remove_entry(&name) {
                        return Err(A::Error::custom(format!(
                            "tensor {} stands there twice",
                            shown(&twice)
                        )));
                    } else {
                        parsed.tensors.insert(name, entries.next_value()?);
                    }
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn reason(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::InvalidOffset(name) => format!(
            "the bytes of tensor {} don't begin where another tensor's end: offsets overlap or \
             leave gaps",
            shown(name)
        ),
        SafeTensorError::TensorInvalidInfo => {
            "a tensor has more or fewer bytes than its type and shape say".into()
        }
        SafeTensorError::ValidationOverflow => {
            "a tensor's dimensions multiply to more than 64 bits hold".into()
        }
        SafeTensorError::MisalignedSlice => {
            "a tensor of less than a byte per element doesn't fill its last byte".into()
        }
        other => shown(&other.to_string()),
    }
}
