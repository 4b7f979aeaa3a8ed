//! Fat binaries as `nvcc --fatbin` writes them: a header, then entries that each hold PTX or an ELF
//! cubin for one architecture.
//!
//! The layout is not documented by NVIDIA; what is here was read off files that nvcc 13.0 made in
//! each of its compression modes.

use std::collections::HashMap;
use std::io::Read;

use crate::cubin;

/// First bytes of a fatbin, little endian.
pub const MAGIC: u32 = 0xBA55_ED50;
/// Size of the part of the header that [`declared_bytes`] reads.
pub const HEADER_BYTES: usize = 16;

/// Size of the part of an entry's header that is looked at.
pub const ENTRY_BYTES: usize = 64;

const KIND_PTX: u16 = 1;
const KIND_CUBIN: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// `compute_90a`: for that architecture alone.
const FLAG_ARCHITECTURE_ONLY: u64 = 0x10_0000;
/// `compute_100f`: for that family alone.
const FLAG_FAMILY_ONLY: u64 = 0x20_0000;
/// An unpacked image larger than this is taken for a damaged header.
const LARGEST_IMAGE: u64 = 1 << 30;

/// An entry that says it is larger is taken for a damaged one.
const LARGEST_ENTRY: u64 = 1 << 32;

/// Why a fatbin can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    /// Another file than a fatbin.
    #[error("not a fatbin: it starts with {found:#010x} instead of {MAGIC:#010x}")]
    Magic {
        /// Its first four bytes.
        found: u32,
    },
    /// A part that ends beyond the image.
    #[error("the fatbin ends inside {part} at byte {at}")]
    Truncated {
        /// Which part.
        part: &'static str,
        /// Where it begins, bytes.
        at: usize,
    },
    /// A compressed image that can't be unpacked.
    #[error("the image for sm_{sm} can't be decompressed: {reason}")]
    Compression {
        /// Its architecture.
        sm: u32,
        /// Why not.
        reason: String,
    },
    /// PTX that is no text.
    #[error("the PTX for sm_{sm} is not UTF-8 text")]
    Text {
        /// Its architecture.
        sm: u32,
    },
}

/// A PTX entry of a fatbin.
#[derive(Debug, Clone, Copy)]
pub struct PtxImage<'a> {
    /// Architecture number: 80 for `compute_80`.
    pub sm: u32,
    /// The entry runs on that architecture (`compute_90a`) or family only, not on later ones.
    pub exact: bool,
    contents: Contents<'a>,
}

/// An entry's image as it is stored.
#[derive(Debug, Clone, Copy)]
struct Contents<'a> {
    sm: u32,
    payload: &'a [u8],
    flags: u64,
    unpacked_bytes: u64,
}

/// Size of a whole fatbin by its first [`HEADER_BYTES`] bytes.
///
/// # Errors
/// [`FatbinError::Magic`] where the bytes are no fatbin's.
pub fn declared_bytes(header: &[u8; HEADER_BYTES]) -> Result<usize, FatbinError> {
    let found = number(header, 0, 4, "the header")? as u32;
    if found != MAGIC {
        return Err(FatbinError::Magic { found });
    }
    let header_bytes = number(header, 6, 2, "the header")?;
    let entries = number(header, 8, 8, "the header")?;
    let total = header_bytes.saturating_add(entries);
    Ok(usize::try_from(total).unwrap_or(usize::MAX))
}

/// Checks a fatbin when only its start is at hand, before the rest is trusted to be there: `read`
/// gives the bytes at a place, or nothing if there are none. Every entry's header is looked
/// at, and a place in each page of its contents.
///
/// # Errors
/// [`FatbinError`] where the file's structure is damaged.
pub fn check_entries(
    header: &[u8; HEADER_BYTES],
    mut read: impl FnMut(usize) -> Option<[u8; ENTRY_BYTES]>,
) -> Result<(), FatbinError> {
    const PAGE: usize = 4096;
    let end = declared_bytes(header)?;
    let mut at = number(header, 6, 2, "the header")? as usize;
    while at < end {
        let part = "an entry's header";
        let start = read(at).ok_or(FatbinError::Truncated { part, at })?;
        let next = at.saturating_add(Entry::read(&start, at)?.next);
        let pages = (at..next - ENTRY_BYTES).step_by(PAGE);
        for place in pages.chain([next - ENTRY_BYTES]) {
            let part = "an entry's contents";
            read(place).ok_or(FatbinError::Truncated { part, at: place })?;
        }
        at = next;
    }
    Ok(())
}

