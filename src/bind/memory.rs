//! `saved` and the workspace of a call, and the addresses of their regions.

use super::extents::{Access, Extents};
use super::{DevicePointer, check};
use crate::plan::{Region, SavedLayout};
use crate::{Argument, Hint, Result};

/// The memory of S and the mask, in one buffer or in two.
#[derive(Debug, Clone, Copy, Default)]
pub enum Saved<B> {
    /// No memory, for a call without tokens.
    #[default]
    Empty,
    /// At least [`SavedLayout::bytes`] bytes, with both regions at their offsets.
    Whole(B),
    /// A buffer for each region of the [`SavedLayout`].
    Split {
        /// At least `saved.s.bytes` bytes
        s: B,
        /// At least `saved.mask.bytes` bytes, exactly if the layout has a mask
        mask: Option<B>,
    },
}

impl<B> From<B> for Saved<B> {
    fn from(buffer: B) -> Self {
        Self::Whole(buffer)
    }
}

impl<B> Saved<B> {
    /// The same with every buffer replaced by `replace`.
    pub fn map<C>(self, mut replace: impl FnMut(B) -> C) -> Saved<C> {
        match self {
            Saved::Empty => Saved::Empty,
            Saved::Whole(buffer) => Saved::Whole(replace(buffer)),
            Saved::Split { s, mask } => Saved::Split {
                s: replace(s),
                mask: mask.map(replace),
            },
        }
    }

    /// The same buffers by reference.
    pub fn as_ref(&self) -> Saved<&B> {
        match self {
            Saved::Empty => Saved::Empty,
            Saved::Whole(buffer) => Saved::Whole(buffer),
            Saved::Split { s, mask } => Saved::Split {
                s,
                mask: mask.as_ref(),
            },
        }
    }

    /// The same buffers by mutable reference.
    pub fn as_mut(&mut self) -> Saved<&mut B> {
        match self {
            Saved::Empty => Saved::Empty,
            Saved::Whole(buffer) => Saved::Whole(buffer),
            Saved::Split { s, mask } => Saved::Split {
                s,
                mask: mask.as_mut(),
            },
        }
    }

    /// Visits every buffer with its name and the size that it must have. Refuses a mask that is
    /// missing or not expected.
    pub(crate) fn each(
        &self,
        layout: &SavedLayout,
        mut visit: impl FnMut(Argument, Option<&B>, usize) -> Result<()>,
    ) -> Result<()> {
        match self {
            Saved::Empty => visit(Argument::Saved, None, layout.bytes()),
            Saved::Whole(buffer) => visit(Argument::Saved, Some(buffer), layout.bytes()),
            Saved::Split { s, mask } => {
                visit(Argument::SavedS, Some(s), layout.s.bytes)?;
                check::optional(
                    Argument::SavedMask,
                    mask.is_some(),
                    layout.mask.is_some(),
                    Hint::Mask,
                )?;
                match (mask, layout.mask) {
                    (Some(mask), Some(region)) => {
                        visit(Argument::SavedMask, Some(mask), region.bytes)
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// The addresses of S and the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SavedAddresses {
    pub s: DevicePointer,
    /// 0 if there is no mask, as the kernels expect
    pub mask: DevicePointer,
}

impl SavedAddresses {
    /// Checks the buffers, and adds their memory to that of the call.
    pub fn new(
        extents: &mut Extents,
        access: Access,
        saved: &Saved<DevicePointer>,
        layout: &SavedLayout,
    ) -> Result<Self> {
        saved.each(layout, |what, buffer, needed| {
            extents.buffer(access, what, buffer.copied(), needed)
        })?;
        Ok(match *saved {
            Saved::Empty => Self { s: 0, mask: 0 },
            Saved::Whole(start) => {
                let buffer = Buffer(Some(start));
                Self {
                    s: buffer.at(layout.s),
                    mask: buffer.at(layout.mask),
                }
            }
            Saved::Split { s, mask } => Self {
                s,
                mask: mask.unwrap_or_default(),
            },
        })
    }
}

/// A buffer that a plan has divided into regions; `None` if the plan needs no memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffer(Option<DevicePointer>);

impl Buffer {
    /// Checks the workspace, and adds its memory to that of the call.
    pub fn workspace(
        extents: &mut Extents,
        start: Option<DevicePointer>,
        needed: usize,
    ) -> Result<Self> {
        extents.buffer(Access::Written, Argument::Workspace, start, needed)?;
        Ok(Self(start))
    }

    /// The address of a region; null if there is no region, as the kernels expect.
    pub fn at(self, region: impl Into<Option<Region>>) -> DevicePointer {
        match (self.0, region.into()) {
            // A region of a buffer that was checked doesn't wrap. One of no bytes may be anywhere.
            (Some(start), Some(region)) => start.wrapping_add(region.offset as u64),
            _ => 0,
        }
    }
}
