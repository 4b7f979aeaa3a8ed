//! The virtual devices: the properties a driver reports and the limits a launch is held to.

/// How tensor-core products are summed (`mma.sync` with a floating-point accumulator).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numerics {
    /// One f32 fused multiply-add per product, in order of k. Fast; no GPU does it.
    F32Fma,
    /// The truncating fused sum of compute capability 8.x: 24 fraction bits, K halves in sequence.
    Ampere,
    /// The truncating fused sum of compute capability 9.0: 25 fraction bits, all of K at once.
    Hopper,
}

/// A virtual device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceModel {
    /// The name under which [`DeviceModel::by_name`] finds it.
    pub key: &'static str,
    /// The name that `cuDeviceGetName` reports (the driver marks it as emulated).
    pub name: &'static str,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may use without opting in.
    pub max_shared_per_block: u32,
    /// Shared memory that a block may use after `cuFuncSetAttribute`.
    pub max_shared_optin: u32,
    /// Bytes of shared memory on a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Shared memory that the system takes from each resident block.
    pub reserved_shared_per_block: u32,
    /// Bytes of L2.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Width of the memory bus.
    pub memory_bus_bits: u32,
    /// Clock of the memory.
    pub memory_clock_khz: u32,
    /// Clock of the multiprocessors.
    pub clock_khz: u32,
    /// Threads that a block may have.
    pub max_threads_per_block: u32,
    /// Threads on a multiprocessor at once.
    pub max_threads_per_multiprocessor: u32,
    /// Blocks on a multiprocessor at once.
    pub max_blocks_per_multiprocessor: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// The tensor-core model of this device.
    pub tensor_core: Numerics,
}

/// NVIDIA A100 SXM4 80 GB.
pub const A100: DeviceModel = DeviceModel {
    key: "a100",
    name: "NVIDIA A100-SXM4-80GB",
    compute_capability: (8, 0),
    multiprocessors: 108,
    max_shared_per_block: 48 << 10,
    max_shared_optin: 163 << 10,
    shared_per_multiprocessor: 164 << 10,
    reserved_shared_per_block: 1 << 10,
    l2_bytes: 40 << 20,
    memory_bytes: 80 << 30,
    memory_bus_bits: 5120,
    memory_clock_khz: 1_593_000,
    clock_khz: 1_410_000,
    max_threads_per_block: 1024,
    max_threads_per_multiprocessor: 2048,
    max_blocks_per_multiprocessor: 32,
    registers_per_multiprocessor: 65_536,
    tensor_core: Numerics::Ampere,
};

/// NVIDIA A100 SXM4 40 GB: slower memory, and half of it (data sheet of the A100).
pub const A100_40GB: DeviceModel = DeviceModel {
    key: "a100-40gb",
    name: "NVIDIA A100-SXM4-40GB",
    memory_bytes: 40 << 30,
    memory_clock_khz: 1_215_000,
    ..A100
};

/// NVIDIA GeForce RTX 3090 (NVIDIA's GA102 whitepaper; compute capability 8.6 in the CUDA
/// programming guide).
pub const RTX3090: DeviceModel = DeviceModel {
    key: "rtx3090",
    name: "NVIDIA GeForce RTX 3090",
    compute_capability: (8, 6),
    multiprocessors: 82,
    l2_bytes: 6 << 20,
    memory_clock_khz: 9_751_000,
    clock_khz: 1_695_000,
    max_blocks_per_multiprocessor: 16,
    ..RTX4090
};

/// NVIDIA GeForce RTX 4090.
pub const RTX4090: DeviceModel = DeviceModel {
    key: "rtx4090",
    name: "NVIDIA GeForce RTX 4090",
    compute_capability: (8, 9),
    multiprocessors: 128,
    max_shared_per_block: 48 << 10,
    max_shared_optin: 99 << 10,
    shared_per_multiprocessor: 100 << 10,
    reserved_shared_per_block: 1 << 10,
    l2_bytes: 72 << 20,
    memory_bytes: 24 << 30,
    memory_bus_bits: 384,
    memory_clock_khz: 10_501_000,
    clock_khz: 2_520_000,
    max_threads_per_block: 1024,
    max_threads_per_multiprocessor: 1536,
    max_blocks_per_multiprocessor: 24,
    registers_per_multiprocessor: 65_536,
    tensor_core: Numerics::Ampere,
};

