//! What a bulk copy moves: rows of bytes in global memory, and where each lies in shared memory.

use super::element::Element;
use crate::exec::trap::Trap;
use crate::tensor_map::TensorMap;

/// Bytes that swizzling moves as a whole.
pub(super) const CHUNK: u32 = 16;
/// Bytes of a line of shared memory, within which swizzling moves chunks.
pub(super) const LINE: u32 = 128;

/// More shared memory than any device has.
const MOST_BYTES: u64 = 256 << 10;

/// Where chunks of 16 bytes lie within each line of 128 bytes of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// As in global memory.
    #[default]
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}

impl Swizzle {
    /// Of a `CUtensorMapSwizzle`; `None` for those that devices of compute capability 9.0 lack.
    fn of(mode: u32) -> Option<Swizzle> {
        [
            Swizzle::None,
            Swizzle::Bytes32,
            Swizzle::Bytes64,
            Swizzle::Bytes128,
        ]
        .get(mode as usize)
        .copied()
    }

    /// Where the byte goes that would be at `address` of shared memory without swizzling: bits 4 to
    /// 6 are combined with bits 7 to 9, as many as the mode has.
    pub fn place(self, address: u32) -> u32 {
        let rows = match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 3,
            Swizzle::Bytes128 => 7,
        };
        address ^ (((address / LINE) & rows) * CHUNK)
    }
}

/// A row of a box, or all of a copy that has no box.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// Address of the bytes that exist in global memory, and where the host has them.
    pub va: u64,
    pub host: usize,
    pub bytes: u32,
    /// Bytes of the row before them that lie outside of the tensor.
    pub lead: u32,
}

/// The rows of a copy, one after the other as they lie in shared memory.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    pub rows: Vec<Row>,
    pub row_bytes: u32,
    pub swizzle: Swizzle,
    pub element: Element,
}

/// Why a box can't be moved.
pub(super) enum Refusal {
    Reason(String),
    Trap(Box<Trap>),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::Reason(reason)
    }
}

/// A box's way through its tensor.
struct Walk<'a> {
    map: &'a TensorMap,
    start: &'a [i64],
    /// Elements of each dimension that are moved.
    counts: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(map: &'a TensorMap, start: &'a [i64]) -> Result<Self, String> {
        if start.len() != map.dims.len() {
            return Err(format!(
                "the tensor map has {} dimensions, the instruction {}",
                map.dims.len(),
                start.len()
            ));
        }
        if map.interleave != 0 {
            return Err(format!(
                "interleaved layout {} of the tensor map is not supported: use none",
                map.interleave
            ));
        }
        // Dimension 0 has no step.
        let steps = std::iter::once(&1).chain(&map.element_strides[1..]);
        let sizes = map.box_dims.iter().zip(steps);
        Ok(Walk {
            map,
            start,
            counts: sizes.map(|(&size, &step)| size.div_ceil(step)).collect(),
        })
    }

    /// Bytes from the tensor's start to those of row `index`; `None` if it lies outside.
    fn offset(&self, index: u32) -> Option<u128> {
        let (mut rest, mut offset) = (index, 0_u128);
        for dim in 1..self.map.dims.len() {
            let step = rest % self.counts[dim];
            rest /= self.counts[dim];
            let at = self.start[dim] + i64::from(step) * i64::from(self.map.element_strides[dim]);
            let inside = u64::try_from(at)
                .ok()
                .filter(|&at| at < self.map.dims[dim])?;
            offset += u128::from(inside) * u128::from(self.map.strides[dim - 1]);
        }
        Some(offset)
    }

    fn rows(
        &self,
        count: u32,
        size: u32,
        mut host: impl FnMut(u64, u64) -> Result<usize, Box<Trap>>,
    ) -> Result<Vec<Row>, Refusal> {
        // Elements of dimension 0 that lie in the tensor.
        let (start, end) = (self.start[0], self.start[0] + i64::from(self.counts[0]));
        let first = start.max(0);
        let inside = (end.min(self.map.dims[0].cast_signed()) - first).max(0);
        let (bytes, lead) = (inside as u32 * size, (first - start) as u32 * size);
        (0..count)
            .map(|index| {
                let Some(offset) = self.offset(index).filter(|_| bytes > 0) else {
                    return Ok(Row::default());
                };
                let va = u128::from(self.map.address)
                    + offset
                    + u128::from(first.cast_unsigned()) * u128::from(size);
                let va = u64::try_from(va).unwrap_or(u64::MAX);
                Ok(Row {
                    va,
                    host: host(va, u64::from(bytes)).map_err(Refusal::Trap)?,
                    bytes,
                    lead,
                })
            })
            .collect()
    }
}

impl Tile {
    /// A copy of contiguous bytes.
    pub fn flat(va: u64, host: usize, bytes: u32) -> Tile {
        Tile {
            rows: vec![Row {
                va,
                host,
                bytes,
                lead: 0,
            }],
            row_bytes: bytes,
            swizzle: Swizzle::None,
            element: Element::BYTE,
        }
    }

