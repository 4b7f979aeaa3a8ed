//! The loops of a kernel's machine code.
//!
//! A loop is what can run between a branch back and its target, if nothing gets to the branch but
//! through the target. That a branch goes to a lower address does not make a loop: ptxas moves code
//! that is seldom run, such as the further tries of a wait, to the end of a kernel, and branches
//! back from there. Such code is not part of a loop's body either: that ends with the last branch
//! to its start.

use std::collections::{BTreeMap, BTreeSet};

use super::sass::Instruction;

/// A sequence of instructions that is entered at its first one and left after its last one.
struct Block {
    start: usize,
    end: usize,
    successors: Vec<usize>,
}

/// The bodies of all loops, as numbers of instructions in their order. Branches back to one target
/// are one loop. A branch to itself ends a kernel and is not a loop.
pub fn loops(instructions: &[Instruction]) -> Vec<Vec<usize>> {
    let blocks = blocks(instructions);
    let predecessors = predecessors(&blocks);
    let mut loops: BTreeMap<usize, (BTreeSet<usize>, usize)> = BTreeMap::new();
    for (last, block) in blocks.iter().enumerate() {
        for &first in &block.successors {
            let own = first == last && block.end - block.start == 1;
            if first <= last && !own && !reaches(&blocks, first, last) {
                let (members, end) = loops.entry(first).or_default();
                add_natural_loop(members, &predecessors, first, last);
                *end = last;
            }
        }
    }
    let bodies = loops.into_values().map(|(members, end)| {
        let members = members
            .range(..=end)
            .filter_map(|&member| blocks.get(member));
        members.flat_map(|block| block.start..block.end).collect()
    });
    bodies.collect()
}

fn blocks(instructions: &[Instruction]) -> Vec<Block> {
    let position = |target: u64| {
        instructions
            .binary_search_by_key(&target, |i| i.address)
            .ok()
    };
    let mut starts = BTreeSet::from([0]);
    for (number, instruction) in instructions.iter().enumerate() {
        starts.extend(instruction.target.and_then(position));
        if instruction.target.is_some() || ends_a_path(instruction) {
            starts.insert(number + 1);
        }
    }
    let starts: Vec<usize> = starts
        .into_iter()
        .filter(|&s| s < instructions.len())
        .collect();
    let block_at = |number: usize| starts.binary_search(&number).ok();
    let ends = starts.iter().skip(1).copied().chain([instructions.len()]);
    let blocks = starts.iter().zip(ends).filter_map(|(&start, end)| {
        let last = instructions.get(end - 1)?;
        let taken = last.target.and_then(position).and_then(block_at);
        let next = block_at(end).filter(|_| !ends_a_path(last));
        let successors = taken.into_iter().chain(next).collect();
        Some(Block {
            start,
            end,
            successors,
        })
    });
    blocks.collect()
}

/// Whether the instruction behind it is not run next.
fn ends_a_path(instruction: &Instruction) -> bool {
    let leaves = ["EXIT", "RET", "BRX", "BRXU", "JMX"].contains(&instruction.name());
    // A second operand is a condition: `BRA.DIV UR6, 0xa280`.
    let jumps = instruction.target.is_some() && !instruction.operands.contains(',');
    (leaves || jumps) && !instruction.guarded
}

fn predecessors(blocks: &[Block]) -> Vec<Vec<usize>> {
    let mut predecessors = vec![Vec::new(); blocks.len()];
    for (number, block) in blocks.iter().enumerate() {
        for &successor in &block.successors {
            if let Some(before) = predecessors.get_mut(successor) {
                before.push(number);
            }
        }
    }
    predecessors
}

/// Whether `wanted` can be run before `without` is.
fn reaches(blocks: &[Block], without: usize, wanted: usize) -> bool {
    let mut seen = BTreeSet::from([without]);
    let mut next = vec![0];
    while let Some(number) = next.pop() {
        if !seen.insert(number) {
            continue;
        }
        if number == wanted {
            return true;
        }
        next.extend(
            blocks
                .get(number)
                .into_iter()
                .flat_map(|block| &block.successors),
        );
    }
    false
}

/// Adds what can run between `first` and `last`.
fn add_natural_loop(
    body: &mut BTreeSet<usize>,
    predecessors: &[Vec<usize>],
    first: usize,
    last: usize,
) {
    body.insert(first);
    let mut next = vec![last];
    while let Some(number) = next.pop() {
        if body.insert(number) {
            next.extend(predecessors.get(number).into_iter().flatten());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sass::function;
    use super::*;

    fn bodies(code: &str) -> Vec<Vec<usize>> {
        loops(&function(code).instructions)
    }

    #[test]
    fn branches_to_one_target_are_one_loop() {
        assert_eq!(bodies("MOV @BRA:0 IADD @BRA:0 EXIT"), [[0, 1, 2, 3]]);
    }

    #[test]
    fn a_loop_in_a_loop() {
        let found = bodies("MOV FFMA @BRA:1 @BRA:0 EXIT BRA:5");
        assert_eq!(found, [vec![0, 1, 2, 3], vec![1, 2]]);
    }

    #[test]
    fn code_that_a_branch_skips_is_part_of_a_loop_and_code_behind_its_exit_is_not() {
        assert_eq!(bodies("MOV @BRA:3 IADD @BRA:0 EXIT"), [[0, 1, 2, 3]]);
        let found = bodies("MOV @BRA:3 @BRA:0 EXIT");
        assert_eq!(found, [[0, 1, 2]]);
        // The branch of 1 leaves the loop, through code that lies within it.
        assert_eq!(
            bodies("MOV @BRA:4 IADD BRA:5 EXIT @BRA:0 EXIT"),
            [[0, 1, 2, 3, 5]]
        );
    }

    /// A failed wait tries again elsewhere, and goes on in the middle of the loop.
    #[test]
    fn seldom_run_code_makes_no_loop_and_is_in_none() {
        let found = bodies("MOV SYNCS @BRA:6 HGMMA @BRA:1 EXIT SYNCS @BRA:6 BRA:3 BRA:9");
        assert_eq!(found, [vec![1, 2, 3, 4], vec![6, 7]]);
    }

    #[test]
    fn a_branch_to_itself_is_no_loop() {
        assert!(bodies("MOV BRA:1").is_empty());
    }
}
