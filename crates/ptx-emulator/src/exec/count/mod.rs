//! Counters: what each instruction of a launch did. Everything is derived from an instruction and
//! the registers before it runs, so the code that executes instructions knows nothing of it.

mod banks;
mod bulk;
mod kind;
mod sectors;
mod tally;
mod traffic;

use std::collections::BTreeMap;

pub(super) use self::bulk::Moved;
pub use self::kind::Kind;
pub use self::tally::{Dram, KernelCounters, PtxLine, SourceLine, Tally};
use self::traffic::Traces;
use super::mma;
use super::registers::{FULL, LANES, Registers, Wides, lanes};
use super::space::addresses;
use super::wgmma;
use super::wgmma::descriptor::Layout;
use crate::decode::op::{Async, Flag, Inst, Move, Op, Product, WarpOp, Window};
use crate::decode::{Kernel, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::l2::{Trace, Use};
use crate::memory::FIRST_ADDRESS;

/// One worker's counts, by instruction.
pub(crate) struct Counting {
    tallies: Vec<Tally>,
    /// `None` if DRAM traffic is not counted.
    traces: Option<Traces>,
}

impl Counting {
    pub fn new(kernel: &Kernel, traced: bool) -> Counting {
        Counting {
            tallies: vec![Tally::default(); kernel.code.len()],
            traces: traced.then(Traces::default),
        }
    }

    pub fn add(&mut self, other: Counting) {
        for (sum, more) in self.tallies.iter_mut().zip(&other.tallies) {
            sum.add(more);
        }
        if let (Some(sum), Some(more)) = (&mut self.traces, other.traces) {
            sum.add(more);
        }
    }

    /// What follows is done by the block of this number, which has done what is in `trace`.
    pub fn enter(&mut self, block: u64, trace: Trace) {
        if let Some(traces) = &mut self.traces {
            traces.enter(block, trace);
        }
    }

    /// What the block has done so far. Another worker may go on with it.
    pub fn leave(&mut self) -> Trace {
        self.traces.as_mut().map(Traces::leave).unwrap_or_default()
    }

    /// The block has passed a barrier.
    pub fn step(&mut self) {
        if let Some(traces) = &mut self.traces {
            traces.open().step();
        }
    }

    /// The blocks' accesses in the order of the blocks.
    pub fn take_traces(&mut self) -> Option<Vec<Trace>> {
        self.traces.take().map(Traces::finish)
    }

    /// An instruction that no lane executes.
    pub fn skipped(&mut self, pc: u32) {
        if let Some(tally) = self.tallies.get_mut(pc as usize) {
            tally.warp_instructions += 1;
            tally.predicated_off += 1;
        }
    }

    /// An instruction about to be executed by `active`. Operations that wait for other lanes are
    /// left to [`Counting::executed`]: they are looked at again when those have come.
    #[inline(never)]
    pub fn issued(&mut self, inst: &Inst, pc: u32, active: u32, regs: &Registers) {
        let waits = match inst.op {
            // The decoder puts this before an instruction with a special register among its
            // operands: it is part of that one.
            Op::Move(Move::Special(_)) => return,
            Op::Warp(WarpOp::ActiveMask | WarpOp::Pause) => false,
            Op::Warp(_) | Op::Barrier(_) | Op::Grid(_) => true,
            Op::Mma(_) => active != FULL,
            Op::Wgmma(_) => true,
            _ => false,
        };
        if !waits {
            self.executed(inst, pc, active, regs);
        }
    }

    /// An instruction that `active` executes together.
    pub fn executed(&mut self, inst: &Inst, pc: u32, active: u32, regs: &Registers) {
        let Some(tally) = self.tallies.get_mut(pc as usize) else {
            return;
        };
        tally.warp_instructions += 1;
        tally.lanes += u64::from(active.count_ones());
        let place = || addresses(regs, inst.s[0], inst.imm);
        let mut sinks = Sinks {
            tally,
            trace: self.traces.as_mut().map(Traces::open),
        };
        match inst.op {
            Op::Load(access) => {
                let bytes = access.width.bytes() * u32::from(access.count);
                sinks.access(access.window, &place(), active, bytes, Use::Read);
            }
            Op::Store(access) => {
                let bytes = access.width.bytes() * u32::from(access.count);
                sinks.access(access.window, &place(), active, bytes, Use::Write);
            }
            Op::Atomic(atomic) => {
                sinks.access(atomic.window, &place(), active, atomic.bytes(), Use::Update);
            }
            Op::Warp(
                WarpOp::LoadMatrix { count, window, .. }
                | WarpOp::StoreMatrix { count, window, .. },
            ) => {
                let rows = if count >= 4 {
                    FULL
                } else {
                    (1 << (8 * count)) - 1
                };
                sinks.access(window, &place(), active & rows, 16, Use::Read);
            }
            Op::Async(Async::Copy {
                bytes,
                ignore_negated,
            }) => {
                sinks.shared(&place(), active, u32::from(bytes), false);
                let read = source_bytes(inst, regs, bytes, ignore_negated);
                let from = addresses(regs, inst.s[1], inst.list.cast_signed());
                sinks.global(&from, active, Use::Read, |lane| u64::from(read[lane]));
            }
            Op::Mma(op) => sinks.tally.mma_flops += mma::flops(op),
            _ => {}
        }
    }

    /// A warp has issued a product of its warpgroup. The first of the four warps gives the layouts
    /// of the matrices in shared memory, which are read once for all of them.
    pub fn product(&mut self, pc: u32, product: Product, layouts: [Option<Layout>; 2]) {
        let Some(tally) = self.tallies.get_mut(pc as usize) else {
            return;
        };
        tally.mma_flops += wgmma::flops(product);
        let matrices = [(Flag::TransposeA, 64), (Flag::TransposeB, product.n())];
        for (layout, (flag, extent)) in layouts.into_iter().zip(matrices) {
            let Some(layout) = layout else {
                continue;
            };
            let found = banks::operand(layout, product.has(flag), extent);
            tally.shared_requests += 1;
            tally.wavefronts += found.taken;
            tally.ideal_wavefronts += found.ideal;
        }
    }

    /// The counts by kind and line.
    pub fn finish(self, kernel: &Kernel, file: impl Fn(u32) -> Option<String>) -> KernelCounters {
        let mut out = KernelCounters {
            kernel: kernel.info.name.clone(),
            launches: 1,
            ..KernelCounters::default()
        };
        let mut lines: BTreeMap<(u32, Kind), PtxLine> = BTreeMap::new();
        for ((inst, place), tally) in kernel.code.iter().zip(&kernel.places).zip(&self.tallies) {
            if tally.warp_instructions == 0 {
                continue;
            }
            let kind = Kind::of(&inst.op);
            out.total.add(tally);
            out.kinds.entry(kind).or_default().add(tally);
            let entry = lines
                .entry((place.ptx_line, kind))
                .or_insert_with(|| PtxLine {
                    ptx_line: place.ptx_line,
                    kind,
                    file: (place.line > 0).then(|| file(place.file)).flatten(),
                    line: place.line,
                    tally: Tally::default(),
                });
            entry.tally.add(tally);
        }
        out.ptx_lines = lines.into_values().collect();
        out
    }
}

/// Bytes that each lane's copy reads.
fn source_bytes(inst: &Inst, regs: &Registers, bytes: u8, ignore_negated: bool) -> [u8; LANES] {
    let mut out = [bytes; LANES];
    if inst.s[2].is_some() {
        let sizes = regs.word(inst.s[2]);
        for lane in 0..LANES {
            out[lane] = sizes[lane].min(u32::from(bytes)) as u8;
        }
    }
    if inst.s[3].is_some() {
        let ignored = regs.pred(inst.s[3]);
        for lane in lanes(if ignore_negated { !ignored } else { ignored }) {
            out[lane] = 0;
        }
    }
    out
}

/// What an instruction's accesses are entered in.
struct Sinks<'a> {
    tally: &'a mut Tally,
    trace: Option<&'a mut Trace>,
}

