//! What accesses of every kind have in common: who makes them, that their address is defined, that
//! they are recorded and ordered.

use super::{Checks, Me, report};
use crate::decode::op::{Access, Inst, Reg};
use crate::exec::interpret::Run;
use crate::exec::registers::Wides;
use crate::exec::space::addresses;
use crate::exec::trap::{Outcome, Trap};

/// A load or a store, as far as they are alike.
pub(super) struct Begun {
    pub me: Me,
    pub targets: Wides,
    /// Bytes that each lane accesses.
    pub bytes: u32,
}

impl Checks {
    pub(super) fn me(&self, run: &Run<'_, '_, '_>) -> Me {
        Me {
            block: run.core.linear,
            warp: run.warp.index as usize,
            pc: run.group.pc as usize,
        }
    }
}

impl Run<'_, '_, '_> {
    pub(super) fn begin(
        &self,
        checks: &mut Checks,
        inst: &Inst,
        active: u32,
        access: Access,
    ) -> Result<Begun, Box<Trap>> {
        self.address_defined(checks, inst.s[0], active)?;
        let me = checks.me(self);
        Ok(Begun {
            me,
            targets: addresses(&self.warp.regs, inst.s[0], inst.imm),
            bytes: access.width.bytes() * u32::from(access.count),
        })
    }

    pub(super) fn address_defined(&self, checks: &Checks, reg: Reg, active: u32) -> Outcome {
        if !self.tainted() || !reg.is_some() {
            return Ok(());
        }
        let bad = active & checks.warps[self.warp.index as usize].poison.nonzero(reg);
        if bad != 0 {
            return Err(report::undefined(
                self,
                checks,
                bad.trailing_zeros() as usize,
                "an address",
            ));
        }
        Ok(())
    }
}
