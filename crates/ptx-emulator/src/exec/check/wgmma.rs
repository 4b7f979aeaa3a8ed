//! `wgmma` (PTX ISA section 9.7.15): registers in flight, missing fences, operands that were never
//! written or that lie otherwise than a bulk copy has put them.
//!
//! A fence is missing before a warp's first product, and where a register of a product was accessed
//! since the last one. Moves between a fence and the next commit or wait don't count as accesses:
//! compilers place start values there that stand before the fence in the source.

use super::hooks::undefined_lanes;
use super::line::LINE;
use super::proxy::{Flight, Piece};
use super::report::{line, undefined};
use super::{Checks, Source, Undefined};
use crate::decode::op::{Class, Flag, Inst, Move, Op, Product, Reg, RegList, Sum, Wgmma};
use crate::decode::uses_list;
use crate::exec::bulk::Swizzle;
use crate::exec::fault::FaultKind;
use crate::exec::interpret::{Run, list, list as list_of};
use crate::exec::registers::{FULL, LANES, lanes};
use crate::exec::trap::{Outcome, Trap};
use crate::exec::wgmma::descriptor::{Layout, PIECE, pieces};
use crate::exec::wgmma::{Flight as InFlight, Operands};

/// What is known of one warp.
#[derive(Default)]
pub(super) struct Watch {
    /// Word registers of D, and of A's fragments, in flight: a bit for each slot.
    sums: Vec<u64>,
    fragments: Vec<u64>,
    /// Word registers accessed since the last `wgmma.fence`, where one may be missing.
    touched: Vec<u64>,
    fenced: bool,
    /// There was a fence after the last commit or wait.
    opened: bool,
}

impl Watch {
    pub fn reset(&mut self) {
        self.sums.clear();
        self.fragments.clear();
        self.touched.clear();
        self.fenced = false;
        self.opened = false;
    }
}

fn index(reg: Reg) -> Option<usize> {
    (reg.class() == Some(Class::Word)).then(|| reg.index())
}

fn insert(set: &mut Vec<u64>, reg: Reg) {
    if let Some(at) = index(reg) {
        if set.len() <= at / 64 {
            set.resize(at / 64 + 1, 0);
        }
        set[at / 64] |= 1 << (at % 64);
    }
}

fn holds(set: &[u64], reg: Reg) -> bool {
    index(reg).is_some_and(|at| {
        set.get(at / 64)
            .is_some_and(|bits| bits >> (at % 64) & 1 == 1)
    })
}

/// The registers of A's fragment.
fn fragment(list: &RegList, product: Product) -> &[Reg] {
    let count = if product.has(Flag::RegisterA) { 4 } else { 0 };
    list.uses.get(..count).unwrap_or(&[])
}

fn same_shape(one: Product, other: Product) -> bool {
    (one.n8, one.k(), one.sum) == (other.n8, other.k(), other.sum)
}

