//! Finds the main loop of a kernel and counts its instructions.
//!
//! Counts are of the code: an instruction that some turns of the loop skip counts as one.

use super::flow;
use super::sass::{Function, Instruction};

/// The instructions that do a kernel's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Math {
    /// Tensor cores, from registers: `HMMA`.
    Mma,
    /// Tensor cores, from shared memory: `HGMMA`, for a warpgroup.
    Wgmma,
    /// `FFMA`, in kernels for f32.
    Fma,
}

/// Counts of instructions in a main loop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mix {
    pub instructions: u32,
    /// `HGMMA`, or `HMMA` in a kernel that has none, or `FFMA` in one that has neither.
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
    let (math, body) = main_loop_body(function)?;
    Some((math, mix(&body, math)))
}

/// The instructions of the main loop.
pub fn main_loop_body(function: &Function) -> Option<(Math, Vec<&Instruction>)> {
    let instructions = &function.instructions;
    let has = |math: &Math| instructions.iter().any(|i| i.name() == math.opcode());
    let math = [Math::Wgmma, Math::Mma]
        .into_iter()
        .find(has)
        .unwrap_or(Math::Fma);
    let of = |body: &[usize]| {
        let found = body.iter().filter_map(|&number| instructions.get(number));
        found.filter(|i| i.name() == math.opcode()).count()
    };
    let with_math: Vec<Vec<usize>> = flow::loops(instructions)
        .into_iter()
        .filter(|body| of(body) > 0)
        .collect();
    let innermost = with_math.iter().filter(|body| {
        let inside = |other: &Vec<usize>| {
            other.len() < body.len() && other.iter().all(|i| body.binary_search(i).is_ok())
        };
        !with_math.iter().any(inside)
    });
    let body = innermost.max_by_key(|body| (of(body), std::cmp::Reverse(body.len())))?;
    Some((
        math,
        body.iter()
            .filter_map(|&number| instructions.get(number))
            .collect(),
    ))
}

impl Math {
    pub fn opcode(self) -> &'static str {
        match self {
            Math::Wgmma => "HGMMA",
            Math::Mma => "HMMA",
            Math::Fma => "FFMA",
        }
    }
}

fn mix(body: &[&Instruction], math: Math) -> Mix {
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
    use super::super::sass::function;
    use super::*;

    #[test]
    fn the_innermost_loop_with_most_math() {
        // An outer loop over tiles (0), a main loop (1), one without math inside the tile loop, a
        // small one with math.
        let f =
            function("MOV LDSM HMMA HMMA BAR @BRA:1 IADD @BRA:6 HMMA @BRA:8 @BRA:0 EXIT BRA:12");
        let (math, mix) = main_loop(&f).expect("a loop");
        assert_eq!(
            (math, mix.instructions, mix.math, mix.ldsm),
            (Math::Mma, 5, 2, 1)
        );
        assert_eq!((mix.barriers, mix.other), (1, 1));
    }

    #[test]
    fn kernels_without_mma_have_the_loop_with_most_ffma() {
        let (math, mix) =
            main_loop(&function("FFMA @BRA:0 FFMA FFMA LDS @BRA:2 EXIT")).expect("a loop");
        assert_eq!((math, mix.math, mix.lds), (Math::Fma, 2, 1));
    }

    #[test]
    fn a_kernel_without_math_in_loops_has_none() {
        assert_eq!(main_loop(&function("HMMA IADD @BRA:1 EXIT BRA:4")), None);
    }
}