/// What the start of an entry's header says.
struct Entry {
    kind: u16,
    sm: u32,
    flags: u64,
    payload: usize,
    compressed_bytes: usize,
    unpacked_bytes: u64,
    /// Where the next entry starts, from the start of this one.
    next: usize,
}

impl Entry {
    fn read(entry: &[u8], at: usize) -> Result<Self, FatbinError> {
        let part = "an entry's header";
        let header_bytes = number(entry, 4, 4, part)?;
        let stored_bytes = number(entry, 8, 8, part)?;
        let next = header_bytes.checked_add(stored_bytes);
        let next = next.filter(|size| (ENTRY_BYTES as u64..=LARGEST_ENTRY).contains(size));
        let next = next.and_then(|size| usize::try_from(size).ok());
        Ok(Self {
            kind: number(entry, 0, 2, part)? as u16,
            sm: number(entry, 28, 4, part)? as u32,
            flags: number(entry, 40, 8, part)?,
            payload: header_bytes as usize,
            compressed_bytes: number(entry, 16, 4, part)? as usize,
            unpacked_bytes: number(entry, 56, 8, part)?,
            next: next.ok_or(FatbinError::Truncated {
                part: "an entry's contents",
                at,
            })?,
        })
    }
}

/// The entries of a fatbin, in file order: their kind and their contents.
fn entries(bytes: &[u8]) -> Result<Vec<(u16, Contents<'_>)>, FatbinError> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(FatbinError::Truncated {
        part: "the header",
        at: bytes.len(),
    })?;
    let end = declared_bytes(header)?;
    let bytes = bytes.get(..end).ok_or(FatbinError::Truncated {
        part: "the entries",
        at: bytes.len(),
    })?;
    let mut at = number(bytes, 6, 2, "the header")? as usize;
    let mut entries = Vec::new();
    while at < end {
        let contents = bytes.get(at..).unwrap_or_default();
        let entry = Entry::read(contents, at)?;
        let payload = contents
            .get(entry.payload..entry.next)
            .ok_or(FatbinError::Truncated {
                part: "an entry's contents",
                at,
            })?;
        // The stored size is rounded up; a decompressor must not see the padding.
        let compressed = entry.flags & (FLAG_LZ4 | FLAG_ZSTD) != 0;
        let contents = Contents {
            sm: entry.sm,
            payload: if compressed {
                payload.get(..entry.compressed_bytes).unwrap_or(payload)
            } else {
                payload
            },
            flags: entry.flags,
            unpacked_bytes: entry.unpacked_bytes,
        };
        entries.push((entry.kind, contents));
        at = at.saturating_add(entry.next);
    }
    Ok(entries)
}

/// The PTX entries of a fatbin, in file order. Entries of other kinds (cubins) are passed over.
///
/// # Errors
/// [`FatbinError`] where the file's structure is damaged.
pub fn ptx_images(bytes: &[u8]) -> Result<Vec<PtxImage<'_>>, FatbinError> {
    let entries = entries(bytes)?.into_iter();
    let images = entries
        .filter(|(kind, _)| *kind == KIND_PTX)
        .map(|(_, contents)| PtxImage {
            sm: contents.sm,
            exact: contents.is_exact(),
            contents,
        });
    Ok(images.collect())
}

