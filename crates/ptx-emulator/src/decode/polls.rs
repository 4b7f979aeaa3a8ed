//! Which volatile loads wait for a value: those whose value a comparison looks at.

use super::op::{Inst, NO_LIST, Op, Order, Reg, RegList};

/// Instructions behind a load within which its value is followed.
const WINDOW: usize = 24;

/// Marks the loads. Registers must still be those of the text, not slots.
pub(super) fn mark(code: &mut [Inst], lists: &[RegList]) {
    for at in 0..code.len() {
        let Op::Load(access) = code[at].op else {
            continue;
        };
        if access.order != Order::Volatile {
            continue;
        }
        let Some(list) = lists.get(code[at].list as usize) else {
            continue;
        };
        let polls = is_compared(&code[at + 1..], lists, list.defs.clone());
        if let Op::Load(access) = &mut code[at].op {
            access.polls = polls;
        }
    }
}

fn is_compared(code: &[Inst], lists: &[RegList], mut values: Vec<Reg>) -> bool {
    for inst in code.iter().take(WINDOW) {
        let list = (inst.list != NO_LIST && has_list(inst.op))
            .then(|| lists.get(inst.list as usize))
            .flatten();
        let uses = list.map_or(&[][..], |list| &list.uses);
        let reads = inst.s.iter().chain(uses).any(|r| values.contains(r));
        match inst.op {
            Op::Compare(_) if reads => return true,
            Op::Control(_) | Op::Barrier(_) => return false,
            Op::Store(_) | Op::Atomic(_) => {}
            _ if reads => {
                let defs = list.map_or(&[][..], |list| &list.defs);
                values.extend(inst.d.iter().chain(defs).filter(|r| r.is_some()));
            }
            _ => {}
        }
    }
    false
}

/// Whether an instruction's `list` is one of registers.
fn has_list(op: Op) -> bool {
    !matches!(op, Op::Control(_) | Op::Async(_))
}
