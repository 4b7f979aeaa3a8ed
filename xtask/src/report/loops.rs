//! Finds the main loop of a kernel and counts its instructions.
//!
//! A loop is the code between a backward branch and its target. Code that ptxas moved elsewhere is
//! not included; the loops that matter have none.

use super::sass::{Function, Instruction};

/// The instructions that do a kernel's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Math {
    /// Tensor cores: `HMMA`.
    Mma,
    /// `FFMA`, in kernels for f32.
    Fma,
}

/// Counts of instructions in a main loop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mix {
    pub instructions: u32,
    /// `HMMA`, or `FFMA` in a kernel that has none.
    pub math: u32,
    /// `LDSM` of any width.
    pub ldsm: u32,
    /// Other loads and stores of shared memory.
    pub lds: u32,
    /// `LDGSTS`: cp.async.
    pub ldgsts: u32,
    pub barriers: u32,
    /// `DEPBAR`: cp.async.wait_group.
    pub waits: u32,
    /// Accesses to local memory: spills.
    pub local: u32,
    pub other: u32,
}

/// The math of a kernel and its main loop: the innermost loop with the most math. Among equal loops
/// the shortest wins, because loops that fill or drain a pipeline have the same math and more
/// around it. `None` if there is no such loop.
pub fn main_loop(function: &Function) -> Option<(Math, Mix)> {
    let instructions = &function.instructions;
    let count = |name| instructions.iter().filter(|i| i.name() == name).count();
    let math = if count("HMMA") > 0 {
        Math::Mma
    } else {
        Math::Fma
    };
    let of = |body: &[Instruction]| body.iter().filter(|i| i.name() == math.opcode()).count();

    let with_math: Vec<&[Instruction]> = loops(instructions)
        .into_iter()
        .filter(|body| of(body) > 0)
        .collect();
    let innermost = with_math.iter().filter(|body| {
        let inside = |other: &&[Instruction]| {
            let (outer, inner) = (body.as_ptr_range(), other.as_ptr_range());
            other.len() < body.len() && outer.start <= inner.start && inner.end <= outer.end
        };
        !with_math.iter().any(inside)
    });
    let body = innermost.max_by_key(|body| (of(body), std::cmp::Reverse(body.len())))?;
    Some((math, mix(body, math)))
}

impl Math {
    fn opcode(self) -> &'static str {
        match self {
            Math::Mma => "HMMA",
            Math::Fma => "FFMA",
        }
    }
}

/// The bodies of all loops, including the branches. Several branches to one target are one loop. A
/// branch to itself ends a kernel and is not a loop.
fn loops(instructions: &[Instruction]) -> Vec<&[Instruction]> {
    let mut ends = std::collections::BTreeMap::new();
    for (end, instruction) in instructions.iter().enumerate() {
        let start = instruction
            .target
            .filter(|target| *target < instruction.address)
            .and_then(|target| {
                instructions
                    .binary_search_by_key(&target, |i| i.address)
                    .ok()
            });
        if let Some(start) = start {
            ends.insert(start, end);
        }
    }
    ends.into_iter()
        .filter_map(|(start, end)| instructions.get(start..=end))
        .collect()
}

fn mix(body: &[Instruction], math: Math) -> Mix {
    let mut mix = Mix::default();
    for instruction in body {
        mix.instructions += 1;
        let count = match instruction.name() {
            name if name == math.opcode() => &mut mix.math,
            "LDSM" => &mut mix.ldsm,
            "LDS" | "STS" | "STSM" | "ATOMS" => &mut mix.lds,
            "LDGSTS" => &mut mix.ldgsts,
            "BAR" => &mut mix.barriers,
            "DEPBAR" => &mut mix.waits,
            "LDL" | "STL" => &mut mix.local,
            _ => &mut mix.other,
        };
        *count += 1;
    }
    mix
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One instruction per word, 16 bytes apart: an opcode, or an opcode and the number of the
    /// instruction that it goes to.
    fn function(code: &str) -> Function {
        let instructions = code.split_whitespace().enumerate().map(|(index, word)| {
            let (opcode, target) = word.split_once(':').unwrap_or((word, ""));
            Instruction {
                address: 16 * index as u64,
                opcode: opcode.to_owned(),
                target: target.parse().ok().map(|number: u64| 16 * number),
            }
        });
        Function {
            arch: "80".to_owned(),
            symbol: "f".to_owned(),
            instructions: instructions.collect(),
        }
    }

    #[test]
    fn the_innermost_loop_with_most_math() {
        // An outer loop over tiles (0), a main loop (1), one without math inside the tile loop, a
        // small one with math.
        let f = function("MOV LDSM HMMA HMMA BAR BRA:1 IADD BRA:6 HMMA BRA:8 BRA:0 EXIT BRA:12");
        let (math, mix) = main_loop(&f).expect("a loop");
        assert_eq!(
            (math, mix.instructions, mix.math, mix.ldsm),
            (Math::Mma, 5, 2, 1)
        );
        assert_eq!((mix.barriers, mix.other), (1, 1));
    }

    #[test]
    fn branches_to_one_target_are_one_loop() {
        let f = function("HMMA LDGSTS BRA:0 DEPBAR.LE BRA:0 EXIT");
        let (_, mix) = main_loop(&f).expect("a loop");
        assert_eq!((mix.instructions, mix.ldgsts, mix.waits), (5, 1, 1));
    }

    #[test]
    fn kernels_without_mma_have_the_loop_with_most_ffma() {
        let (math, mix) =
            main_loop(&function("FFMA BRA:0 FFMA FFMA LDS BRA:2 EXIT")).expect("a loop");
        assert_eq!((math, mix.math, mix.lds), (Math::Fma, 2, 1));
    }

    #[test]
    fn a_kernel_without_math_in_loops_has_none() {
        assert_eq!(main_loop(&function("HMMA IADD BRA:1 EXIT BRA:4")), None);
    }
}