/// NVIDIA L40S.
pub const L40S: DeviceModel = DeviceModel {
    key: "l40s",
    name: "NVIDIA L40S",
    multiprocessors: 142,
    l2_bytes: 96 << 20,
    memory_bytes: 45 << 30,
    memory_clock_khz: 9_001_000,
    ..RTX4090
};

/// NVIDIA H100 SXM5 80 GB.
pub const H100: DeviceModel = DeviceModel {
    key: "h100",
    name: "NVIDIA H100 80GB HBM3",
    compute_capability: (9, 0),
    multiprocessors: 132,
    max_shared_optin: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    l2_bytes: 50 << 20,
    memory_clock_khz: 2_619_000,
    clock_khz: 1_980_000,
    tensor_core: Numerics::Hopper,
    ..A100
};

/// NVIDIA H200 SXM: an H100 with more and faster memory (data sheet of the H200). Its L2 is what
/// `cudaGetDeviceProperties` reports.
pub const H200: DeviceModel = DeviceModel {
    key: "h200",
    name: "NVIDIA H200",
    l2_bytes: 60 << 20,
    memory_bytes: 141 << 30,
    memory_bus_bits: 6144,
    memory_clock_khz: 3_201_000,
    ..H100
};

/// NVIDIA B200, for plans: PTX for compute capability 9.0 and before runs on it, but none of its
/// own tensor-core instructions. Multiprocessors, memory and clocks are those of the data sheet
/// (180 GB and 8 TB/s on 8192 bits); limits of a multiprocessor are those of compute capability
/// 10.0 in the CUDA programming guide. How its tensor cores sum `mma.sync` is not known: as an
/// H100's here.
pub const B200: DeviceModel = DeviceModel {
    key: "b200",
    name: "NVIDIA B200",
    compute_capability: (10, 0),
    multiprocessors: 148,
    l2_bytes: 126 << 20,
    memory_bytes: 180 << 30,
    memory_bus_bits: 8192,
    memory_clock_khz: 3_996_000,
    clock_khz: 1_965_000,
    ..H100
};

/// NVIDIA GeForce RTX 5090, for plans, as [`B200`] (NVIDIA's RTX Blackwell whitepaper; compute
/// capability 12.0 in the CUDA programming guide).
pub const RTX5090: DeviceModel = DeviceModel {
    key: "rtx5090",
    name: "NVIDIA GeForce RTX 5090",
    compute_capability: (12, 0),
    multiprocessors: 170,
    l2_bytes: 96 << 20,
    memory_bytes: 32 << 30,
    memory_bus_bits: 512,
    memory_clock_khz: 14_001_000,
    clock_khz: 2_407_000,
    ..RTX4090
};

/// Other keys that [`DeviceModel::by_name`] takes, and the ones that they stand for.
const ALIASES: [(&str, &str); 1] = [("a100-80gb", "a100")];

impl DeviceModel {
    /// Every virtual device, the default one first.
    pub const ALL: [DeviceModel; 9] = [
        A100, A100_40GB, RTX3090, RTX4090, L40S, H100, H200, B200, RTX5090,
    ];

    /// Finds a device by its [`DeviceModel::key`], in either case. `a100-80gb` is `a100`.
    pub fn by_name(name: &str) -> Option<DeviceModel> {
        let name = name.trim().to_lowercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        let key = alias.map_or(name.as_str(), |(_, key)| key);
        Self::ALL.into_iter().find(|model| model.key == key)
    }

