//! `ldmatrix` and `stmatrix` (PTX ISA section 9.7.14): rows of 16 bytes, whose elements are spread
//! over the warp.

use super::Checks;
use super::gather::Fate;
use super::line;
use crate::decode::op::{Inst, Window};
use crate::exec::interpret::{Run, list};
use crate::exec::registers::{FULL, LANES, lanes};
use crate::exec::space::addresses;
use crate::exec::trap::Outcome;

/// Where a register holds an element of its matrix in memory: (lane, shift of its 16 bits).
fn holder(row: usize, column: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = if transposed {
        (column, row)
    } else {
        (row, column)
    };
    (4 * row + column / 2, 16 * (column % 2))
}

impl Run<'_, '_, '_> {
    pub(super) fn matrix_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        transposed: bool,
        window: Window,
        load: bool,
    ) -> Outcome {
        let list = list(self.launch, inst);
        let regs = if load { &list.defs } else { &list.uses };
        let rows = if regs.len() >= 4 {
            FULL
        } else {
            (1 << (8 * regs.len())) - 1
        };
        self.address_defined(checks, inst.s[0], rows)?;
        let me = checks.me(self);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        // Bits of the row's bytes, by the lane that gives its address.
        let mut undefined = [0_u64; LANES];
        if !load && self.tainted() {
            let poison = &checks.warps[me.warp].poison;
            for (matrix, reg) in regs.iter().enumerate() {
                for (row, column) in (0..8).flat_map(|row| (0..8).map(move |column| (row, column)))
                {
                    let (lane, shift) = holder(row, column, transposed);
                    let bits = poison.lane(*reg, lane) >> shift;
                    let bytes = u64::from(bits & 0xff != 0) | u64::from(bits & 0xff00 != 0) << 1;
                    undefined[8 * matrix + row] |= bytes << (2 * column);
                }
            }
        }
        let like = self.blank(checks, &me, if load { 0 } else { line::WRITE });
        let mut gathered = std::mem::take(&mut checks.gathered);
        for lane in lanes(rows) {
            let spot = self.spot(window, targets[lane], lane, 16);
            gathered.add_together(&spot, 16, FULL, &like);
            if load {
                undefined[lane] = !self.defined(checks, &spot, 16) & 0xffff;
                if undefined[lane] != 0 {
                    self.remember_unwritten(checks, &spot, lane);
                }
            } else {
                self.define(checks, &spot, 16, !undefined[lane] & 0xffff);
            }
        }
        let done = self.commit(checks, &me, &mut gathered, Fate::Touch, None);
        checks.gathered = gathered;
        done?;
        if !load || (!self.tainted() && undefined.iter().all(|&u| u == 0)) {
            return Ok(());
        }
        self.core.tainted |= 1 << self.warp.index;
        let poison = &mut checks.warps[me.warp].poison;
        for (matrix, reg) in regs.iter().enumerate() {
            let mut out = [0; LANES];
            for (row, column) in (0..8).flat_map(|row| (0..8).map(move |column| (row, column))) {
                let (lane, shift) = holder(row, column, transposed);
                if undefined[8 * matrix + row] >> (2 * column) & 3 != 0 {
                    out[lane] |= 0xffff << shift;
                }
            }
            poison.set_word(*reg, FULL, &out);
        }
        Ok(())
    }
}
