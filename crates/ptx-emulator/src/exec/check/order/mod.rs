//! What happens before what (PTX ISA section 8): whether a thread knows an earlier access of
//! another one to be done before its own.
//!
//! What the shadows of memory ask:
//! - [`Clocks::now`] gives the step that an ordinary access of a warp belongs to now,
//!   [`Clocks::strong_step`] that of a lane's strong access. Block, warp, lane and step are a
//!   [`Stamp`], which a shadow keeps of the access.
//! - [`Clocks::knows`] tells which lanes of a warp know an access to be done; two accesses that
//!   conflict are a race if the later one's lane doesn't know the earlier one.
//! - A strong write is known, too, to whoever knows a later strong read or an atomic operation that
//!   came after it at the same place: observation is a part of causality (section 8.9.5). Shadows
//!   see to that: an atomic operation's record replaces those of the strong writes that it found.

mod clock;
mod clocks;
mod gate;
mod known;
mod mind;
mod place;
mod strong;
mod tree;

pub(in crate::exec) use self::clocks::{Clocks, Home};
pub(in crate::exec) use self::gate::PhaseClock;
pub(in crate::exec) use self::place::SharedPlaces;

/// Who made an access, and in which step of its warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) struct Stamp {
    /// The block's number in the grid.
    pub block: u64,
    pub warp: u32,
    pub lane: u32,
    pub step: u32,
}