    /// Blocks that a cluster may have. Eight on every device that has clusters; `non_portable`
    /// allows sixteen where the hardware can (CUDA programming guide, "Thread Block Clusters").
    pub fn max_cluster_blocks(&self, non_portable: bool) -> u32 {
        match self.compute_capability.0 {
            ..9 => 1,
            9 | 10 if non_portable => 16,
            _ => 8,
        }
    }

    /// Blocks of a kernel that one multiprocessor can hold, by threads, shared memory and block
    /// slots.
    pub fn blocks_per_multiprocessor(&self, threads: u32, shared_bytes: u32) -> u32 {
        self.resident_blocks(threads, shared_bytes, None)
    }

    /// Blocks of a kernel that one multiprocessor can hold, by threads, shared memory, block slots
    /// and the registers of a thread where they are known. The roundings are those of NVIDIA's
    /// `cuda_occupancy.h` for compute capability 8.0 and above.
    pub fn resident_blocks(&self, threads: u32, shared_bytes: u32, registers: Option<u32>) -> u32 {
        let warps = threads.max(1).div_ceil(32);
        let by_threads = self.max_threads_per_multiprocessor / 32 / warps;
        let shared = u64::from(shared_bytes) + u64::from(self.reserved_shared_per_block);
        let shared = shared.next_multiple_of(SHARED_GRANULARITY).max(1);
        let by_shared = u64::from(self.shared_per_multiprocessor) / shared;
        let by_shared = u32::try_from(by_shared).unwrap_or(u32::MAX);
        by_threads
            .min(by_shared)
            .min(self.max_blocks_per_multiprocessor)
            .min(self.blocks_by_registers(warps, registers.unwrap_or(0)))
    }

    /// A warp's registers are allocated from one of the multiprocessor's parts.
    fn blocks_by_registers(&self, warps: u32, registers: u32) -> u32 {
        let each = registers
            .saturating_mul(32)
            .checked_next_multiple_of(REGISTER_GRANULARITY);
        let Some(each) = each.filter(|&each| each > 0) else {
            return if registers == 0 { u32::MAX } else { 0 };
        };
        // The hardware's check of one block assumes that all parts get equally many warps.
        let assumed = each.saturating_mul(warps.next_multiple_of(PARTS));
        if assumed > self.registers_per_multiprocessor {
            return 0;
        }
        self.registers_per_multiprocessor / PARTS / each * PARTS / warps
    }
}

/// Bytes in which a multiprocessor's shared memory is given to blocks.
const SHARED_GRANULARITY: u64 = 128;
/// Registers in which a part of a multiprocessor's are given to warps.
const REGISTER_GRANULARITY: u32 = 256;
/// Parts of a multiprocessor that have registers of their own.
const PARTS: u32 = 4;

impl Default for DeviceModel {
    fn default() -> Self {
        A100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_rounds_as_the_hardware_allocates() {
        let a100 = |threads, shared, registers| A100.resident_blocks(threads, shared, registers);
        // (threads, shared bytes, registers) and the blocks that the CUDA occupancy calculator
        // gives for compute capability 8.0.
        assert_eq!(a100(256, 0, None), 8);
        assert_eq!(a100(256, 0, Some(32)), 8);
        // 33 registers take as many as 40: a part holds 12 warps, and 48 warps are 6 blocks.
        assert_eq!(a100(256, 0, Some(33)), 6);
        assert_eq!(a100(256, 0, Some(40)), 6);
        assert_eq!(a100(256, 0, Some(255)), 1);
        // 6 warps of 168 registers: 12 warps fit, in parts of three.
        assert_eq!(a100(192, 0, Some(168)), 2);
        // 5 warps of 128 registers take two of a part's four places: 16 warps are 3 blocks.
        assert_eq!(a100(160, 0, Some(128)), 3);
        // A block that does not fit at all.
        assert_eq!(a100(1024, 0, Some(72)), 0);
        // 164 KB: each block takes another 1 KB, in steps of 128 bytes.
        assert_eq!(a100(32, 54 << 10, None), 2);
        assert_eq!(a100(32, 40 << 10, None), 4);
        assert_eq!(a100(32, (40 << 10) + 1, None), 3);
    }
}