impl Run<'_, '_, '_> {
    /// Before an instruction of a watched warp.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn watch(&mut self, inst: &Inst) -> Outcome {
        if let Op::Wgmma(_) = inst.op {
            return Ok(());
        }
        let mut active = self.group.mask;
        if inst.guard.is_some() {
            let guard = self.warp.regs.pred(inst.guard);
            active &= if inst.guard_negated { !guard } else { guard };
        }
        let Some(checks) = self.core.checks.as_mut().filter(|_| active != 0) else {
            return Ok(());
        };
        let watch = &mut checks.warps[self.warp.index as usize].watch;
        let more = uses_list(inst).then(|| list(self.launch, inst));
        let read = more.into_iter().flat_map(|list| &list.uses);
        let read = inst.s.iter().chain(read);
        let written = more.into_iter().flat_map(|list| &list.defs);
        let written = inst.d.iter().chain(written);
        let in_flight = |reg: &&Reg| holds(&watch.sums, **reg) || holds(&watch.fragments, **reg);
        let found = read.clone().find(in_flight).map(|reg| (*reg, "read"));
        let found = found.or_else(|| written.clone().find(in_flight).map(|reg| (*reg, "written")));
        if let Some((reg, how)) = found {
            return Err(self.in_flight(reg, how, active));
        }
        if self.launch.kernel.may_lack_fence && !(inst.op == Op::Move(Move::Word) && watch.opened) {
            read.chain(written)
                .for_each(|&reg| insert(&mut watch.touched, reg));
        }
        Ok(())
    }

    /// A register in flight was accessed.
    fn in_flight(&self, reg: Reg, how: &str, active: u32) -> Box<Trap> {
        let mut message = format!("wgmma in flight: a register is {how} before a wgmma.wait_group");
        let found = self
            .core
            .warpgroups
            .flights(self.warp.index)
            .find(|flight| {
                let list = list(self.launch, &self.launch.kernel.code[flight.pc as usize]);
                list.defs.contains(&reg) || fragment(list, flight.product).contains(&reg)
            });
        if let Some(flight) = found {
            let list = list(self.launch, &self.launch.kernel.code[flight.pc as usize]);
            let role = if list.defs.contains(&reg) { "D" } else { "A" };
            let group = if flight.committed {
                ""
            } else {
                ", which was not committed to a group,"
            };
            message = format!(
                "wgmma in flight: a register of {role} is {how} before a wgmma.wait_group has \
                 covered the wgmma{group} at {}",
                line(self.launch, flight.pc as usize)
            );
        }
        let lane = active.trailing_zeros() as usize % LANES;
        Trap::new(FaultKind::LaunchFailed, lane, message)
    }

    /// Before a `wgmma` of the whole warp.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn check_wgmma(&mut self, inst: &Inst, op: Wgmma) -> Outcome {
        let warp = self.warp.index as usize;
        let Some(checks) = self.core.checks.as_mut() else {
            return Ok(());
        };
        let watch = &mut checks.warps[warp].watch;
        match op {
            Wgmma::Fence => {
                watch.touched.fill(0);
                watch.fenced = true;
                watch.opened = true;
                Ok(())
            }
            Wgmma::Commit | Wgmma::Wait => {
                watch.opened = false;
                Ok(())
            }
            Wgmma::Multiply(product) => self.check_product(inst, product),
        }
    }

    fn check_product(&mut self, inst: &Inst, product: Product) -> Outcome {
        let warp = self.warp.index as usize;
        let list = list(self.launch, inst);
        let (defs, a) = (list.defs.as_slice(), fragment(list, product));
        let Some(checks) = self.core.checks.as_ref() else {
            return Ok(());
        };
        if self.tainted() {
            let operands = [(0, "an address"), (1, "an address"), (2, "scale-d")];
            for (at, what) in operands {
                let bad = undefined_lanes(checks, warp, inst.s[at]);
                if bad != 0 {
                    return Err(undefined(self, checks, bad.trailing_zeros() as usize, what));
                }
            }
        }
        let watch = &checks.warps[warp].watch;
        if self.launch.kernel.may_lack_fence {
            let lacks = if !watch.fenced {
                Some("this is the first wgmma, and no wgmma.fence comes before it")
            } else if defs.iter().chain(a).any(|reg| holds(&watch.touched, *reg)) {
                Some("registers of this wgmma were accessed after the last wgmma.fence")
            } else {
                None
            };
            if let Some(what) = lacks {
                let message = format!("missing wgmma.fence: {what}");
                return Err(Trap::new(FaultKind::LaunchFailed, 0, message));
            }
        }
        // Sums of one shape may follow each other, and fragments of A be shared.
        if let Some(reg) = a.iter().find(|reg| holds(&watch.sums, **reg)) {
            return Err(self.in_flight(*reg, "used as A", FULL));
        }
        if let Some(reg) = defs.iter().find(|reg| holds(&watch.fragments, **reg)) {
            return Err(self.in_flight(*reg, "written", FULL));
        }
        if defs.iter().any(|reg| holds(&watch.sums, *reg)) {
            let code = &self.launch.kernel.code;
            let other = self
                .core
                .warpgroups
                .flights(self.warp.index)
                .find(|flight| {
                    let before = list_of(self.launch, &code[flight.pc as usize]);
                    !same_shape(flight.product, product)
                        && before.defs.iter().any(|reg| defs.contains(reg))
                });
            if let Some(flight) = other {
                let message = format!(
                    "wgmma in flight: registers of D are used by a wgmma of another shape before a \
                     wgmma.wait_group has covered that at {}",
                    line(self.launch, flight.pc as usize)
                );
                return Err(Trap::new(FaultKind::LaunchFailed, 0, message));
            }
        }
        if let Some(checks) = self.core.checks.as_mut() {
            let watch = &mut checks.warps[warp].watch;
            defs.iter().for_each(|&reg| insert(&mut watch.sums, reg));
            a.iter().for_each(|&reg| insert(&mut watch.fragments, reg));
            self.core.watched |= 1 << warp;
        }
        Ok(())
    }

    /// After a wait: what is still in flight.
    pub(in crate::exec) fn check_waited(&mut self) {
        let warp = self.warp.index as usize;
        let launch = self.launch;
        let Some(checks) = self.core.checks.as_mut() else {
            return;
        };
        let watch = &mut checks.warps[warp].watch;
        watch.sums.fill(0);
        watch.fragments.fill(0);
        let mut any = launch.kernel.may_lack_fence;
        for flight in self.core.warpgroups.flights(warp as u32) {
            let list = list(launch, &launch.kernel.code[flight.pc as usize]);
            list.defs
                .iter()
                .for_each(|&reg| insert(&mut watch.sums, reg));
            fragment(list, flight.product)
                .iter()
                .for_each(|&reg| insert(&mut watch.fragments, reg));
            any = true;
        }
        if !any {
            self.core.watched &= !(1 << warp);
        }
    }

    /// A warp exits: it must have waited for its products.
    pub(super) fn products_at_exit(&self, active: u32) -> Outcome {
        let Some(flight) = self.core.warpgroups.flights(self.warp.index).next() else {
            return Ok(());
        };
        let message = format!(
            "wgmma in flight: the thread exits without a wgmma.wait_group that covers the wgmma at \
             {}",
            line(self.launch, flight.pc as usize)
        );
        let lane = active.trailing_zeros() as usize % LANES;
        Err(Trap::new(FaultKind::LaunchFailed, lane, message))
    }
}

