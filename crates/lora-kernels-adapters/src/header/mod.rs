//! The header of a safetensors file, in memory that is bounded by the header's size.

mod json;
mod table;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as Unknown;

use crate::shown::shown;
use crate::{Error, Result};
use json::{Fault, Json, Step};
use table::{Entry, Sizes, Take};
pub(crate) use table::{Found, Table};

/// The longest header that is read, in bytes: the format's limit.
const LONGEST: u64 = 100_000_000;
const LENGTH: usize = 8;
/// The first bytes of a file that tell its format.
const BEGIN: usize = 32;
const METADATA: &[u8] = b"__metadata__";

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    /// The offset of the tensors' bytes in the file.
    pub data: usize,
    pub table: Table,
}

impl Header {
    /// Reads the header of a file of this many bytes. `read` fills a buffer from an offset on. The
    /// inner error is a sentence that begins with "it" or "its".
    ///
    /// The header is read twice: first to count what the table needs, then to fill it. So no memory
    /// is grown step by step, and none is needed for the header's text.
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
        let json = || Json::new(&read, LENGTH..LENGTH + length);
        let table = (|| {
            let mut sizes = Sizes::default();
            tensors(&mut json(), &mut sizes)?;
            let mut table = Table::of(&sizes, length)?;
            tensors(&mut json(), &mut table)?;
            table.finish(bytes - LENGTH - length)
        })();
        match table {
            Ok(table) => Ok(Ok(Self {
                data: LENGTH + length,
                table,
            })),
            Err(Fault::Invalid(reason)) => Ok(Err(reason)),
            Err(Fault::Unread(error)) => Err(error),
        }
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

/// Reads a header's tensors and metadata.
fn tensors<R: Fn(&mut [u8], usize) -> Result<()>>(
    json: &mut Json<R>,
    take: &mut impl Take,
) -> Step<()> {
    let mut has_metadata = false;
    json.object(|json| {
        let mut name = Begin::default();
        json.string(|part| {
            name.push(part);
            take.name(part);
        })?;
        json.colon()?;
        if name.is(METADATA) {
            take.forget_name();
            if std::mem::replace(&mut has_metadata, true) {
                return json.wrong("__metadata__ stands there twice");
            }
            return metadata(json, take);
        }
        if !take.end_name() {
            return json.wrong("a name isn't UTF-8");
        }
        let entry = tensor(json, take)?;
        take.tensor(entry);
        Ok(())
    })?;
    json.finish()
}

fn metadata<R: Fn(&mut [u8], usize) -> Result<()>>(
    json: &mut Json<R>,
    take: &mut impl Take,
) -> Step<()> {
    if json.is_null()? {
        return Ok(());
    }
    json.object(|json| {
        json.string(|part| take.text(part))?;
        json.colon()?;
        let is_text = take.end_key();
        json.string(|part| take.text(part))?;
        match is_text && take.end_value() {
            true => Ok(()),
            false => json.wrong("a text of __metadata__ isn't UTF-8"),
        }
    })
}

/// Reads what a header says of one tensor.
fn tensor<R: Fn(&mut [u8], usize) -> Result<()>>(
    json: &mut Json<R>,
    take: &mut impl Take,
) -> Step<Entry> {
    let (mut dtype, mut rank, mut offsets) = (None, None, None);
    json.object(|json| {
        let mut field = Begin::default();
        json.string(|part| field.push(part))?;
        json.colon()?;
        let again = match () {
            () if field.is(b"dtype") => {
                let mut name = Begin::default();
                json.string(|part| name.push(part))?;
                match name.dtype() {
                    Ok(found) => dtype.replace(found).map(|_| "dtype"),
                    Err(error) => return json.wrong(error),
                }
            }
            () if field.is(b"shape") => {
                let mut count = 0usize;
                json.array(|json| {
                    count += 1;
                    take.dimension(json.number()?);
                    Ok(())
                })?;
                rank.replace(count).map(|_| "shape")
            }
            () if field.is(b"data_offsets") => {
                let (mut ends, mut count) = ([0; 2], 0);
                json.array(|json| {
                    let Some(end) = ends.get_mut(count) else {
                        return json.wrong("more than two data_offsets");
                    };
                    *end = json.number()?;
                    count += 1;
                    Ok(())
                })?;
                if count != 2 {
                    return json.wrong("fewer than two data_offsets");
                }
                offsets.replace(ends).map(|_| "data_offsets")
            }
            () => {
                json.skip()?;
                None
            }
        };
        match again {
            Some(field) => json.wrong(format_args!("duplicate field {field}")),
            None => Ok(()),
        }
    })?;
    match (dtype, rank, offsets) {
        (None, ..) => json.wrong("missing field dtype"),
        (_, None, _) => json.wrong("missing field shape"),
        (.., None) => json.wrong("missing field data_offsets"),
        (Some(dtype), Some(rank), Some([begin, end])) => Ok(Entry::new(dtype, rank, begin..end)),
    }
}

/// The begin of a string, which is enough to tell it from the known ones.
#[derive(Default)]
struct Begin {
    bytes: [u8; 16],
    /// Of the whole string.
    length: usize,
}

impl Begin {
    fn push(&mut self, part: &[u8]) {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        free.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        self.length += part.len();
    }

    fn is(&self, known: &[u8]) -> bool {
        self.length == known.len() && self.bytes.get(..self.length) == Some(known)
    }

    fn dtype(&self) -> std::result::Result<safetensors::Dtype, String> {
        let known = &self.bytes[..self.length.min(self.bytes.len())];
        let text = String::from_utf8_lossy(known);
        let found: std::result::Result<_, Unknown> =
            safetensors::Dtype::deserialize(text.as_ref().into_deserializer());
        match found {
            Ok(dtype) if self.length == known.len() => Ok(dtype),
            Ok(_) => Err("an unknown dtype".into()),
            Err(error) => Err(shown(&error.to_string())),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Unread(error)
    }
}
