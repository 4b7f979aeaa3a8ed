//! The tensors and the metadata of a header, in few large pieces of memory.

use std::ops::Range;

use safetensors::Dtype;

use super::json::{Fault, Step};
use crate::shown::shown;

/// Headers of up to this many bytes may have any number of dimensions.
const SMALL: usize = 1 << 16;

/// What is told of a header while it is read.
pub(super) trait Take {
    /// Further bytes of a tensor's name.
    fn name(&mut self, part: &[u8]);
    /// What came of the name was none.
    fn forget_name(&mut self);
    /// The name is whole. Whether it is UTF-8.
    fn end_name(&mut self) -> bool;
    /// A further dimension of the tensor's.
    fn dimension(&mut self, size: usize);
    /// The tensor of the last name.
    fn tensor(&mut self, entry: Entry);
    /// Further bytes of a key or value of the metadata.
    fn text(&mut self, part: &[u8]);
    /// The key is whole. Whether it is UTF-8.
    fn end_key(&mut self) -> bool;
    /// The value is whole. Whether it is UTF-8.
    fn end_value(&mut self) -> bool;
}

/// What a table needs.
#[derive(Default)]
pub(super) struct Sizes {
    names: usize,
    dimensions: usize,
    tensors: usize,
    text: usize,
    pairs: usize,
}

impl Take for Sizes {
    fn name(&mut self, part: &[u8]) {
        self.names += part.len();
    }

    fn forget_name(&mut self) {}

    fn end_name(&mut self) -> bool {
        true
    }

    fn dimension(&mut self, _: usize) {
        self.dimensions += 1;
    }

    fn tensor(&mut self, _: Entry) {
        self.tensors += 1;
    }

    fn text(&mut self, part: &[u8]) {
        self.text += part.len();
    }

    fn end_key(&mut self) -> bool {
        true
    }

    fn end_value(&mut self) -> bool {
        self.pairs += 1;
        true
    }
}

/// A tensor. Places are of 32 bits, as headers have at most 100 MB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    begin: usize,
    end: usize,
    /// In the table's names.
    name: u32,
    name_bytes: u32,
    /// In the table's dimensions.
    shape: u32,
    rank: u32,
    dtype: Dtype,
}

impl Entry {
    /// A tensor without a place in a table. `bytes` count from the header's end.
    pub fn new(dtype: Dtype, rank: usize, bytes: Range<usize>) -> Self {
        Self {
            begin: bytes.start,
            end: bytes.end,
            name: 0,
            name_bytes: 0,
            shape: 0,
            rank: rank as u32,
            dtype,
        }
    }
}

/// The ends of a key and of its value in the table's text, where they follow each other.
#[derive(Debug, Clone, Copy)]
struct Pair {
    key: u32,
    value: u32,
}

/// The tensors and the metadata of a header.
#[derive(Debug)]
pub(crate) struct Table {
    /// All names, one after the other.
    names: Bytes,
    /// All shapes, one after the other.
    dimensions: Vec<usize>,
    /// In the order of their bytes in the file.
    entries: Vec<Entry>,
    /// The places of the entries in the order of their names.
    by_name: Vec<u32>,
    /// All keys and values, one after the other.
    text: Bytes,
    pairs: Vec<Pair>,
    /// Where the key that is being read ends.
    key: usize,
}

/// UTF-8 that is put together of parts.
#[derive(Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    /// Where the last whole string ends.
    whole: usize,
}