impl Run<'_, '_, '_> {
    /// A warp's reads of a product's operands begin. A warp stands for its own rows of A, and for a
    /// part of B, which all four read: so a product is looked at once. The lines of B that fall to
    /// it are spread, so that they are others than those that it has written itself.
    pub(in crate::exec) fn begin_reads(
        &mut self,
        product: Product,
        [a, b]: [Option<Layout>; 2],
    ) -> Result<Option<Flight>, Box<Trap>> {
        if self.core.checks.is_none() {
            return Ok(None);
        }
        let quarter = self.warp.index as usize % 4;
        let mut places = Vec::new();
        if let Some(a) = a {
            let transposed = product.has(Flag::TransposeA);
            let row_of = |number: usize| {
                if transposed {
                    number % 8 * 8
                } else {
                    number / 2
                }
            };
            let own = (0..pieces(64)).filter(|&number| row_of(number) / 16 == quarter);
            places.extend(own.map(|number| a.piece(number, transposed, 64)));
            self.check_swizzle("A", a, places.as_slice())?;
        }
        if let Some(b) = b {
            let (transposed, n) = (product.has(Flag::TransposeB), product.n());
            let from = places.len();
            let all = (0..pieces(n)).map(|number| b.piece(number, transposed, n));
            places.extend(all.filter(|at| {
                let line = at / LINE as usize;
                (line + line / 4 + line / 16 + line / 64 + 1) % 4 == quarter
            }));
            self.check_swizzle("B", b, &places[from..])?;
        }
        places.sort_unstable();
        places.dedup();
        let rank = self.core.rank;
        let reads = places.into_iter().map(|at| Piece::Shared {
            rank,
            offset: at as u64,
            bytes: PIECE as u64,
        });
        self.async_read_begin(FULL, reads).map(Some)
    }

    /// A descriptor must say the swizzle with which a bulk copy has written the bytes.
    fn check_swizzle(&mut self, name: &str, layout: Layout, places: &[usize]) -> Outcome {
        let core = &mut *self.core;
        let Some(checks) = core.checks.as_mut() else {
            return Ok(());
        };
        for &at in places {
            let Some(written) = core.bulk.written_swizzle(at as u32) else {
                continue;
            };
            let span = match written {
                Swizzle::None => PIECE,
                Swizzle::Bytes32 => 32,
                Swizzle::Bytes64 => 64,
                Swizzle::Bytes128 => 128,
            };
            if span == layout.span() || checks.shared.is_written_plainly(at as u64) {
                continue;
            }
            let words = |span: usize| match span {
                PIECE => "no swizzle".to_owned(),
                _ => format!("a swizzle of {span} bytes"),
            };
            let message = format!(
                "swizzle: the descriptor of {name} says {}, and a bulk copy has written its bytes \
                 at {at:#x} of shared memory with {}",
                words(layout.span()),
                words(span)
            );
            return Err(Trap::new(FaultKind::LaunchFailed, 0, message));
        }
        Ok(())
    }
}

