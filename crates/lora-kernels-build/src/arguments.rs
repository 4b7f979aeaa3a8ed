//! nvcc's arguments for all units.

use crate::flags::Flags;
use crate::nvcc::Machine;

/// The environment variables that the arguments depend on.
pub const VARIABLES: [&str; 3] = [
    "LORA_KERNELS_NVCC_FLAGS",
    "LORA_KERNELS_LINEINFO",
    "NVCC_CCBIN",
];

/// The arguments for an nvcc of this release, which gets `flags` besides. It warns of an option
/// that it is given twice, so an option that is among the flags is left to them.
///
/// # Errors
/// If a variable has a value that means nothing.
pub fn arguments(
    machine: &dyn Machine,
    release: (u32, u32),
    flags: &Flags,
) -> Result<Vec<String>, String> {
    let variable = |name: &str| match machine.var(name) {
        None => Ok(String::new()),
        Some(value) => match value.to_str() {
            Some(text) => Ok(text.trim().to_owned()),
            None => Err(format!("{name}={}: it is no Unicode text", value.display())),
        },
    };
    let mut arguments = Vec::new();
    let mut add = |words: &str| arguments.extend(words.split_whitespace().map(str::to_owned));
    if !flags.have(&["std"]) {
        add("-std=c++17");
    }
    // -fmad=false: a multiply and an add are fused only where the source says fmaf().
    add("-O3 -lineinfo -fmad=false -Ikernels -Xptxas --warn-on-spills");
    let ours = variable("LORA_KERNELS_NVCC_FLAGS")?;
    // Drivers read the strongest compression from 550 (CUDA 12.4) on. Images of nvcc 13 need a
    // newer driver anyway. Images of nvcc 12 run with drivers from 525 on, so they keep its
    // default.
    let compression = ours.contains("compress") || flags.have(&["compress-mode", "no-compress"]);
    if !compression && release >= (13, 0) {
        add("--compress-mode=size");
    }
    // Line tables in the machine code make the images two and a half times as big. The PTX has its
    // lines always.
    match variable("LORA_KERNELS_LINEINFO")?.as_str() {
        "" | "0" => add("-Xptxas --suppress-debug-info"),
        "1" => {}
        other => {
            return Err(format!(
                "LORA_KERNELS_LINEINFO={other}: set it to 1 to keep line tables, or unset it"
            ));
        }
    }
    // nvcc, too, prefers a -ccbin to NVCC_CCBIN.
    let host_compiler = variable("NVCC_CCBIN")?;
    if !host_compiler.is_empty() && !flags.have(&["ccbin", "compiler-bindir"]) {
        arguments.extend(["-ccbin".to_owned(), host_compiler]);
    }
    arguments.extend(ours.split_whitespace().map(str::to_owned));
    Ok(arguments)
}
