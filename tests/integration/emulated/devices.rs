//! Layers on every virtual device, with the plans made for it. Each device has a process of its
//! own, because the first CUDA call chooses the device for the whole process.

use std::collections::HashSet;

use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer};
use crate::common::process;
use half::{bf16, f16};
use lora_kernels::DeviceProps;
use lora_kernels::plan::Tile;
use ptx_emulator::device::DeviceModel;

/// Every device that the emulated GPU can be and that plans know by name, with its properties for
/// plans.
fn devices() -> impl Iterator<Item = (&'static str, DeviceProps)> {
    let emulated = |key: &str| DeviceModel::ALL.iter().any(|model| model.key == key);
    DeviceProps::named()
        .into_iter()
        .filter(move |(name, _)| emulated(name))
}

/// Compares a layer with the reference, and records the tiles of its forward.
fn run<T: Number>(case: LayerCase, tiles: &mut HashSet<Tile>) {
    let plan = case.forward_plan::<T>();
    tiles.extend(plan.launches().iter().map(|launch| launch.variant.tile));
    TestLayer::<T>::random(&case).check();
}

/// Runs layers on the device that this process was started for.
fn on_the_device(key: &str) {
    let mut all = devices();
    let (_, expected) = all.find(|(name, _)| *name == key).expect("a device");
    assert_eq!(gpu().kernels.props(), &expected);
    let mut tiles = HashSet::new();
    let small = LayerCase::new(70, 136, 200, 24).dropout(0.1);
    run::<bf16>(small.clone(), &mut tiles);
    run::<f16>(small.clone(), &mut tiles);
    run::<f32>(small, &mut tiles);
    // 8 x 16 tiles of the largest shape, 8 x 32 of the next.
    run::<bf16>(LayerCase::new(1024, 16, 4096, 8).dropout(0.1), &mut tiles);
    let chosen = |name: &str| tiles.iter().any(|tile: &Tile| tile.name == name);
    assert!(chosen("m128n256k64") || chosen("m128n128k32"), "{tiles:?}");
    assert!(chosen("m64n64k64") || chosen("m64n128k64"), "{tiles:?}");
}

#[test]
fn layers_run_under_the_plans_of_every_virtual_device() {
    if let Ok(key) = std::env::var(process::DEVICE)
        && process::is_alone()
    {
        return on_the_device(&key);
    }
    for (key, _) in devices() {
        let test = concat!(
            module_path!(),
            "::layers_run_under_the_plans_of_every_virtual_device"
        );
        process::run_again(test, |command| process::on_device(command, key));
    }
}
