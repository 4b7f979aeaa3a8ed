//! Tensors whose bytes lie in a file or in memory of the caller's.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use lora_kernels::DType;
use safetensors::Dtype;

use crate::tensor_file::TensorFile;
use crate::{Error, Result};

/// Bytes of a chunk where the caller doesn't say.
const CHUNK: usize = 1 << 20;

/// A tensor: its name, type and shape, and where its elements are. Those of a file are read when
/// they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its element type, which may be one that the kernels don't support.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'a [usize],
    source: Source<'a>,
}

/// Where the elements are, little-endian.
#[derive(Clone, Copy)]
enum Source<'a> {
    Memory(&'a [u8]),
    File {
        file: &'a TensorFile,
        /// In the file.
        begin: usize,
        bytes: usize,
    },
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
            Source::File { file, begin, bytes } => {
                write!(
                    f,
                    "{bytes} bytes from {begin} on of {}",
                    file.path().display()
                )
            }
        }
    }
}

impl<'a> Tensor<'a> {
    /// A tensor without a name, to be written. `data` are its elements, little-endian.
    pub fn new(dtype: DType, shape: &'a [usize], data: &'a [u8]) -> Self {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
        };
        Self::named("", dtype, shape, data)
    }

    /// A tensor of any type. `data` are its elements, little-endian, at any address.
    pub fn named(name: &'a str, dtype: Dtype, shape: &'a [usize], data: &'a [u8]) -> Self {
        Self {
            name,
            dtype,
            shape,
            source: Source::Memory(data),
        }
    }

    /// A tensor whose elements are `bytes` of the file.
    pub(crate) fn of_file(
        file: &'a TensorFile,
        name: &'a str,
        dtype: Dtype,
        shape: &'a [usize],
        bytes: Range<usize>,
    ) -> Self {
        Self {
            name,
            dtype,
            shape,
            source: Source::File {
                file,
                begin: bytes.start,
                bytes: bytes.len(),
            },
        }
    }

    /// The element type in the kernels' terms; `None` for a type that they don't support.
    pub fn element_type(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F32 => Some(DType::F32),
            _ => None,
        }
    }

    /// The size of its elements in bytes.
    pub fn bytes(&self) -> usize {
        match self.source {
            Source::Memory(data) => data.len(),
            Source::File { bytes, .. } => bytes,
        }
    }

    /// The file that its elements lie in, and their range there; `None` if they lie in memory.
    pub fn place(&self) -> Option<(&'a TensorFile, Range<usize>)> {
        match self.source {
            Source::Memory(_) => None,
            Source::File { file, begin, bytes } => Some((file, begin..begin + bytes)),
        }
    }

    /// Some of its elements, in row-major order; `None` if it has no such elements, or if they
    /// don't begin and end at bytes. The result keeps the name and the shape of the whole tensor.
    pub fn part(&self, elements: Range<usize>) -> Option<Self> {
        let place = |element: usize| {
            let bits = element.checked_mul(self.dtype.bitsize())?;
            bits.is_multiple_of(8).then_some(bits / 8)
        };
        let bytes = place(elements.start)?..place(elements.end)?;
        if bytes.start > bytes.end || bytes.end > self.bytes() {
            return None;
        }
        let source = match self.source {
            Source::Memory(data) => Source::Memory(data.get(bytes)?),
            Source::File { file, begin, .. } => Source::File {
                file,
                begin: begin + bytes.start,
                bytes: bytes.len(),
            },
        };
        Some(Self { source, ..*self })
    }

    /// All of its elements, little-endian. Those of a file are read into new memory: go through a
    /// large tensor with [`Tensor::chunks`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Changed`] if the file has become shorter.
    pub fn read(&self) -> Result<Cow<'a, [u8]>> {
        self.read_range(0..self.bytes())
    }

    /// A range of the bytes of its elements.
    ///
    /// # Errors
    /// [`Error::Io`], also for a range that isn't in the tensor; [`Error::Changed`] if the file has
    /// become shorter.
    pub fn read_range(&self, bytes: Range<usize>) -> Result<Cow<'a, [u8]>> {
        match self.source {
            Source::Memory(data) => match data.get(bytes.clone()) {
                Some(data) => Ok(Cow::Borrowed(data)),
                None => Err(self.outside(&bytes)),
            },
            Source::File { bytes: all, .. } => {
                if bytes.start > bytes.end || bytes.end > all {
                    return Err(self.outside(&bytes));
                }
                let mut data = vec![0; bytes.len()];
                self.read_into(bytes.start, &mut data)?;
                Ok(Cow::Owned(data))
            }
        }
    }

    /// Fills `into` with the bytes of its elements, from the byte `offset` on.
    ///
    /// # Errors
    /// [`Error::Io`], also if the tensor has fewer bytes; [`Error::Changed`] if the file has become
    /// shorter.
    pub fn read_into(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        let bytes = offset..offset.saturating_add(into.len());
        if bytes.end > self.bytes() {
            return Err(self.outside(&bytes));
        }
        match self.source {
            Source::Memory(data) => into.copy_from_slice(&data[bytes]),
            Source::File { file, begin, .. } => file.read_at(into, begin + offset)?,
        }
        Ok(())
    }

    /// Goes through the bytes of its elements in chunks of `bytes`, of which the last one may be
    /// shorter. One chunk is in memory at a time.
    pub fn chunks(&self, bytes: usize) -> Chunks<'a> {
        Chunks {
            tensor: *self,
            at: 0,
            bytes: bytes.max(1),
            buffer: Vec::new(),
        }
    }

    /// Whether the bytes of its elements are those of the other's. They are compared in chunks.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Changed`] if a file has become shorter.
    pub fn has_bytes_of(&self, other: &Tensor<'_>) -> Result<bool> {
        if self.bytes() != other.bytes() {
            return Ok(false);
        }
        let (mut own, mut others) = (self.chunks(CHUNK), other.chunks(CHUNK));
        loop {
            match (own.next_chunk()?, others.next_chunk()?) {
                (None, None) => return Ok(true),
                (own, others) if own != others => return Ok(false),
                _ => {}
            }
        }
    }

    fn outside(&self, bytes: &Range<usize>) -> Error {
        let path = match self.source {
            Source::Memory(_) => Default::default(),
            Source::File { file, .. } => file.path().into(),
        };
        Error::Io {
            doing: "read",
            path,
            source: std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!(
                    "bytes {} to {} of tensor {} were asked for, and it has {}",
                    bytes.start,
                    bytes.end,
                    crate::shown::shown(self.name),
                    self.bytes()
                ),
            ),
        }
    }
}

/// The chunks of a tensor's bytes, one at a time.
#[derive(Debug)]
pub struct Chunks<'a> {
    tensor: Tensor<'a>,
    at: usize,
    bytes: usize,
    buffer: Vec<u8>,
}

impl Chunks<'_> {
    /// Reads the next chunk; `None` after the last one.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Changed`] if the file has become shorter.
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>> {
        let bytes = self.bytes.min(self.tensor.bytes() - self.at);
        if bytes == 0 {
            return Ok(None);
        }
        let begin = self.at;
        self.at += bytes;
        if let Source::Memory(data) = self.tensor.source {
            return Ok(data.get(begin..begin + bytes));
        }
        self.buffer.resize(bytes, 0);
        self.tensor.read_into(begin, &mut self.buffer)?;
        Ok(Some(&self.buffer))
    }
}
