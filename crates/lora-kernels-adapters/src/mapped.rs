//! Memory-mapped safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lora_kernels::DType;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::Dtype;

use crate::header::Header;
use crate::{Error, Result, regular};

/// A tensor of a mapped file. Its bytes are borrowed from the mapping.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its element type, which may be one that the kernels don't support.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'a [usize],
    /// Its elements, little-endian. The address may be unaligned.
    pub data: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// A tensor without a name, to be written.
    pub fn new(dtype: DType, shape: &'a [usize], data: &'a [u8]) -> Self {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
        };
        Self {
            name: "",
            dtype,
            shape,
            data,
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
}

/// A memory-mapped safetensors file with a checked header. A tensor's bytes are read from disk when
/// they are first used.
///
/// Nobody may change or truncate the file while it is mapped. Rust assumes that the mapped bytes
/// don't change, so a change is undefined behaviour, and a read beyond a new end of the file kills
/// the process.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Arc<Mmap>,
    /// The offset of the tensors' bytes in the file.
    data: usize,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Relative to `data`.
    bytes: std::ops::Range<usize>,
}

impl MappedFile {
    /// Maps a file and checks its header: it is JSON of at most 100 MB, each tensor has as many
    /// bytes as its type and shape need, and the tensors fill the rest of the file without gaps.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotAFile`] or [`Error::Safetensors`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = regular::open(path)?;
        // SAFETY: this is a private mapping of a regular file opened for reading. The type's
        // documentation requires that nobody changes the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::Io {
            doing: "map",
            path: path.into(),
            source,
        })?;
        let header = Header::read(&map).map_err(|reason| Error::Safetensors {
            path: path.into(),
            reason,
        })?;
        let tensors = header.tensors.tensors().into_iter().map(|(name, info)| {
            let place = Place {
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: info.data_offsets.0..info.data_offsets.1,
            };
            (name, place)
        });
        Ok(Self {
            path: path.into(),
            tensors: tensors.collect(),
            data: header.data,
            metadata: header.metadata,
            file,
            map: registered(map),
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
        self.map.len()
    }

    /// The bytes before the tensors: the header's length and the header.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.data]
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors
            .get_key_value(name)
            .map(|(name, place)| self.view(name, place))
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.tensors
            .iter()
            .map(|(name, place)| self.view(name, place))
    }

    /// Every tensor and the range of its bytes in the file, in the order of the ranges. They cover
    /// the file from the end of the header to its end without gaps.
    pub fn in_file_order(&self) -> Vec<(Tensor<'_>, std::ops::Range<usize>)> {
        let mut all: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, place)| {
                let range = self.data + place.bytes.start..self.data + place.bytes.end;
                (self.view(name, place), range)
            })
            .collect();
        all.sort_by_key(|(_, range)| (range.start, range.end));
        all
    }

    /// Allows the system to drop the pages of this range of the file. They are read again when they
    /// are used again.
    pub fn release(&self, bytes: std::ops::Range<usize>) {
        let end = bytes.end.min(self.map.len());
        if bytes.start < end {
            release(&self.map[bytes.start..end]);
        }
    }

    /// Asks the system to read this range of the file, and doesn't wait for it.
    pub fn prefetch(&self, bytes: std::ops::Range<usize>) {
        let end = bytes.end.min(self.map.len());
        if bytes.start < end {
            // If the system refuses, the bytes are read when they are used.
            let _ = self
                .map
                .advise_range(Advice::WillNeed, bytes.start, end - bytes.start);
        }
    }

    /// The range of the file that these bytes were borrowed from, or `None` if they don't belong to
    /// this mapping.
    pub fn place(&self, bytes: &[u8]) -> Option<std::ops::Range<usize>> {
        let start = bytes
            .as_ptr()
            .addr()
            .checked_sub(self.map.as_ptr().addr())?;
        let end = start.checked_add(bytes.len())?;
        (end <= self.map.len()).then_some(start..end)
    }

    /// Reads bytes of the file, from `offset` on, into memory of the caller's. Unlike a tensor's
    /// bytes, they don't stay in the process's memory as pages of the mapping.
    ///
    /// # Errors
    /// [`Error::Io`], also if the file has become shorter.
    pub fn read_at(&self, into: &mut [u8], offset: usize) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, offset as u64).map_err(
            |source| Error::Io {
                doing: "read",
                path: self.path.clone(),
                source,
            },
        )
    }

    fn view<'a>(&'a self, name: &'a str, place: &'a Place) -> Tensor<'a> {
        Tensor {
            name,
            dtype: place.dtype,
            shape: &place.shape,
            data: &self.map[self.data + place.bytes.start..self.data + place.bytes.end],
        }
    }
}

/// The mappings of this process, by their first addresses.
static MAPPED: Mutex<BTreeMap<usize, Weak<Mmap>>> = Mutex::new(BTreeMap::new());

fn registered(map: Mmap) -> Arc<Mmap> {
    let map = Arc::new(map);
    // The entries are whole even if a thread panicked while it held the lock.
    let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    // Now and then, so that opening thousands of files takes no longer for each.
    if mapped.len().is_power_of_two() {
        mapped.retain(|_, map| map.strong_count() > 0);
    }
    mapped.insert(map.as_ptr().addr(), Arc::downgrade(&map));
    map
}

/// Allows the system to drop the pages of these bytes if they belong to a [`MappedFile`]: they are
/// read again when they are used again. Looking through a large tensor part by part, and releasing
/// each part, keeps it out of the process's memory.
pub fn release(bytes: &[u8]) {
    let begin = bytes.as_ptr().addr();
    let mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let living = |(first, map): (&usize, &Weak<Mmap>)| Some((*first, map.upgrade()?));
    let Some((first, map)) = mapped.range(..=begin).rev().find_map(living) else {
        return;
    };
    drop(mapped);
    let offset = begin - first;
    if !bytes.is_empty() && offset + bytes.len() <= map.len() {
        // SAFETY: the pages of a read-only file mapping hold nothing that isn't in the file. If the
        // system refuses, only memory is lost.
        let _ =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, bytes.len()) };
    }
}
