//! What happens before what (PTX ISA section 8): whether a thread knows an earlier access of
//! another one to be done before its own.
//!
//! Each lane has a vector clock ([`clock`]): for each warp of each block, the step up to which the
//! lane knows the accesses of each of that warp's lanes to be done ([`known`], [`tree`]). Lanes of
//! a warp that know the same share a clock ([`mind`]). A step of a warp ends where it hands on what
//! it knows. Knowledge moves
//! - where threads meet: barriers of the block and the cluster, mbarriers, operations of a warp
//!   ([`gate`], `Clocks::meet`);
//! - through strong accesses to one place (causality order, section 8.9.5): what a release pattern
//!   released, the acquire pattern that reads from it, or from atomics after it, knows ([`place`],
//!   [`strong`]), if the scopes of both include the other's thread (morally strong, section 8.6).
//!
//! Where the model is not followed to the letter more counts as ordered, never less.
//!
//! What the shadows of memory ask:
//! - [`Clocks::now`] gives the step that an access of a warp belongs to now. Block, warp, lane and
//!   step are a [`Stamp`], which a shadow keeps of the access.
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
