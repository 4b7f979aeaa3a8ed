//! Where an access goes, and which of its bytes are defined.

use super::{Checks, Source, Undefined};
use crate::decode::op::Window;
use crate::decode::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::exec::interpret::Run;
use crate::exec::space::block_of;
use crate::memory::{Allocation, FIRST_ADDRESS};

/// The place of a lane's bytes. An address outside of every space is left to the access, which
/// faults.
#[derive(Clone, Copy)]
pub(super) enum Spot<'a> {
    Shared(u64),
    Local(u64),
    /// Of another block of the cluster: its rank, and the place in its shared memory.
    Peer(u32, u64),
    Global(&'a Allocation, u64),
    None,
}

impl Spot<'_> {
    /// The place so many bytes behind.
    pub fn behind(self, bytes: u64) -> Self {
        match self {
            Spot::Shared(at) => Spot::Shared(at + bytes),
            Spot::Local(at) => Spot::Local(at + bytes),
            Spot::Peer(rank, at) => Spot::Peer(rank, at + bytes),
            Spot::Global(a, va) => Spot::Global(a, va + bytes),
            Spot::None => Spot::None,
        }
    }

    /// Whether lanes side by side have places side by side.
    pub fn is_common(self) -> bool {
        matches!(self, Spot::Shared(_) | Spot::Global(..))
    }
}

/// A bit for each byte to a mask of bits.
pub(super) fn spread(bytes: u64) -> u64 {
    (0..8).fold(0, |all, i| all | ((bytes >> i & 1) * 0xff) << (8 * i))
}

/// The bytes that have any bit set.
pub(super) fn gather(bits: u64, bytes: u32) -> u64 {
    (0..bytes).fold(0, |all, i| {
        all | u64::from(bits >> (8 * i) & 0xff != 0) << i
    })
}

pub(super) fn all(bytes: u32) -> u64 {
    u64::MAX >> (64 - bytes.clamp(1, 64))
}

impl Checks {
    fn local_defined(&self, warp: usize, at: usize, bytes: u32) -> u64 {
        let bits = &self.warps[warp].local;
        (0..bytes as usize).fold(0, |all, i| {
            let bit = bits
                .get((at + i) / 64)
                .map_or(1, |w| w >> ((at + i) % 64) & 1);
            all | bit << i
        })
    }

    fn define_local(&mut self, warp: usize, at: usize, bytes: u32, defined: u64) {
        for i in 0..bytes as usize {
            if let Some(word) = self.warps[warp].local.get_mut((at + i) / 64) {
                let bit = 1 << ((at + i) % 64);
                *word = if defined >> i & 1 == 1 {
                    *word | bit
                } else {
                    *word & !bit
                };
            }
        }
    }
}

impl<'w> Run<'_, '_, 'w> {
    pub(super) fn spot(&mut self, window: Window, va: u64, lane: usize, bytes: u32) -> Spot<'w> {
        let inside =
            |offset: u64, len: usize| offset.saturating_add(u64::from(bytes)) <= len as u64;
        let shared = self.core.shared.len();
        let each = self.launch.kernel.info.local_bytes;
        let (window, offset) = match window {
            Window::Generic if va >= FIRST_ADDRESS => (Window::Global, va),
            Window::Generic if va.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES => {
                (Window::Shared, va - SHARED_WINDOW)
            }
            Window::Generic if va.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES => {
                (Window::Local, va - LOCAL_WINDOW)
            }
            other => (other, va),
        };
        if let Window::Cluster | Window::Generic | Window::Shared = window
            && let Some((rank, at)) = block_of(window, va)
        {
            let rank = rank.unwrap_or(self.core.rank);
            let at = u64::from(at);
            let fits = inside(at, shared);
            return match rank == self.core.rank {
                true if fits => Spot::Shared(at),
                false if fits && self.peers.core(rank as usize).is_some() => Spot::Peer(rank, at),
                _ => Spot::None,
            };
        }
        match window {
            Window::Shared if inside(offset, shared) => Spot::Shared(offset),
            Window::Local if inside(offset, each as usize) => {
                Spot::Local(lane as u64 * u64::from(each) + offset)
            }
            Window::Global => {
                let found = self
                    .worker
                    .shadows
                    .as_mut()
                    .and_then(|s| s.find(offset, bytes));
                found.map_or(Spot::None, |a| Spot::Global(a, offset))
            }
            _ => Spot::None,
        }
    }

    /// For reports: a lane reads memory that was never written in part.
    #[cold]
    pub(super) fn remember_unwritten(&self, checks: &mut Checks, spot: &Spot<'_>, lane: usize) {
        let (space, address) = match *spot {
            Spot::Shared(at) | Spot::Peer(_, at) => ("shared", at),
            Spot::Local(at) => (
                "local",
                at - lane as u64 * u64::from(self.launch.kernel.info.local_bytes),
            ),
            Spot::Global(_, va) => ("global", va),
            Spot::None => return,
        };
        let pc = self.group.pc as usize;
        let source = Source::Memory { space, address };
        checks.warps[self.warp.index as usize].undefined[lane] = Some(Undefined { pc, source });
    }

    pub(super) fn defined(&self, checks: &Checks, spot: &Spot<'_>, bytes: u32) -> u64 {
        match *spot {
            Spot::Shared(at) => checks.shared.defined(at, bytes),
            Spot::Peer(rank, at) => {
                let other = self
                    .peers
                    .look(rank as usize)
                    .and_then(|core| core.checks.as_ref());
                other.map_or(all(bytes), |checks| checks.shared.defined(at, bytes))
            }
            Spot::Local(at) => checks.local_defined(self.warp.index as usize, at as usize, bytes),
            Spot::Global(a, va) => a.shadow.defined(va - a.base, bytes),
            Spot::None => all(bytes),
        }
    }

    /// Whether all of some bytes have been written.
    pub(super) fn is_defined(&self, checks: &Checks, spot: &Spot<'_>, bytes: u32) -> bool {
        (0..bytes).step_by(64).all(|from| {
            let part = (bytes - from).min(64);
            self.defined(checks, &spot.behind(u64::from(from)), part) == all(part)
        })
    }

    pub(super) fn define(
        &mut self,
        checks: &mut Checks,
        spot: &Spot<'_>,
        bytes: u32,
        defined: u64,
    ) {
        match *spot {
            Spot::Shared(at) => checks.shared.define(at, bytes, defined),
            Spot::Peer(rank, at) => {
                let other = self.peers.core(rank as usize);
                if let Some(checks) = other.and_then(|core| core.checks.as_mut()) {
                    checks.shared.define(at, bytes, defined);
                }
            }
            Spot::Local(at) => {
                checks.define_local(self.warp.index as usize, at as usize, bytes, defined)
            }
            Spot::Global(a, va) => {
                let at = va - a.base;
                a.shadow.note_use();
                if defined == all(bytes) {
                    a.shadow.define(at, u64::from(bytes));
                    return;
                }
                for i in 0..bytes {
                    if defined >> i & 1 == 1 {
                        a.shadow.define(at + u64::from(i), 1);
                    } else {
                        a.shadow.undefine(at + u64::from(i), 1);
                    }
                }
            }
            Spot::None => {}
        }
    }
}
