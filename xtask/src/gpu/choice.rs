//! The tests that the bundle runs, and when.

use lora_kernels_bundle::manifest::{Family, Program};

/// Tests that the bundle skips: (program, part of the name).
const SKIPPED: [(&str, &str); 6] = [
    // They run no kernel, and read snapshots that are in the checkout.
    ("integration", "plans::"),
    // They change settings that a real GPU doesn't have.
    ("integration", "emulated::"),
    // They start an emulated H100 wherever they run. `HOPPER` has those that a real one runs.
    ("integration", "hopper::"),
    // They read what PEFT saved, which is in the checkout.
    ("commands", "inspect_plan_doctor::"),
    ("commands", "merge::peft::"),
    ("commands", "merge::refusals::"),
];

/// Tests that take long on the emulated device and are similar to faster ones.
const SLOW_EMULATED: [&str; 9] = [
    "in_f16",
    "in_f32",
    "layers::accumulate",
    "layers::random",
    "layers::shapes",
    "layers::shared",
    "merge::guarded",
    "merge::killed",
    "merge::results",
];

/// Tests of every family of kernels and of every element type, for the first look.
const FIRST_LOOK: [(&str, &[&str]); 1] = [(
    "integration",
    &[
        "device::layout_check",
        "layers::forward::in_bf16::integers_are_exact",
        "layers::forward::in_f16::integers_are_exact",
        "layers::forward::in_f32::integers_are_exact",
        "layers::backward::in_bf16::integers_are_exact",
        "layers::backward::in_f16::integers_are_exact",
        "layers::backward::in_f32::integers_are_exact",
        "layers::recorded::in_bf16",
        "merge::in_bf16::merges",
        "merge::in_f32::unmerging_comes_back_to_within_two_roundings",
        "device::capture",
    ],
)];

/// Tests of the kernels for compute capability 9.0. The cases of `hopper::layers` launch every one
/// of them. The others' layers are those of all devices, and the smaller of them take the kernels
/// of 8.0.
const HOPPER: [(&str, &[&str]); 1] = [(
    "integration",
    &[
        "layers::forward::in_bf16",
        "layers::forward::in_f16",
        "layers::backward::in_bf16",
        "layers::backward::in_f16",
        "layers::shapes::in_bf16",
        "hopper::layers::on_h100",
    ],
)];

/// A test for each family of kernels. Forwards launch a shrink and a product, backwards the three
/// gradient kernels, in large tiles and in small ones with a split K.
const FAMILIES: [(&str, &str); 3] = [
    (
        "forward",
        "layers::forward::in_bf16::two_runs_in_the_same_memory_give_the_same_bits",
    ),
    (
        "backward",
        "layers::backward::in_bf16::two_runs_in_the_same_memory_give_the_same_bits",
    ),
    (
        "merge",
        "merge::in_bf16::unmerging_comes_back_to_within_two_roundings",
    ),
];

pub fn chosen(program: Program) -> Program {
    let skipped = SKIPPED.iter().filter(|(of, _)| *of == program.name);
    let first_look = FIRST_LOOK.iter().find(|(of, _)| *of == program.name);
    let hopper = HOPPER.iter().find(|(of, _)| *of == program.name);
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Program {
        first_look: first_look.map_or_else(Vec::new, |(_, tests)| owned(tests)),
        hopper: hopper.map_or_else(Vec::new, |(_, tests)| owned(tests)),
        skip: skipped.map(|(_, tests)| (*tests).to_owned()).collect(),
        skip_emulated: owned(&SLOW_EMULATED),
        ..program
    }
}

pub fn families() -> Vec<Family> {
    let family = |(name, test): (&str, &str)| Family {
        name: name.to_owned(),
        program: "integration".to_owned(),
        test: test.to_owned(),
    };
    FAMILIES.map(family).to_vec()
}

/// All names or parts of names in this file. Each must match a test.
pub fn names() -> impl Iterator<Item = &'static str> {
    let first_look = FIRST_LOOK
        .iter()
        .chain(&HOPPER)
        .flat_map(|(_, tests)| tests.iter().copied());
    let families = FAMILIES.iter().map(|&(_, test)| test);
    let skipped = SKIPPED.iter().map(|&(_, tests)| tests);
    first_look
        .chain(families)
        .chain(skipped)
        .chain(SLOW_EMULATED)
}
