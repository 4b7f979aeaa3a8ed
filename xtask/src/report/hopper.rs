//! The goals of the kernels for Hopper.

use lora_kernels_build::ptxas::{Kind, Remark};

use super::figures::Better;
use super::goals::{Goal, goal};
use super::kernels::Compiled;
use super::wgmma::Wgmma;

/// The columns of the wgmma that large tiles use: m64n256k16.
const WIDEST: u32 = 256;

/// Goals for the machine code. `units` are the names of all units that were compiled.
pub fn of_the_code(kernels: &[Compiled], units: &[String], remarks: &[Remark]) -> Vec<Goal> {
    use Better::Lower;
    let remarks_of = |unit: &String| {
        let found = remarks
            .iter()
            .filter(|remark| remark.unit == *unit && remark.kind != Kind::Other);
        (found.count() as f64, unit.clone())
    };
    let with_wgmma = |of: fn(&Wgmma) -> Option<f64>| {
        kernels.iter().filter_map(move |kernel| {
            let value = of(kernel.wgmma.as_ref()?)?;
            Some((value, kernel.resources.symbol.clone()))
        })
    };
    vec![
        goal(
            "ptxas's remarks: spills, serialised wgmma (C7510), setmaxnreg ignored (C7508)",
            Lower,
            0.0,
            None,
            "",
        )
        .from("CUTLASS and DeepGEMM: 0")
        .worst(units.iter().map(remarks_of)),
        goal(
            "Instructions per wgmma m64n256k16 in the consumers' loop",
            Lower,
            19.0,
            Some(10.0),
            "",
        )
        .from("fast.cu: 19; DeepGEMM: 10")
        .worst(with_wgmma(|wgmma| {
            (wgmma.columns == WIDEST).then(|| wgmma.instructions_per_product())
        })),
        goal(
            "Groups of wgmma in flight where the consumers' loop waits",
            Lower,
            2.0,
            None,
            "",
        )
        .from("CUTLASS: 2")
        .worst(with_wgmma(|wgmma| wgmma.in_flight.map(f64::from))),
        goal(
            "Barrier operations per 64 of depth and warpgroup",
            Lower,
            2.0,
            None,
            "",
        )
        .from("DeepGEMM: one wait, one arrival")
        .worst(with_wgmma(|wgmma| Some(wgmma.barrier_operations()))),
    ]
}
