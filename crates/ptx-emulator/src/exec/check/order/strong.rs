//! Strong accesses of a warp's lanes: what they find released, and what they release.

use super::Clocks;
use super::clocks::Strong;
use super::mind::Seen;
use super::place::{Find, Locked, Span};
use crate::decode::op::{AtomicOp, Inst, Op, Order, Scope, Window};
use crate::exec::check::spot::Spot;
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, Wides, lanes};
use crate::exec::space::{addresses, block_of};

/// Above all addresses of global memory.
const IN_CLUSTERS: u64 = 1 << 63;
/// More than a cluster has.
const MOST_BLOCKS: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Update,
}

/// A strong access of a warp that is about to happen, its places in global memory locked until it
/// has.
pub(in crate::exec) struct Pending<'r> {
    kind: Kind,
    order: Order,
    scope: Scope,
    bytes: u32,
    at: Wides,
    global: u32,
    shared: u32,
    /// Of a compare-and-swap: what the old value must be for it to write.
    expected: Option<Wides>,
    locked: Locked<'r>,
}

impl Pending<'_> {
    fn strong(&self, lane: usize) -> Strong {
        Strong {
            lane,
            span: Span {
                first: self.at[lane],
                bytes: self.bytes,
            },
            order: self.order,
            scope: self.scope,
        }
    }

    /// Goes through the lanes whose places are in `of`.
    fn apply(&self, clocks: &mut Clocks, warp: usize, mask: u32, failed: u32, of: &mut impl Find) {
        if self.kind == Kind::Load {
            let mut found: Vec<(usize, Seen)> = Vec::new();
            for lane in lanes(mask) {
                let strong = self.strong(lane);
                if let Some(places) = of.find(strong.span) {
                    found.push((lane, clocks.look(&strong, places)));
                }
            }
            clocks.loaded(warp, &found, self.order);
            return;
        }
        for lane in lanes(mask) {
            let strong = self.strong(lane);
            let Some(places) = of.find(strong.span) else {
                continue;
            };
            if self.kind == Kind::Store {
                clocks.store(warp, &strong, places);
            } else if failed >> lane & 1 == 0 {
                clocks.update(warp, &strong, places);
            } else {
                let seen = clocks.look(&strong, places);
                clocks.loaded(warp, &[(lane, seen)], self.order);
            }
        }
    }
}

impl<'r> Run<'r, '_, '_> {
    /// Before a strong access. What it finds released must belong to the value that it reads, and
    /// the order in which accesses are recorded must be that in which they happen: so its places
    /// are locked.
    #[inline(never)]
    pub(in crate::exec) fn begin_strong(
        &mut self,
        inst: &Inst,
        active: u32,
    ) -> Option<Pending<'r>> {
        let launch = self.launch;
        let (kind, order, scope, bytes, window) = match inst.op {
            Op::Load(access) | Op::Store(access) if access.is_strong() => {
                let bytes = access.width.bytes() * u32::from(access.count);
                let kind = if matches!(inst.op, Op::Load(_)) {
                    Kind::Load
                } else {
                    Kind::Store
                };
                (kind, access.order, access.scope, bytes, access.window)
            }
            Op::Atomic(atomic) => (
                Kind::Update,
                atomic.order,
                atomic.scope,
                atomic.bytes(),
                atomic.window,
            ),
            _ => return None,
        };
        // Of a swap whose operands are wider than a register we assume that it writes.
        if window == Window::Shared && !launch.kernel.sync.any && self.peers.size() == 1 {
            return None;
        }
        let swaps = matches!(inst.op, Op::Atomic(atomic) if atomic.op == AtomicOp::CompareSwap)
            && inst.s[1].is_some();
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let (mut at, mut global, mut shared) = ([0; LANES], 0, 0);
        let cluster = self.core.checks.as_ref()?.clocks.home().cluster;
        for lane in lanes(active) {
            if self.peers.size() > 1
                && let Some((rank, offset)) = block_of(window, targets[lane])
            {
                // Shared memory that other blocks reach has its places beside those of global
                // memory.
                let rank = u64::from(rank.unwrap_or(self.core.rank));
                at[lane] = IN_CLUSTERS | (cluster * MOST_BLOCKS + rank) << 24 | u64::from(offset);
                global |= 1 << lane;
                continue;
            }
            match self.spot(window, targets[lane], lane, bytes) {
                Spot::Global(_, va) => {
                    at[lane] = va;
                    global |= 1 << lane;
                }
                Spot::Shared(offset) => {
                    at[lane] = offset;
                    shared |= 1 << lane;
                }
                _ => {}
            }
        }
        let spans = lanes(global).map(|lane| Span {
            first: at[lane],
            bytes,
        });
        Some(Pending {
            kind,
            order,
            scope,
            bytes,
            locked: launch.places.lock(spans),
            at,
            global,
            shared,
            expected: swaps.then(|| self.warp.regs.any(inst.s[1])),
        })
    }

    /// After the access.
    #[inline(never)]
    pub(in crate::exec) fn end_strong(&mut self, inst: &Inst, mut pending: Pending<'r>) {
        let Some(checks) = self.core.checks.as_mut() else {
            return;
        };
        if !self.launch.kernel.sync.any {
            return;
        }
        let warp = self.warp.index as usize;
        let mut failed = 0;
        if let Some(expected) = &pending.expected
            && inst.d[0].is_some()
        {
            let old = self.warp.regs.any(inst.d[0]);
            failed = crate::exec::registers::collect(|lane| old[lane] != expected[lane]);
        }
        let clocks = &mut checks.clocks;
        let mut locked = std::mem::take(&mut pending.locked);
        if pending.global != 0 {
            pending.apply(clocks, warp, pending.global, failed, &mut locked);
        }
        if pending.shared != 0 {
            clocks.with_places(|clocks, places| {
                pending.apply(clocks, warp, pending.shared, failed, places);
            });
        }
        if pending.order.releases() {
            clocks.end_step(warp);
        }
    }
}