    /// The box at `start` of a tensor. The map is valid; `host` finds bytes of global memory.
    ///
    /// # Errors
    /// What devices of compute capability 9.0 can't do, what no shared memory holds, and what
    /// `host` does not find.
    pub fn of_box(
        map: &TensorMap,
        start: &[i64],
        host: impl FnMut(u64, u64) -> Result<usize, Box<Trap>>,
    ) -> Result<Tile, Refusal> {
        let walk = Walk::new(map, start)?;
        let element = Element::of(map)?;
        let swizzle = Swizzle::of(map.swizzle).ok_or_else(|| {
            format!(
                "swizzle mode {} of the tensor map needs a device of compute capability 10.0 or \
                 later; 0 to 3 are possible",
                map.swizzle
            )
        })?;
        let row_bytes = walk.counts[0] * element.bytes;
        let rows: u64 = walk.counts[1..].iter().map(|&n| u64::from(n)).product();
        let bytes = rows.saturating_mul(u64::from(row_bytes));
        if bytes > MOST_BYTES {
            let reason = format!("a box of {bytes} bytes: no block's shared memory holds it");
            return Err(reason.into());
        }
        let rows = walk.rows(rows as u32, element.bytes, host)?;
        Ok(Tile {
            rows,
            row_bytes,
            swizzle,
            element,
        })
    }

    /// Bytes in shared memory, those outside of the tensor included.
    pub fn bytes(&self) -> u32 {
        self.rows.len() as u32 * self.row_bytes
    }

    /// Bytes of shared memory from the start on that the copy may touch: a swizzled one moves
    /// chunks within whole lines.
    pub fn span(&self) -> u32 {
        match self.swizzle {
            Swizzle::None => self.bytes(),
            _ => self.bytes().next_multiple_of(LINE),
        }
    }

    /// Calls `f` with places and sizes in shared memory that together are what the copy touches
    /// there, `to` being its start.
    pub fn each_place(&self, to: u32, mut f: impl FnMut(u32, u32)) {
        let whole = self.bytes() / LINE * LINE;
        if self.swizzle == Swizzle::None {
            return f(to, self.bytes());
        }
        if whole > 0 {
            f(to, whole);
        }
        for chunk in (whole..self.bytes()).step_by(CHUNK as usize) {
            f(self.swizzle.place(to + chunk), CHUNK);
        }
    }

    /// Copies global to shared memory.
    ///
    /// # Safety
    /// The rows' host addresses must be valid, and `shared` must have [`Self::span`] bytes from
    /// `to` on.
    pub unsafe fn load(&self, shared: *mut u8, to: u32) {
        let mut line = vec![0; self.row_bytes as usize];
        for (index, row) in self.rows.iter().enumerate() {
            let start = to + index as u32 * self.row_bytes;
            let (lead, bytes) = (row.lead as usize, row.bytes as usize);
            if bytes < line.len() {
                self.element.fill(&mut line);
            }
            if bytes > 0 {
                // SAFETY: the caller vouches for the row; the line has room for it after `lead`.
                unsafe {
                    let inside = line.as_mut_ptr().add(lead);
                    std::ptr::copy_nonoverlapping(row.host as *const u8, inside, bytes);
                }
                self.element.convert(&mut line[lead..lead + bytes]);
            }
            for (chunk, bytes) in line.chunks(CHUNK as usize).enumerate() {
                let place = self.swizzle.place(start + chunk as u32 * CHUNK);
                // SAFETY: the place lies within the span that the caller vouches for.
                unsafe {
                    let place = shared.add(place as usize);
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
                }
            }
        }
    }

    /// The bytes in shared memory, without swizzling.
    ///
    /// # Safety
    /// As for [`Self::load`].
    pub unsafe fn read(&self, shared: *const u8, from: u32) -> Vec<u8> {
        let mut out = vec![0; self.bytes() as usize];
        for (chunk, bytes) in out.chunks_mut(CHUNK as usize).enumerate() {
            let place = self.swizzle.place(from + chunk as u32 * CHUNK);
            // SAFETY: the place lies within the span that the caller vouches for.
            unsafe {
                let place = shared.add(place as usize);
                std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len());
            }
        }
        out
    }

    /// The rows that exist in global memory, each with its bytes of `data`, which are as
    /// [`Self::read`] gives them.
    pub fn rows_of<'a>(&'a self, data: &'a [u8]) -> impl Iterator<Item = (&'a Row, &'a [u8])> {
        let rows = self
            .rows
            .iter()
            .zip(data.chunks(self.row_bytes.max(1) as usize));
        rows.filter(|(row, _)| row.bytes > 0).map(|(row, bytes)| {
            let lead = row.lead as usize;
            (row, &bytes[lead..lead + row.bytes as usize])
        })
    }
}