impl Sinks<'_> {
    /// An access of `bytes` bytes by each active lane. A generic one counts where its addresses
    /// lead.
    fn access(&mut self, window: Window, places: &Wides, active: u32, bytes: u32, how: Use) {
        let apart = how == Use::Update;
        match window {
            Window::Global => self.global(places, active, how, |_| u64::from(bytes)),
            Window::Shared | Window::Cluster => self.shared(places, active, bytes, apart),
            Window::Local | Window::Param => {}
            Window::Generic => {
                let (mut far, mut near) = (0, 0);
                for lane in lanes(active) {
                    match places[lane] & !(WINDOW_BYTES - 1) {
                        SHARED_WINDOW => near |= 1 << lane,
                        LOCAL_WINDOW | PARAM_WINDOW => {}
                        // Of another block of the cluster.
                        base if base < FIRST_ADDRESS => near |= 1 << lane,
                        _ => far |= 1 << lane,
                    }
                }
                self.global(places, far, how, |_| u64::from(bytes));
                self.shared(places, near, bytes, apart);
            }
        }
    }

    fn global(&mut self, places: &Wides, active: u32, how: Use, bytes: impl Fn(usize) -> u64) {
        let trace = &mut self.trace;
        let found = sectors::sectors(places, active, bytes, |sector| {
            if let Some(trace) = trace {
                trace.touch(sector, how);
            }
        });
        if found.bytes > 0 {
            self.tally.global_requests += 1;
            self.tally.global_bytes += found.bytes;
            self.tally.sectors += found.touched;
            self.tally.ideal_sectors += found.ideal;
        }
    }

    fn shared(&mut self, places: &Wides, active: u32, bytes: u32, apart: bool) {
        if active != 0 {
            let found = banks::wavefronts(places, active, bytes, apart);
            self.tally.shared_requests += 1;
            self.tally.wavefronts += found.taken;
            self.tally.ideal_wavefronts += found.ideal;
        }
    }
}
