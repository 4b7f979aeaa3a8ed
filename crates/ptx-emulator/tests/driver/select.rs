//! Choosing the driver by environment variable. Each case is a process of its own: this test
//! program again, with `CASE` set.

use cudarc::driver::{CudaContext, sys};
use ptx_emulator::select::{select, select_by};

use super::process::CASE;

/// What a process with these variables prints.
fn run(variables: &[(&str, &str)]) -> (bool, String) {
    super::process::run("select::child", "select", variables)
}

/// Not a test of its own: the other tests run it in processes with the variables set.
#[test]
fn child() {
    match std::env::var(CASE).as_deref() {
        Ok("select") => {
            println!(
                "selection: {}",
                select().unwrap_or_else(|error| panic!("{error}"))
            );
            let context = CudaContext::new(0).unwrap_or_else(|error| panic!("{error:?}"));
            println!("device: {}", context.name().expect("a name"));
        }
        Ok("other variable") => {
            println!(
                "{:?}",
                select_by("OTHER_DEVICE").map_err(|error| error.to_string())
            );
        }
        Ok("uninitialised") => {
            select().expect("a driver");
            let mut count = 0;
            // SAFETY: the pointer is valid for the call.
            let code = unsafe { sys::cuDeviceGetCount(&mut count) };
            println!("{code:?}");
        }
        _ => {}
    }
}

#[test]
fn the_emulated_driver_can_be_asked_for() {
    let (success, output) = run(&[("PTX_EMULATOR", "emulated")]);
    assert!(success, "{output}");
    assert!(
        output.contains("selection: emulated GPU (")
            && output.contains("device: Emulated NVIDIA A100"),
        "{output}"
    );
}

#[test]
fn the_virtual_device_can_be_named() {
    for (name, device) in [("rtx4090", "RTX 4090"), ("L40S", "L40S"), ("h100", "H100")] {
        let (success, output) = run(&[("PTX_EMULATOR", "emulated"), ("PTX_EMULATOR_DEVICE", name)]);
        assert!(
            success && output.contains("device: Emulated NVIDIA") && output.contains(device),
            "{output}"
        );
    }
}

#[test]
fn names_that_mean_nothing_are_refused() {
    let (success, output) = run(&[("PTX_EMULATOR", "cuda")]);
    assert!(
        !success && output.contains("PTX_EMULATOR=cuda is none of auto, emulated, real"),
        "{output}"
    );
    let (success, output) = run(&[
        ("PTX_EMULATOR", "emulated"),
        ("PTX_EMULATOR_DEVICE", "gtx9"),
    ]);
    assert!(
        !success && output.contains("CUDA_ERROR_NO_DEVICE"),
        "{output}"
    );
    assert!(
        output.contains("PTX_EMULATOR_DEVICE=gtx9: this is none of a100, a100-40gb, rtx3090, rtx4090, l40s, h100"),
        "{output}"
    );
    let (success, output) = run(&[
        ("PTX_EMULATOR", "emulated"),
        ("PTX_EMULATOR_NUMERICS", "exact"),
    ]);
    assert!(
        !success && output.contains("none of f32fma, ampere, hopper"),
        "{output}"
    );
}

/// On a machine with a GPU the real driver is taken; on one without, that is an error which says
/// so.
#[test]
fn the_real_driver_is_never_replaced_by_the_emulated_one() {
    let (success, output) = run(&[("PTX_EMULATOR", "real")]);
    assert_eq!(success, output.contains("selection: real GPU"), "{output}");
    assert!(
        success || output.contains("Use auto or emulated"),
        "{output}"
    );
}

#[test]
fn calls_before_initialisation_are_refused() {
    let (success, output) = run(&[("PTX_EMULATOR", "emulated"), ("CASE", "uninitialised")]);
    assert!(
        success && output.contains("CUDA_ERROR_NOT_INITIALIZED"),
        "{output}"
    );
}

#[test]
fn a_project_can_name_a_variable_of_its_own() {
    let (_, output) = run(&[("OTHER_DEVICE", "gpu"), ("CASE", "other variable")]);
    assert!(
        output.contains("OTHER_DEVICE=gpu is none of auto, emulated, real"),
        "{output}"
    );
    let (_, output) = run(&[
        ("OTHER_DEVICE", "emulated"),
        ("PTX_EMULATOR", "real"),
        ("CASE", "other variable"),
    ]);
    assert!(output.contains("Ok(Emulated"), "{output}");
}
