//! What is known of a block's shared memory: which bytes are defined, which a copy is still
//! writing, and who has touched them.

use super::line::{Found, LINE, Record, Scene, SharedLine, Slab, Tags, span};
use crate::exec::check::Conflict;

pub(in crate::exec) struct Shared {
    lines: Vec<SharedLine>,
    slab: Slab,
    /// A bit for each byte of each line: it has been written.
    defined: Vec<u64>,
    /// The same for bytes that a copy is writing: it will have been.
    later: Vec<u64>,
    /// Tells the records of this block from those of earlier ones in the same place.
    tag: u16,
}

impl Shared {
    pub fn new(bytes: usize) -> Self {
        let lines = bytes.div_ceil(LINE as usize);
        Shared {
            lines: vec![SharedLine::default(); lines],
            slab: Slab::default(),
            defined: vec![0; lines],
            later: vec![0; lines],
            tag: 1,
        }
    }

    pub fn reset(&mut self) {
        self.slab.clear();
        self.defined.fill(0);
        self.tag = self.tag.wrapping_add(1);
        if self.tag == 0 {
            self.lines.fill(SharedLine::default());
            self.tag = 1;
        }
    }

    /// What records of this memory are marked with.
    pub fn tags(&self) -> Tags {
        Tags::only(self.tag)
    }

    /// A bit for each byte, of 64 at most: it has been written.
    #[inline]
    pub fn defined(&self, offset: u64, bytes: u32) -> u64 {
        let (line, first) = ((offset / LINE) as usize, (offset % LINE) as u32);
        let word = |line: usize| self.defined.get(line).copied().unwrap_or(u64::MAX);
        let mut bits = word(line) >> first;
        if first + bytes > 64 {
            bits |= word(line + 1) << (64 - first);
        }
        bits & span(0, bytes)
    }

    /// Sets which bytes are defined, of 64 at most.
    #[inline]
    pub fn define(&mut self, offset: u64, bytes: u32, defined: u64) {
        set(&mut self.defined, offset, bytes, defined);
    }

    /// Whether an ordinary write of a byte is remembered: none is where an asynchronous one that
    /// knew of it came later.
    pub fn is_written_plainly(&mut self, offset: u64) -> bool {
        let tags = Tags::only(self.tag);
        let line = self.lines.get_mut((offset / LINE) as usize);
        line.is_some_and(|line| {
            line.is_written_plainly(&mut self.slab, tags, (offset % LINE) as u32)
        })
    }

    /// Checks and records accesses to one line, by its number.
    pub fn touch(&mut self, line: usize, new: &Record, scene: &Scene<'_>) -> Result<(), Conflict> {
        let Some(at) = self.lines.get_mut(line) else {
            return Ok(());
        };
        at.touch(&mut self.slab, new, scene)
            .map_err(|found| conflict(found, line))
    }

    /// A copy is over: `new` takes the place of its records in flight.
    pub fn land(&mut self, line: usize, new: &Record, scene: &Scene<'_>) {
        if let Some(at) = self.lines.get_mut(line) {
            at.land(&mut self.slab, new, scene);
        }
    }

    /// An asynchronous operation is over: `ended` takes the place of what it `began` with.
    pub fn end(&mut self, line: usize, began: &Record, ended: &Record) {
        if let Some(at) = self.lines.get_mut(line) {
            at.end(&mut self.slab, began, ended, Tags::only(self.tag));
        }
    }

    /// Bytes of a line, a bit for each, have been written.
    pub fn define_line(&mut self, line: usize, bytes: u64) {
        if let Some(defined) = self.defined.get_mut(line) {
            *defined |= bytes;
        }
    }

    /// A `cp.async` has been issued: which bytes will be defined when it has landed.
    pub fn issue(&mut self, offset: u64, bytes: u32, defined: u64) {
        set(&mut self.later, offset, bytes, defined);
    }

    /// The same, and all bytes will be.
    pub fn issue_whole(&mut self, offset: u64, bytes: u32) {
        for (line, bits) in spans(offset, u64::from(bytes)) {
            if let Some(later) = self.later.get_mut(line as usize) {
                *later |= bits;
            }
        }
    }

    /// The bytes have landed.
    pub fn landed(&mut self, offset: u64, bytes: u32) {
        for (line, bits) in spans(offset, u64::from(bytes)) {
            let line = line as usize;
            if let (Some(now), Some(later)) = (self.defined.get_mut(line), self.later.get(line)) {
                *now = *now & !bits | later & bits;
            }
        }
    }
}

/// Sets bits of a map from `offset` on.
#[inline]
fn set(map: &mut [u64], offset: u64, bytes: u32, bits: u64) {
    let (line, first) = ((offset / LINE) as usize, (offset % LINE) as u32);
    let mask = span(0, bytes);
    if let Some(word) = map.get_mut(line) {
        *word = *word & !(mask << first) | (bits & mask) << first;
    }
    if first + bytes > 64
        && let Some(word) = map.get_mut(line + 1)
    {
        let moved = 64 - first;
        *word = *word & !(mask >> moved) | (bits & mask) >> moved;
    }
}

fn conflict(found: Found, line: usize) -> Conflict {
    Conflict::new(found, line as u64 * LINE)
}

/// The lines of a range of bytes: number, first byte within it, count.
pub(super) fn lines(from: u64, bytes: u64) -> impl Iterator<Item = (u64, u32, u32)> {
    let end = from.saturating_add(bytes);
    (from / LINE..end.div_ceil(LINE)).map(move |line| {
        let first = from.max(line * LINE) - line * LINE;
        let last = end.min(line * LINE + LINE) - line * LINE;
        (line, first as u32, (last - first) as u32)
    })
}

/// Bits of the bytes of each line of a range.
pub(super) fn spans(from: u64, bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    lines(from, bytes).map(|(line, first, count)| (line, span(first, count)))
}
