//! Layers on every virtual device, under the plans made for it: each device in a process of its
//! own, since the first CUDA call decides for the whole process.

mod common;

use std::collections::HashSet;
use std::process::Command;

use common::device::{Number, gpu};
use common::layer::{Case, Layer};
use half::{bf16, f16};
use lora_kernels::DeviceProps;
use lora_kernels::plan::Tile;

/// The emulator's key of each device and what plans know of it.
fn devices() -> [(&'static str, DeviceProps); 4] {
    [
        ("a100", DeviceProps::a100()),
        ("rtx4090", DeviceProps::rtx4090()),
        ("l40s", DeviceProps::l40s()),
        ("h100", DeviceProps::h100()),
    ]
}

/// Checks a layer against the reference, and notes the tiles of its forward.
fn run<T: Number>(case: Case, tiles: &mut HashSet<Tile>) {
    let plan = case.forward_plan::<T>();
    tiles.extend(plan.launches().iter().map(|launch| launch.variant.tile));
    Layer::<T>::random(&case).check();
}

/// Not a test of its own: the other test runs it in processes with the variable set.
#[test]
fn child() {
    let Ok(key) = std::env::var("CASE") else {
        return;
    };
    let (_, expected) = devices()
        .into_iter()
        .find(|(name, _)| *name == key)
        .expect("a device");
    assert_eq!(gpu().kernels.props(), &expected);
    let mut tiles = HashSet::new();
    let small = Case::new(70, 136, 200, 24).dropout(0.1);
    run::<bf16>(small.clone(), &mut tiles);
    run::<f16>(small.clone(), &mut tiles);
    run::<f32>(small, &mut tiles);
    // 8 x 16 tiles of the largest shape, 8 x 32 of the next.
    run::<bf16>(Case::new(1024, 16, 4096, 8).dropout(0.1), &mut tiles);
    let large = [Tile::M128N256K64, Tile::M128N128K32];
    assert!(large.iter().any(|tile| tiles.contains(tile)), "{tiles:?}");
    assert!(tiles.contains(&Tile::M64N64K64), "{tiles:?}");
}

#[test]
fn layers_run_under_the_plans_of_every_virtual_device() {
    for (key, _) in devices() {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "child", "--nocapture"])
            .env("CASE", key);
        let command = command
            .env("LORA_KERNELS_DEVICE", "emulated")
            .env("PTX_EMULATOR_DEVICE", key);
        let output = command.output().expect("a process");
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{key}: {}", text.concat());
    }
}
