//! `cuDeviceGetAttribute`: numbers of the device's model, and 0 for what an emulated device does
//! not have.

use crate::device::DeviceModel;

/// The last attribute of CUDA 13.0's header.
const LAST: u32 = 147;

/// The attribute's value; `None` for a number that is no attribute.
pub(super) fn value(model: &DeviceModel, attribute: u32) -> Option<i32> {
    let (major, minor) = model.compute_capability;
    let value = match attribute {
        1 => model.max_threads_per_block, // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                    // MAX_BLOCK_DIM_X, _Y
        4 => 64,                          // MAX_BLOCK_DIM_Z
        5 => i32::MAX.cast_unsigned(),    // MAX_GRID_DIM_X
        6 | 7 => 65_535,                  // MAX_GRID_DIM_Y, _Z
        8 => model.max_shared_per_block,
        9 => 64 << 10,                  // TOTAL_CONSTANT_MEMORY
        10 => 32,                       // WARP_SIZE
        11 => i32::MAX.cast_unsigned(), // MAX_PITCH
        12 => 65_536,                   // MAX_REGISTERS_PER_BLOCK
        13 => model.clock_khz,
        14 => 512,    // TEXTURE_ALIGNMENT
        15 | 31 => 1, // GPU_OVERLAP, CONCURRENT_KERNELS: streams may be used
        16 => model.multiprocessors,
        51 => 32, // TEXTURE_PITCH_ALIGNMENT
        36 => model.memory_clock_khz,
        37 => model.memory_bus_bits,
        38 => u32::try_from(model.l2_bytes).unwrap_or(u32::MAX),
        39 => model.max_threads_per_multiprocessor,
        40 => 1, // ASYNC_ENGINE_COUNT
        41 => 1, // UNIFIED_ADDRESSING: device addresses are never host addresses
        75 => major,
        76 => minor,
        78 => 1,      // STREAM_PRIORITIES_SUPPORTED
        79 | 80 => 1, // GLOBAL_, LOCAL_L1_CACHE_SUPPORTED
        81 => model.shared_per_multiprocessor,
        82 => model.registers_per_multiprocessor,
        // CAN_USE_STREAM_MEM_OPS_V1, CAN_USE_64_BIT_STREAM_MEM_OPS and _WAIT_VALUE_NOR of both
        // forms
        92..=94 | 122 | 123 => 1,
        95 => 1, // COOPERATIVE_LAUNCH
        97 => model.max_shared_optin,
        106 => model.max_blocks_per_multiprocessor,
        111 => model.reserved_shared_per_block,
        115 => 1,                     // MEMORY_POOLS_SUPPORTED
        120 => u32::from(major >= 9), // CLUSTER_LAUNCH
        0 => return None,
        _ if attribute > LAST => return None,
        _ => 0,
    };
    Some(value.cast_signed())
}
