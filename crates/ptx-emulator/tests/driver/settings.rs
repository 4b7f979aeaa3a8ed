//! The settings' variables, and their spelling of earlier versions.

use cudarc::driver::CudaContext;
use ptx_emulator::select::emulated;

use super::process::{case, run};

/// Not a test of its own: the other tests run it in processes with the variables set.
#[test]
fn child() {
    if case().is_none() {
        return;
    }
    emulated().expect("the emulated driver");
    for _ in 0..2 {
        let context = CudaContext::new(0).unwrap_or_else(|error| panic!("{error:?}"));
        println!("device: {}", context.name().expect("a name"));
    }
}

fn lines(variables: &[(&str, &str)]) -> (bool, String, usize) {
    let (success, output) = run("settings::child", "settings", variables);
    let about = output.matches("is now called").count();
    (success, output, about)
}

#[test]
fn former_names_are_understood_and_one_line_says_the_new_ones() {
    let (success, output, _) = lines(&[
        ("LORA_EMULATOR_DEVICE", "h100"),
        ("LORA_EMULATOR_SCHEDULE", "seed:7"),
    ]);
    assert!(
        success && output.contains("device: Emulated NVIDIA H100"),
        "{output}"
    );
    let about: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("LORA_EMULATOR"))
        .collect();
    assert_eq!(
        about,
        [
            "emulated CUDA driver: LORA_EMULATOR_DEVICE is now called PTX_EMULATOR_DEVICE, \
             LORA_EMULATOR_SCHEDULE is now called PTX_EMULATOR_SCHEDULE"
        ]
    );
}

#[test]
fn a_new_name_counts_more_than_its_former_one() {
    let (success, output, about) = lines(&[
        ("LORA_EMULATOR_DEVICE", "gtx9"),
        ("PTX_EMULATOR_DEVICE", "h200"),
    ]);
    assert!(
        success && output.contains("device: Emulated NVIDIA H200"),
        "{output}"
    );
    assert_eq!(about, 1, "{output}");
}

#[test]
fn nothing_is_said_where_all_names_are_new() {
    let (success, output, about) = lines(&[("PTX_EMULATOR_DEVICE", "l40s")]);
    assert!(success && about == 0, "{output}");
}

#[test]
fn a_wrong_value_is_reported_under_the_name_that_was_set() {
    let (success, output, _) = lines(&[("LORA_EMULATOR_SCHEDULE", "random")]);
    assert!(
        !success && output.contains("LORA_EMULATOR_SCHEDULE=random: "),
        "{output}"
    );
}
