//! `mov` and its packing and unpacking forms (PTX ISA section 9.7.9.3).

use super::registers::{LANES, Registers};
use crate::decode::op::{Inst, Move, RegList};

pub(super) fn moves(regs: &mut Registers, inst: &Inst, mask: u32, op: Move, list: &RegList) {
    let (d, a) = (inst.d[0], inst.s[0]);
    match op {
        Move::Word => {
            let values = *regs.word(a);
            regs.set_word(d, mask, &values);
        }
        Move::Wide => {
            let values = *regs.wide(a);
            regs.set_wide(d, mask, &values);
        }
        Move::Pred => {
            let bits = regs.pred(a);
            regs.set_pred(d, mask, bits);
        }
        Move::Pack(bits) => {
            let mut out = [0; LANES];
            for (part, reg) in list.uses.iter().enumerate() {
                let shift = part * usize::from(bits);
                let values = regs.word(*reg);
                for lane in 0..LANES {
                    out[lane] |= u64::from(values[lane]) << shift;
                }
            }
            regs.set_any(d, mask, &out);
        }
        Move::Unpack(bits) => {
            let values = regs.any(a);
            let low = (1_u64 << bits) - 1;
            for (part, reg) in list
                .defs
                .iter()
                .enumerate()
                .filter(|(_, reg)| reg.is_some())
            {
                let shift = part * usize::from(bits);
                let mut out = [0; LANES];
                for lane in 0..LANES {
                    out[lane] = (values[lane] >> shift & low) as u32;
                }
                regs.set_word(*reg, mask, &out);
            }
        }
        Move::Special(_) => {}
    }
}
