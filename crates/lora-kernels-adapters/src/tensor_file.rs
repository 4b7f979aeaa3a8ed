//! Safetensors files, whose tensors are read when they are asked for.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::header::{Found, Header, Table};
use crate::regular::{self, failed};
use crate::stamp::{Stamp, unchanged};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// An open safetensors file with a checked header.
///
/// Nothing of it is mapped into memory: whatever others do to the file, reading gives an error or
/// the bytes that were there at that time. [`TensorFile::check_unchanged`] tells whether all bytes
/// read until then were those of one content.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    bytes: usize,
    /// The offset of the tensors' bytes in the file.
    data: usize,
    table: Table,
}

impl TensorFile {
    /// Opens a file and checks its header: it is JSON of at most 100 MB, each tensor has as many
    /// bytes as its type and shape need, and the tensors fill the rest of the file without gaps.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotAFile`] or [`Error::Safetensors`]; [`Error::Changed`] if the file
    /// became shorter meanwhile.
    pub fn open(path: &Path) -> Result<Self> {
        let file = regular::open(path)?;
        let stamp = Stamp::of(&file).map_err(failed(path))?;
        let refused = |reason| Error::Safetensors {
            path: path.into(),
            reason,
        };
        let bytes = usize::try_from(stamp.bytes())
            .map_err(|_| refused("it has more bytes than memory has addresses".into()))?;
        let read = |into: &mut [u8], offset| read_exact(path, &file, into, offset);
        let header = Header::read(bytes, read)?.map_err(refused)?;
        Ok(Self {
            path: path.into(),
            data: header.data,
            table: header.table,
            stamp,
            bytes,
            file,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The size of the whole file in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The size of what stands before the tensors' bytes: the header's length and the header.
    pub fn header_bytes(&self) -> usize {
        self.data
    }

    /// Reads what stands before the tensors' bytes: the header's length and the header.
    ///
    /// # Errors
    /// As [`TensorFile::read_at`].
    pub fn read_header(&self) -> Result<Vec<u8>> {
        let mut header = vec![0; self.data];
        self.read_at(&mut header, 0)?;
        Ok(header)
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.table)
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.find(name).map(|found| self.view(found))
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.table.by_name().map(|found| self.view(found))
    }

    /// Every tensor and the range of its bytes in the file, in the order of the ranges. They cover
    /// the file from the end of the header to its end without gaps.
    pub fn in_file_order(&self) -> impl ExactSizeIterator<Item = (Tensor<'_>, Range<usize>)> {
        self.table.in_file_order().map(|found| {
            let bytes = self.data + found.bytes.start..self.data + found.bytes.end;
            (self.view(found), bytes)
        })
    }

    /// Asks the system to read this range of the file, and doesn't wait for it.
    pub fn prefetch(&self, bytes: Range<usize>) {
        use rustix::fs::{Advice, fadvise};
        if let Some(length) = std::num::NonZeroU64::new(bytes.len() as u64) {
            // If the system refuses, the bytes are read when they are used.
            let _ = fadvise(
                &self.file,
                bytes.start as u64,
                Some(length),
                Advice::WillNeed,
            );
        }
    }

    /// Fills `into` with the bytes of the file from `offset` on.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Changed`] if the file has become shorter than that.
    pub fn read_at(&self, into: &mut [u8], offset: usize) -> Result<()> {
        read_exact(&self.path, &self.file, into, offset)
    }

    /// Its stamp when it was opened.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Checks that the open file wasn't changed since it was opened, neither its content nor its
    /// attributes. What was read before is then of one content.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Io`].
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Stamp::of(&self.file).map_err(failed(&self.path))?;
        unchanged(&self.path, &self.stamp, &now)
    }

    fn view<'a>(&'a self, found: Found<'a>) -> Tensor<'a> {
        let bytes = self.data + found.bytes.start..self.data + found.bytes.end;
        Tensor::of_file(self, found.name, found.dtype, found.shape, bytes)
    }
}

/// The texts in a header that describe the file, each with its key.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a>(&'a Table);

impl<'a> Metadata<'a> {
    /// The text of this key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter()
            .rev()
            .find_map(|(own, text)| (own == key).then_some(text))
    }

    /// The keys and their texts, in the header's order. Of a key that stands there more than once,
    /// the last one counts.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + DoubleEndedIterator {
        self.0.metadata()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().len() == 0
    }
}

/// Fills `into` with the bytes of a file that had them when it was opened.
fn read_exact(path: &Path, file: &File, into: &mut [u8], offset: usize) -> Result<()> {
    file.read_exact_at(into, offset as u64)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Changed {
                path: path.into(),
                what: "it has become shorter",
            },
            _ => failed(path)(error),
        })
}