impl Bytes {
    fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            whole: 0,
        }
    }

    /// Ends the string whose parts came last. Whether it is UTF-8.
    fn end(&mut self) -> bool {
        let is_text = std::str::from_utf8(&self.bytes[self.whole..]).is_ok();
        self.whole = self.bytes.len();
        is_text
    }

    /// A string by its range. Each was checked when it ended.
    fn get(&self, range: Range<usize>) -> &str {
        let bytes = self.bytes.get(range).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Take for Table {
    fn name(&mut self, part: &[u8]) {
        self.names.bytes.extend_from_slice(part);
    }

    fn forget_name(&mut self) {
        self.names.bytes.truncate(self.names.whole);
    }

    fn end_name(&mut self) -> bool {
        self.names.end()
    }

    fn dimension(&mut self, size: usize) {
        self.dimensions.push(size);
    }

    fn tensor(&mut self, entry: Entry) {
        let before = self.entries.last();
        let name = before.map_or(0, |last| last.name + last.name_bytes);
        self.entries.push(Entry {
            name,
            name_bytes: self.names.whole as u32 - name,
            shape: self.dimensions.len() as u32 - entry.rank,
            ..entry
        });
    }

    fn text(&mut self, part: &[u8]) {
        self.text.bytes.extend_from_slice(part);
    }

    fn end_key(&mut self) -> bool {
        let is_text = self.text.end();
        self.key = self.text.whole;
        is_text
    }

    fn end_value(&mut self) -> bool {
        let is_text = self.text.end();
        self.pairs.push(Pair {
            key: self.key as u32,
            value: self.text.whole as u32,
        });
        is_text
    }
}

impl Table {
    /// A table of these sizes for a header of `bytes`.
    pub(super) fn of(sizes: &Sizes, bytes: usize) -> Step<Self> {
        let most = bytes.max(SMALL) / size_of::<usize>();
        if sizes.dimensions > most {
            return Err(Fault::Invalid(format!(
                "its {} tensors have {} dimensions in all, and {most} are the most for a header of \
                 {bytes} bytes",
                sizes.tensors, sizes.dimensions
            )));
        }
        Ok(Self {
            names: Bytes::with_capacity(sizes.names),
            dimensions: Vec::with_capacity(sizes.dimensions),
            entries: Vec::with_capacity(sizes.tensors),
            by_name: Vec::with_capacity(sizes.tensors),
            text: Bytes::with_capacity(sizes.text),
            pairs: Vec::with_capacity(sizes.pairs),
            key: 0,
        })
    }

    /// Sorts the tensors and checks them. `bytes` follow the header.
    pub(super) fn finish(mut self, bytes: usize) -> Step<Self> {
        let invalid = |reason: String| Err(Fault::Invalid(reason));
        let names = &self.names;
        let name = |entry: &Entry| {
            let begin = entry.name as usize;
            names.get(begin..begin + entry.name_bytes as usize)
        };
        self.entries
            .sort_unstable_by(|a, b| ((a.begin, a.end), name(a)).cmp(&((b.begin, b.end), name(b))));
        self.by_name.extend(0..self.entries.len() as u32);
        let entries = &self.entries;
        let of = |at: &u32| name(&entries[*at as usize]);
        self.by_name.sort_unstable_by(|a, b| of(a).cmp(of(b)));
        if let Some(twice) = { self.by_name.windows(2) }.find(|pair| of(&pair[0]) == of(&pair[1])) {
            return invalid(format!(
                "its header is not the JSON it should be: tensor {} stands there twice",
                shown(of(&twice[0]))
            ));
        }
        let mut end = 0;
        for entry in entries {
            if entry.begin != end || entry.end < entry.begin {
                return invalid(format!(
                    "the bytes of tensor {} don't begin where another tensor's end: offsets \
                     overlap or leave gaps",
                    shown(name(entry))
                ));
            }
            end = entry.end;
            let mut dimensions = self.shape(entry).iter();
            let bits = dimensions
                .try_fold(1usize, |all, &size| all.checked_mul(size))
                .and_then(|elements| elements.checked_mul(entry.dtype.bitsize()));
            let reason = match bits {
                None => "a tensor's dimensions multiply to more than 64 bits hold",
                Some(bits) if bits % 8 != 0 => {
                    "a tensor of less than a byte per element doesn't fill its last byte"
                }
                Some(bits) if bits / 8 != entry.end - entry.begin => {
                    "a tensor has more or fewer bytes than its type and shape say"
                }
                Some(_) => continue,
            };
            return invalid(reason.into());
        }
        if end != bytes {
            return invalid(format!(
                "its tensors have {end} bytes, but {bytes} follow the header: it is truncated, or \
                 something was appended to it"
            ));
        }
        Ok(self)
    }

    fn shape(&self, entry: &Entry) -> &[usize] {
        let begin = entry.shape as usize;
        { self.dimensions.get(begin..begin + entry.rank as usize) }.unwrap_or_default()
    }

    fn found(&self, entry: &Entry) -> Found<'_> {
        let name = entry.name as usize;
        Found {
            name: self.names.get(name..name + entry.name_bytes as usize),
            dtype: entry.dtype,
            shape: self.shape(entry),
            bytes: entry.begin..entry.end,
        }
    }

    /// The tensors in the order of their bytes.
    pub fn in_file_order(&self) -> impl ExactSizeIterator<Item = Found<'_>> {
        self.entries.iter().map(|entry| self.found(entry))
    }

    /// The tensors in the order of their names.
    pub fn by_name(&self) -> impl ExactSizeIterator<Item = Found<'_>> {
        let entries = self.by_name.iter().map(|at| &self.entries[*at as usize]);
        entries.map(|entry| self.found(entry))
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<Found<'_>> {
        let at = |at: &u32| self.found(&self.entries[*at as usize]);
        let place = self
            .by_name
            .binary_search_by(|entry| at(entry).name.cmp(name));
        place.ok().map(|place| at(&self.by_name[place]))
    }

    /// The keys and values of the metadata in the header's order. A key may stand there more than
    /// once.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + DoubleEndedIterator {
        (0..self.pairs.len()).map(|at| {
            let begin = match at {
                0 => 0,
                _ => self.pairs[at - 1].value as usize,
            };
            let Pair { key, value } = self.pairs[at];
            let (key, value) = (key as usize, value as usize);
            (self.text.get(begin..key), self.text.get(key..value))
        })
    }
}

/// What a header says of a tensor.
pub(crate) struct Found<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    /// From the header's end on.
    pub bytes: Range<usize>,
}
