//! Control flow of a kernel: basic blocks, and where diverged lanes meet again (immediate
//! post-dominators).

use super::op::{Control, Inst, Op, Reg};

/// A basic block: instructions `start..end`.
pub(super) struct Block {
    pub start: usize,
    pub end: usize,
    pub successors: Vec<usize>,
}

pub(super) struct Flow {
    pub blocks: Vec<Block>,
}

/// Instructions that may run after `pc`; branch targets are instruction indices already.
fn next(code: &[Inst], tables: &[Vec<u32>], pc: usize) -> Vec<usize> {
    let Some(inst) = code.get(pc) else {
        return Vec::new();
    };
    let mut to = match inst.op {
        Op::Control(Control::Branch) => vec![inst.imm as usize],
        Op::Control(Control::BranchIndexed) => {
            let table = tables.get(inst.list as usize);
            table.into_iter().flatten().map(|&t| t as usize).collect()
        }
        Op::Control(
            Control::Exit
            | Control::Trap
            | Control::Assert
            | Control::Recursion
            | Control::NoFunction,
        ) => Vec::new(),
        _ => return vec![pc + 1],
    };
    if inst.guard != Reg::NONE {
        to.push(pc + 1);
    }
    to
}

impl Flow {
    pub fn new(code: &[Inst], tables: &[Vec<u32>]) -> Flow {
        let mut leads = vec![false; code.len() + 1];
        leads[0] = true;
        for (pc, inst) in code.iter().enumerate() {
            if let Op::Control(_) = inst.op {
                leads[pc + 1] = true;
                for target in next(code, tables, pc) {
                    leads[target] = true;
                }
            }
        }
        let starts: Vec<usize> = (0..code.len()).filter(|&pc| leads[pc]).collect();
        let mut block_of = vec![0; code.len() + 1];
        let mut blocks = Vec::with_capacity(starts.len());
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(code.len());
            block_of[start] = index;
            blocks.push(Block {
                start,
                end,
                successors: Vec::new(),
            });
        }
        for block in &mut blocks {
            let mut successors: Vec<usize> = next(code, tables, block.end - 1)
                .into_iter()
                .filter(|&pc| pc < code.len())
                .map(|pc| block_of[pc])
                .collect();
            successors.sort_unstable();
            successors.dedup();
            block.successors = successors;
        }
        Flow { blocks }
    }

    /// For each block, the first block that every path from it to the end goes through; `None`
    /// where that is only the end.
    pub fn joins(&self) -> Vec<Option<usize>> {
        let end = self.blocks.len();
        let order = self.reverse_order();
        let mut rank = vec![usize::MAX; end + 1];
        for (position, &block) in order.iter().enumerate() {
            rank[block] = position;
        }
        // Cooper, Harvey and Kennedy's dominator iteration on the reversed graph, whose root is the
        // virtual end.
        let mut parent = vec![usize::MAX; end + 1];
        parent[end] = end;
        let mut changed = true;
        while changed {
            changed = false;
            for &block in order.iter().skip(1) {
                let mut found = usize::MAX;
                for next in self.exits(block) {
                    if parent[next] == usize::MAX {
                        continue;
                    }
                    found = if found == usize::MAX {
                        next
                    } else {
                        meet(&parent, &rank, found, next)
                    };
                }
                if found != parent[block] {
                    parent[block] = found;
                    changed = true;
                }
            }
        }
        parent
            .iter()
            .take(end)
            .map(|&p| (p < end).then_some(p))
            .collect()
    }

    /// Successors, with the virtual end in place of none. A guarded exit leads to the end as well.
    fn exits(&self, block: usize) -> Vec<usize> {
        let successors = &self.blocks[block].successors;
        if successors.is_empty() {
            return vec![self.blocks.len()];
        }
        successors.clone()
    }

    /// Reverse post-order of the reversed graph, from the virtual end. Blocks that never end are
    /// left out.
    fn reverse_order(&self) -> Vec<usize> {
        let end = self.blocks.len();
        let mut before = vec![Vec::new(); end + 1];
        for block in 0..end {
            for next in self.exits(block) {
                before[next].push(block);
            }
        }
        let mut seen = vec![false; end + 1];
        let mut order = Vec::with_capacity(end + 1);
        let mut stack = vec![(end, 0)];
        seen[end] = true;
        while let Some((block, child)) = stack.pop() {
            match before[block].get(child) {
                Some(&next) => {
                    stack.push((block, child + 1));
                    if !seen[next] {
                        seen[next] = true;
                        stack.push((next, 0));
                    }
                }
                None => order.push(block),
            }
        }
        order.reverse();
        order
    }
}

fn meet(parent: &[usize], rank: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while rank[a] > rank[b] {
            a = parent[a];
        }
        while rank[b] > rank[a] {
            b = parent[b];
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::builder::bare;
    use super::*;

    fn branch(to: i32, guarded: bool) -> Inst {
        let mut inst = bare(Op::Control(Control::Branch));
        inst.imm = to;
        if guarded {
            inst.guard = Reg::new(super::super::op::Class::Pred, 0);
        }
        inst
    }

    #[test]
    fn both_arms_of_an_if_meet_behind_it_and_a_loop_at_its_exit() {
        let exit = bare(Op::Control(Control::Exit));
        let nop = bare(Op::Nop);
        // 0: if p goto 3; 1: nop; 2: goto 4; 3: nop; 4: nop; 5: if p goto 4; 6: exit
        let code = [
            branch(3, true),
            nop,
            branch(4, false),
            nop,
            nop,
            branch(4, true),
            exit,
        ];
        let flow = Flow::new(&code, &[]);
        let starts: Vec<usize> = flow.blocks.iter().map(|b| b.start).collect();
        assert_eq!(starts, [0, 1, 3, 4, 6]);
        assert_eq!(flow.joins(), [Some(3), Some(3), Some(3), Some(4), None]);
    }

    #[test]
    fn blocks_that_never_end_have_no_join() {
        let code = [
            branch(2, true),
            bare(Op::Control(Control::Exit)),
            branch(2, false),
        ];
        assert_eq!(Flow::new(&code, &[]).joins(), [Some(1), None, None]);
    }
}
