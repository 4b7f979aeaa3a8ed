//! Registers that say which bits of the real ones are undefined.

use super::hooks::nonzero;
use crate::decode::op::{Class, Reg};
use crate::exec::registers::Registers;

impl Registers {
    /// Lanes in which a register has undefined bits.
    pub(super) fn nonzero(&self, reg: Reg) -> u32 {
        match reg.class() {
            Some(Class::Word) => nonzero(self.word(reg)),
            Some(Class::Wide) => nonzero(self.wide(reg)),
            Some(Class::Pred) => self.pred(reg),
            None => 0,
        }
    }

    pub(super) fn lane(&self, reg: Reg, lane: usize) -> u64 {
        match reg.class() {
            Some(Class::Word) => u64::from(self.word(reg)[lane]),
            Some(Class::Wide) => self.wide(reg)[lane],
            Some(Class::Pred) => u64::from(self.pred(reg) >> lane & 1),
            None => 0,
        }
    }

    /// Makes the lanes in `mask` wholly undefined where `bad` says so, else defined.
    pub(super) fn taint(&mut self, reg: Reg, mask: u32, bad: u32) {
        match reg.class() {
            Some(Class::Pred) => self.set_pred(reg, mask, bad),
            Some(_) => {
                let mut out = [0; 32];
                for (lane, value) in out.iter_mut().enumerate() {
                    *value = if bad >> lane & 1 == 1 { u64::MAX } else { 0 };
                }
                self.set_any(reg, mask, &out);
            }
            None => {}
        }
    }
}