impl Checks {
    /// Notes which rows of A and columns of B hold bytes that were never written.
    pub(in crate::exec) fn undefined_operands(
        &self,
        operands: &mut Operands,
        product: Product,
        a: Option<Layout>,
        b: Layout,
    ) {
        let undefined_at = &mut operands.undefined_at;
        let mut look =
            |layout: Layout, transposed: bool, extent: usize, set: &mut dyn FnMut(usize)| {
                for number in 0..pieces(extent) {
                    let at = layout.piece(number, transposed, extent);
                    let undefined = !self.shared.defined(at as u64, 16) & 0xffff;
                    if undefined == 0 {
                        continue;
                    }
                    let first = at as u64 + u64::from(undefined.trailing_zeros());
                    undefined_at.get_or_insert(first);
                    if !transposed {
                        set(number / 2);
                        continue;
                    }
                    let first = 8 * (number % (extent / 8));
                    (0..8)
                        .filter(|i| undefined >> (2 * i) & 3 != 0)
                        .for_each(|i| set(first + i));
                }
            };
        if let Some(a) = a {
            let rows = &mut operands.undefined_rows;
            look(a, product.has(Flag::TransposeA), 64, &mut |row| {
                *rows |= 1 << row
            });
        }
        let columns = &mut operands.undefined_columns;
        let mark = &mut |column: usize| columns[column / 64] |= 1 << (column % 64);
        look(b, product.has(Flag::TransposeB), product.n(), mark);
    }

    /// How undefined bits move through a warp's product. `tainted`: there are some in its
    /// registers. True if there are some afterwards.
    pub(in crate::exec) fn follow_product(
        &mut self,
        warp: usize,
        flight: InFlight,
        keeps: bool,
        list: &RegList,
        operands: &Operands,
        tainted: bool,
    ) -> bool {
        let (pc, product) = (flight.pc as usize, flight.product);
        let mut rows = (operands.undefined_rows >> (16 * (warp % 4))) as u16;
        if product.has(Flag::RegisterA) {
            rows = 0;
        }
        let is_clean = rows == 0 && operands.undefined_columns.iter().all(|&word| word == 0);
        if is_clean && !tainted {
            return false;
        }
        let state = &mut self.warps[warp];
        if let Some(address) = operands.undefined_at {
            let space = "shared";
            let source = Source::Memory { space, address };
            state.undefined = [Some(Undefined { pc, source }); LANES];
        }
        let poison = &mut state.poison;
        for (i, reg) in fragment(list, product).iter().enumerate() {
            for lane in lanes(poison.nonzero(*reg)) {
                rows |= 1 << (lane / 4 + 8 * (i % 2));
            }
        }
        let bad = |row: usize, column: usize| {
            rows >> row & 1 == 1
                || operands.undefined_columns[column / 64] >> (column % 64) & 1 == 1
        };
        let mut any = false;
        for (at, &reg) in list.defs.iter().enumerate() {
            let mut out = if keeps { *poison.word(reg) } else { [0; LANES] };
            for (lane, bits) in out.iter_mut().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                if product.sum == Sum::F16 {
                    let (row, column) = (g + 8 * (at % 2), 8 * (at / 2) + 2 * t);
                    *bits |= if bad(row, column) { 0xffff } else { 0 };
                    *bits |= if bad(row, column + 1) { 0xffff_0000 } else { 0 };
                } else if bad(g + 8 * (at % 4 / 2), 8 * (at / 4) + 2 * t + at % 2) {
                    *bits = u32::MAX;
                }
                // A sum depends on all bits of what is added to it.
                if product.sum != Sum::F16 && *bits != 0 {
                    *bits = u32::MAX;
                }
            }
            any |= out != [0; LANES];
            poison.set_word(reg, FULL, &out);
        }
        any
    }
}
