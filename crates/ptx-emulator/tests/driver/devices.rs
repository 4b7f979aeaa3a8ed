//! The virtual devices as a program sees them: each in a process of its own, since the first CUDA
//! call decides for the whole process.

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, result};
use ptx_emulator::device::{DeviceModel, Numerics};
use ptx_emulator::select::emulated;

use super::process::{case, run};

/// The figures of NVIDIA's data sheets and of the CUDA programming guide's table of compute
/// capabilities.
struct Published {
    key: &'static str,
    name: &'static str,
    capability: (i32, i32),
    multiprocessors: i32,
    shared_optin: i32,
    shared_per_multiprocessor: i32,
    threads_per_multiprocessor: i32,
    blocks_per_multiprocessor: i32,
    l2_mib: i32,
    memory_gib: usize,
    bus_bits: i32,
    numerics: Numerics,
}

const PUBLISHED: [Published; 9] = [
    Published {
        key: "a100",
        name: "A100",
        capability: (8, 0),
        multiprocessors: 108,
        shared_optin: 163 << 10,
        shared_per_multiprocessor: 164 << 10,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        l2_mib: 40,
        memory_gib: 80,
        bus_bits: 5120,
        numerics: Numerics::Ampere,
    },
    Published {
        key: "a100-40gb",
        name: "A100-SXM4-40GB",
        capability: (8, 0),
        multiprocessors: 108,
        shared_optin: 163 << 10,
        shared_per_multiprocessor: 164 << 10,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        l2_mib: 40,
        memory_gib: 40,
        bus_bits: 5120,
        numerics: Numerics::Ampere,
    },
    Published {
        key: "rtx3090",
        name: "RTX 3090",
        capability: (8, 6),
        multiprocessors: 82,
        shared_optin: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 16,
        l2_mib: 6,
        memory_gib: 24,
        bus_bits: 384,
        numerics: Numerics::Ampere,
    },
    Published {
        key: "rtx4090",
        name: "RTX 4090",
        capability: (8, 9),
        multiprocessors: 128,
        shared_optin: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        l2_mib: 72,
        memory_gib: 24,
        bus_bits: 384,
        numerics: Numerics::Ampere,
    },
    Published {
        key: "l40s",
        name: "L40S",
        capability: (8, 9),
        multiprocessors: 142,
        shared_optin: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        l2_mib: 96,
        memory_gib: 45,
        bus_bits: 384,
        numerics: Numerics::Ampere,
    },
    Published {
        key: "h100",
        name: "H100",
        capability: (9, 0),
        multiprocessors: 132,
        shared_optin: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        l2_mib: 50,
        memory_gib: 80,
        bus_bits: 5120,
        numerics: Numerics::Hopper,
    },
    Published {
        key: "h200",
        name: "H200",
        capability: (9, 0),
        multiprocessors: 132,
        shared_optin: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        l2_mib: 60,
        memory_gib: 141,
        bus_bits: 6144,
        numerics: Numerics::Hopper,
    },
    Published {
        key: "b200",
        name: "B200",
        capability: (10, 0),
        multiprocessors: 148,
        shared_optin: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        l2_mib: 126,
        memory_gib: 180,
        bus_bits: 8192,
        numerics: Numerics::Hopper,
    },
    Published {
        key: "rtx5090",
        name: "RTX 5090",
        capability: (12, 0),
        multiprocessors: 170,
        shared_optin: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        l2_mib: 96,
        memory_gib: 32,
        bus_bits: 512,
        numerics: Numerics::Ampere,
    },
];

/// Not a test of its own: the other test runs it in processes with the variable set.
#[test]
fn child() {
    let Some(key) = case() else {
        return;
    };
    let expected = PUBLISHED
        .iter()
        .find(|device| device.key == key)
        .expect("a device");
    emulated().expect("the emulated driver");
    let context = CudaContext::new(0).expect("a device");
    let name = context.name().expect("a name");
    assert!(
        name.starts_with("Emulated NVIDIA ") && name.contains(expected.name),
        "{name}"
    );
    assert_eq!(context.compute_capability(), Ok(expected.capability));
    assert_eq!(context.total_mem(), Ok(expected.memory_gib << 30));
    for (attribute, value) in [
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            expected.multiprocessors,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
            48 << 10,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            expected.shared_optin,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            expected.shared_per_multiprocessor,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
            1 << 10,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
            expected.threads_per_multiprocessor,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR,
            expected.blocks_per_multiprocessor,
        ),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
            65_536,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
            expected.l2_mib << 20,
        ),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
            expected.bus_bits,
        ),
        (Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
    ] {
        assert_eq!(context.attribute(attribute), Ok(value), "{attribute:?}");
    }
    // Most of the device's memory can be had: it costs the host nothing until it is written.
    context.bind_to_thread().expect("a context");
    let most = (expected.memory_gib - 1) << 30;
    // SAFETY: a plain allocation, written within its bounds and freed once.
    unsafe {
        let address = result::malloc_sync(most).expect("nearly all of the memory");
        result::memcpy_htod_sync(address + most as u64 - 4, &[1_u8, 2, 3, 4])
            .expect("the last bytes");
        let mut bytes = [0_u8; 4];
        result::memcpy_dtoh_sync(&mut bytes, address + most as u64 - 4).expect("the last bytes");
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert!(
            result::malloc_sync(2 << 30).is_err(),
            "more than the device has"
        );
        result::free_sync(address).expect("it was allocated");
    }
}

#[test]
fn a_device_has_one_name_or_two() {
    let a100 = DeviceModel::by_name("a100");
    assert_eq!(DeviceModel::by_name("A100-80GB"), a100);
    assert_eq!(DeviceModel::by_name("a100-20gb"), None);
}

#[test]
fn every_virtual_device_reports_its_real_properties() {
    assert_eq!(PUBLISHED.len(), DeviceModel::ALL.len());
    for (expected, model) in PUBLISHED.iter().zip(DeviceModel::ALL) {
        assert_eq!(
            (expected.key, expected.numerics),
            (model.key, model.tensor_core)
        );
        assert_eq!(DeviceModel::by_name(expected.key), Some(model));
        let (success, output) = run(
            "devices::child",
            expected.key,
            &[("PTX_EMULATOR_DEVICE", expected.key)],
        );
        assert!(
            success && output.contains("1 passed"),
            "{}: {output}",
            expected.key
        );
    }
}
