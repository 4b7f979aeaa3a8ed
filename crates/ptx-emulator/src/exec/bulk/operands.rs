//! One lane's operands of a bulk copy.

use crate::decode::op::Reg;
use crate::exec::registers::Registers;

/// The operands that are left, in the order that [`crate::decode::op::Bulk`] gives.
pub(super) struct Operands {
    values: std::vec::IntoIter<(u64, bool)>,
}

impl Operands {
    pub fn new(regs: &Registers, uses: &[Reg], lane: usize) -> Self {
        let values: Vec<_> = uses
            .iter()
            .map(|&reg| (regs.any(reg)[lane], reg.is_wide()))
            .collect();
        Operands {
            values: values.into_iter(),
        }
    }

    /// An address: a register and an offset.
    pub fn address(&mut self) -> u64 {
        let (base, is_wide) = self.values.next().unwrap_or_default();
        let offset = self.word().cast_signed();
        if is_wide {
            base.wrapping_add_signed(i64::from(offset))
        } else {
            u64::from((base as u32).wrapping_add_signed(offset))
        }
    }

    pub fn word(&mut self) -> u32 {
        self.wide() as u32
    }

    pub fn wide(&mut self) -> u64 {
        self.values.next().unwrap_or_default().0
    }

    pub fn coordinates(&mut self, rank: u8) -> Vec<i64> {
        (0..rank)
            .map(|_| i64::from(self.word().cast_signed()))
            .collect()
    }
}