/// How many 32-bit registers a thread of each kernel takes, by ptxas' figures: those in the cubin
/// that a device of compute capability `sm` (80 for 8.0) would run. That is the one for its own
/// architecture, or else the nearest lower one of the same major version. A fatbin without such a
/// cubin, and a damaged cubin, tell nothing.
///
/// # Errors
/// [`FatbinError`] where the file's structure is damaged.
pub fn registers(bytes: &[u8], sm: u32) -> Result<HashMap<String, u32>, FatbinError> {
    let entries = entries(bytes)?.into_iter();
    let cubins = entries.filter(|(kind, contents)| {
        let exact = contents.sm == sm;
        let lower = contents.sm < sm && contents.sm / 10 == sm / 10 && !contents.is_exact();
        *kind == KIND_CUBIN && (exact || lower)
    });
    // Relocatable code is one cubin for each source file, and linking makes one of them.
    let chosen = cubins.max_by_key(|(_, contents)| (contents.sm, contents.is_exact()));
    let cubin = chosen.and_then(|(_, contents)| contents.unpack().ok());
    Ok(cubin.map_or_else(HashMap::new, |cubin| cubin::registers(&cubin)))
}

/// The PTX entry that a device of compute capability `sm` (80 for 8.0) would compile: the highest
/// target it can run.
pub fn choose<'i, 'a>(images: &'i [PtxImage<'a>], sm: u32) -> Option<&'i PtxImage<'a>> {
    images
        .iter()
        .filter(|image| {
            if image.exact {
                image.sm == sm
            } else {
                image.sm <= sm
            }
        })
        .max_by_key(|image| (image.sm, image.exact))
}

impl PtxImage<'_> {
    /// Whether the text is compressed with zstd, as nvcc's modes `balance` and `size` do: drivers
    /// before CUDA 12.4 can't read it.
    pub fn is_zstd(&self) -> bool {
        self.contents.flags & FLAG_ZSTD != 0
    }

    /// The PTX text, decompressed.
    ///
    /// # Errors
    /// [`FatbinError::Compression`] or [`FatbinError::Text`] where the contents are damaged.
    pub fn text(&self) -> Result<String, FatbinError> {
        let mut text = self.contents.unpack()?;
        let end = text
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(text.len());
        text.truncate(end);
        String::from_utf8(text).map_err(|_| FatbinError::Text { sm: self.sm })
    }
}

impl Contents<'_> {
    /// Whether the image runs on its architecture or family only.
    fn is_exact(&self) -> bool {
        self.flags & (FLAG_ARCHITECTURE_ONLY | FLAG_FAMILY_ONLY) != 0
    }

    /// The image, decompressed.
    fn unpack(&self) -> Result<Vec<u8>, FatbinError> {
        let refuse = |reason: String| FatbinError::Compression {
            sm: self.sm,
            reason,
        };
        if self.flags & (FLAG_LZ4 | FLAG_ZSTD) == 0 {
            let image = self.payload.get(..LARGEST_IMAGE as usize);
            return Ok(image.unwrap_or(self.payload).to_vec());
        }
        if self.unpacked_bytes > LARGEST_IMAGE {
            return Err(refuse(format!(
                "{} bytes are more than {LARGEST_IMAGE}",
                self.unpacked_bytes
            )));
        }
        if self.flags & FLAG_LZ4 != 0 {
            // One LZ4 byte stands for at most 255: a larger claim is damage, not a reason to
            // allocate.
            let most = (self.payload.len() as u64).saturating_mul(255);
            let size = usize::try_from(self.unpacked_bytes.min(most)).unwrap_or(0);
            return lz4_flex::block::decompress(self.payload, size)
                .map_err(|error| refuse(error.to_string()));
        }
        let mut image = Vec::new();
        let decoder = ruzstd::decoding::StreamingDecoder::new(self.payload)
            .map_err(|error| refuse(error.to_string()))?;
        let read = decoder.take(self.unpacked_bytes).read_to_end(&mut image);
        read.map_err(|error| refuse(error.to_string()))?;
        Ok(image)
    }
}

/// A little-endian unsigned number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize, part: &'static str) -> Result<u64, FatbinError> {
    let field = bytes.get(at..at + size).ok_or(FatbinError::Truncated {
        part,
        at: bytes.len(),
    })?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte)))
}
