//! Last steps of decoding a kernel: labels become instruction indices, branches get their join
//! points, registers their slots.

use super::builder::{Builder, CONSTANT, Constant, refusal};
use super::flight;
use super::flow::Flow;
use super::op::{Class, Control, Inst, NO_LIST, Op, Reg, SyncUse};
use super::polls;
use super::slots::{self, Assigned};
use super::{DecodeError, Kernel, KernelInfo};

pub(super) fn finish(
    mut builder: Builder<'_>,
    mut info: KernelInfo,
) -> Result<Kernel, DecodeError> {
    resolve_labels(&mut builder)?;
    drop_unread_results(&mut builder);
    polls::mark(&mut builder.code, &builder.lists);
    let flow = Flow::new(&builder.code, &builder.tables);
    set_joins(&mut builder.code, &flow);
    let (slots, unset, may_lack_fence) = give_slots(&mut builder, &flow);
    info.static_shared = builder.shared_bytes;
    let stack_at = builder.local_bytes.next_multiple_of(16);
    info.local_bytes = stack_at + builder.stack_bytes();
    let dynamic_shared_at = builder
        .shared_bytes
        .checked_next_multiple_of(builder.dynamic_align.max(1))
        .filter(|&at| u64::from(at) <= super::WINDOW_BYTES)
        .ok_or_else(|| {
            let place = crate::ast::Place::default();
            let reason = format!(
                "dynamic shared memory aligned to {} bytes",
                builder.dynamic_align
            );
            refusal(place, ".extern .shared", reason)
        })?;
    let may_wait = builder.code.iter().any(|inst| match inst.op {
        Op::Load(access) => access.is_strong(),
        Op::Atomic(_) => inst.d[0].is_some(),
        Op::Grid(_) => true,
        _ => false,
    });
    builder.code.shrink_to_fit();
    builder.places.shrink_to_fit();
    builder.lists.shrink_to_fit();
    let constants = std::mem::take(&mut builder.constants);
    let [words, wides] = constants.map(|values| values.into_iter());
    let numbered = |values: std::vec::IntoIter<Constant>, total: u32| -> Vec<(u32, Constant)> {
        let first = total - values.len() as u32;
        (first..).zip(values).collect()
    };
    let has_wgmma = builder
        .code
        .iter()
        .any(|inst| matches!(inst.op, Op::Wgmma(_)));
    Ok(Kernel {
        info,
        sync: SyncUse::of(&builder.code),
        has_wgmma,
        may_lack_fence,
        code: builder.code,
        places: builder.places,
        lists: builder.lists,
        tables: builder.tables,
        constants: [numbered(words, slots[0]), numbered(wides, slots[1])],
        slots,
        unset,
        stack_at,
        dynamic_shared_at,
        may_wait,
        reserved_shared: if builder.uses_reserved_shared {
            super::RESERVED_SHARED
        } else {
            0
        },
    })
}

fn resolve_labels(builder: &mut Builder<'_>) -> Result<(), DecodeError> {
    let positions = &builder.label_positions;
    let position = |label: u32| positions.get(label as usize).copied().flatten();
    for (inst, place) in builder.code.iter_mut().zip(&builder.places) {
        if let Op::Control(Control::Branch) = inst.op {
            match position(inst.imm.cast_unsigned()) {
                Some(at) => inst.imm = at.cast_signed(),
                None => {
                    return Err(refusal(
                        *place,
                        "bra",
                        "the label does not exist".to_owned(),
                    ));
                }
            }
        }
    }
    for table in &mut builder.tables {
        for target in table {
            match position(*target) {
                Some(at) => *target = at,
                None => {
                    let place = crate::ast::Place::default();
                    return Err(refusal(
                        place,
                        "brx.idx",
                        "a label does not exist".to_owned(),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// An `atom` whose old value nobody reads is a `red`: nobody waits for it. nvcc writes no other for
/// an `atomicAdd` without a result.
fn drop_unread_results(builder: &mut Builder<'_>) {
    let mut is_read: [Vec<bool>; 3] = Default::default();
    let mut read = |reg: Reg| {
        let Some(class) = reg.class().filter(|_| reg.index() as u32 & CONSTANT == 0) else {
            return;
        };
        let of_class = &mut is_read[class as usize];
        if of_class.len() <= reg.index() {
            of_class.resize(reg.index() + 1, false);
        }
        of_class[reg.index()] = true;
    };
    for inst in &builder.code {
        inst.s.into_iter().chain([inst.guard]).for_each(&mut read);
    }
    for list in &builder.lists {
        list.uses.iter().copied().for_each(&mut read);
    }
    for inst in &mut builder.code {
        if let Op::Atomic(_) = inst.op
            && let Some(class) = inst.d[0].class()
            && !is_read[class as usize]
                .get(inst.d[0].index())
                .is_some_and(|&read| read)
        {
            inst.d[0] = Reg::NONE;
        }
    }
}

fn set_joins(code: &mut [Inst], flow: &Flow) {
    let joins = flow.joins();
    for (block, join) in flow.blocks.iter().zip(joins) {
        // Lanes that meet only to exit need not meet: waiting there would hold up a block barrier.
        let at = join
            .map(|join| flow.blocks[join].start)
            .filter(|&start| {
                !(code[start].op == Op::Control(Control::Exit) && code[start].guard == Reg::NONE)
            })
            .map_or(NO_LIST, |start| start as u32);
        let last = &mut code[block.end - 1];
        match last.op {
            Op::Control(Control::Branch) => last.list = at,
            Op::Control(Control::BranchIndexed) => last.imm = at.cast_signed(),
            _ => {}
        }
    }
}

/// Replaces register numbers by slots, constants behind the registers. Returns the slots per class,
/// those that may be read before they are written, and whether a `wgmma.fence` may be missing.
fn give_slots(builder: &mut Builder<'_>, flow: &Flow) -> ([u32; 3], Vec<Reg>, bool) {
    let counts = builder.register_counts;
    let bases = [0, counts[0], counts[0] + counts[1]];
    let number = |reg: Reg| -> Option<usize> {
        let class = reg.class()? as usize;
        let index = reg.index() as u32;
        (index & CONSTANT == 0).then(|| (bases[class] + index) as usize)
    };
    let mut classes = Vec::new();
    for (class, &count) in counts.iter().enumerate() {
        classes.resize(classes.len() + count as usize, class);
    }
    let count = classes.len();
    let may_lack_fence =
        flight::may_lack_fence(&builder.code, &builder.lists, flow, count, &number);
    let Assigned { slots, used, unset } = slots::assign(
        &builder.code,
        &builder.lists,
        flow,
        &classes,
        number,
        may_lack_fence,
    );
    let renamed = |reg: Reg| -> Reg {
        let Some(class) = reg.class() else {
            return reg;
        };
        match number(reg) {
            Some(n) => Reg::new(class, slots[n]),
            None => Reg::new(
                class,
                used[class as usize] + (reg.index() as u32 & !CONSTANT),
            ),
        }
    };
    for inst in &mut builder.code {
        inst.guard = renamed(inst.guard);
        inst.d = inst.d.map(renamed);
        inst.s = inst.s.map(renamed);
    }
    for list in &mut builder.lists {
        list.defs.iter_mut().for_each(|r| *r = renamed(*r));
        list.uses.iter_mut().for_each(|r| *r = renamed(*r));
    }
    let mut total = used;
    total[Class::Word as usize] += builder.constants[0].len() as u32;
    total[Class::Wide as usize] += builder.constants[1].len() as u32;
    let class = |n: usize| [Class::Word, Class::Wide, Class::Pred][classes[n]];
    let unset = unset
        .into_iter()
        .map(|n| Reg::new(class(n), slots[n]))
        .collect();
    (total, unset, may_lack_fence)
}
