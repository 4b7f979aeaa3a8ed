//! The properties of a device that plans depend on. GPUs are listed by name only here.

use std::fmt;

use crate::{Error, Result};

/// The properties of a device that a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceProps {
    compute_capability: (u32, u32),
    /// The device's multiprocessors. Plans may use another number, `planned`.
    multiprocessors: u32,
    /// The multiprocessors that plans divide their work over.
    planned: u32,
    shared_per_block: u32,
    shared_per_multiprocessor: u32,
    l2_bytes: u64,
}

impl DeviceProps {
    /// A device with this compute capability (major, minor) and number of multiprocessors (at least
    /// 1). A block may use `shared_per_block` bytes of shared memory after opting in, and all
    /// blocks of a multiprocessor together `shared_per_multiprocessor` bytes. The L2 cache has
    /// `l2_bytes` bytes. [`crate::Kernels::props`] returns those of a real device.
    pub fn new(
        compute_capability: (u32, u32),
        multiprocessors: u32,
        shared_per_block: u32,
        shared_per_multiprocessor: u32,
        l2_bytes: u64,
    ) -> Self {
        Self {
            compute_capability,
            multiprocessors: multiprocessors.max(1),
            planned: multiprocessors.max(1),
            shared_per_block,
            shared_per_multiprocessor,
            l2_bytes,
        }
    }

    /// NVIDIA A100 (40 GB): 108 multiprocessors, 163 KiB of shared memory per block, 40 MiB of L2.
    pub fn a100() -> Self {
        Self::new((8, 0), 108, 163 << 10, 164 << 10, 40 << 20)
    }

    /// NVIDIA GeForce RTX 3090: 82 multiprocessors, 99 KiB of shared memory per block, 6 MiB of L2.
    pub fn rtx3090() -> Self {
        Self::new((8, 6), 82, 99 << 10, 100 << 10, 6 << 20)
    }

    /// NVIDIA GeForce RTX 4090: 128 multiprocessors, 99 KiB of shared memory per block, 72 MiB of
    /// L2.
    pub fn rtx4090() -> Self {
        Self::new((8, 9), 128, 99 << 10, 100 << 10, 72 << 20)
    }

    /// NVIDIA L40S: 142 multiprocessors, 99 KiB of shared memory per block, 96 MiB of L2.
    pub fn l40s() -> Self {
        Self::new((8, 9), 142, 99 << 10, 100 << 10, 96 << 20)
    }

    /// NVIDIA H100 SXM: 132 multiprocessors, 227 KiB of shared memory per block, 50 MiB of L2.
    pub fn h100() -> Self {
        Self::new((9, 0), 132, 227 << 10, 228 << 10, 50 << 20)
    }

    /// NVIDIA B200: 148 multiprocessors, 227 KiB of shared memory per block, 126 MiB of L2.
    pub fn b200() -> Self {
        Self::new((10, 0), 148, 227 << 10, 228 << 10, 126 << 20)
    }

    /// NVIDIA GeForce RTX 5090: 170 multiprocessors, 99 KiB of shared memory per block, 96 MiB of
    /// L2.
    pub fn rtx5090() -> Self {
        Self::new((12, 0), 170, 99 << 10, 100 << 10, 96 << 20)
    }

    /// The GPUs above, with short names.
    pub fn named() -> [(&'static str, DeviceProps); 7] {
        [
            ("a100", Self::a100()),
            ("rtx3090", Self::rtx3090()),
            ("rtx4090", Self::rtx4090()),
            ("l40s", Self::l40s()),
            ("h100", Self::h100()),
            ("b200", Self::b200()),
            ("rtx5090", Self::rtx5090()),
        ]
    }

    /// The compute capability (major, minor).
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// The number of streaming multiprocessors that plans divide their work over, at least 1.
    pub fn multiprocessors(&self) -> u32 {
        self.planned
    }

    /// Shared memory that a block may use after opting in, in bytes.
    pub fn shared_per_block(&self) -> u32 {
        self.shared_per_block
    }

    /// Shared memory that all blocks of a multiprocessor may use together, in bytes.
    pub fn shared_per_multiprocessor(&self) -> u32 {
        self.shared_per_multiprocessor
    }

    /// Size of the L2 cache in bytes.
    pub fn l2_bytes(&self) -> u64 {
        self.l2_bytes
    }

    /// The same device with another number of multiprocessors (at least 1) for plans. Use it to
    /// leave a part of the GPU to others, or to look at other plans. Such plans still run on the
    /// whole device.
    pub fn with_multiprocessors(self, multiprocessors: u32) -> Self {
        Self {
            planned: multiprocessors.max(1),
            ..self
        }
    }

    /// Refuses a plan that was made for a device with other properties.
    #[cfg(feature = "cuda")]
    pub(crate) fn check_planned(&self, planned: &DeviceProps) -> Result<()> {
        let what_plans_rest_on = |props: &DeviceProps| {
            (
                props.compute_capability,
                props.multiprocessors,
                props.shared_per_block,
                props.shared_per_multiprocessor,
            )
        };
        if what_plans_rest_on(self) == what_plans_rest_on(planned) {
            return Ok(());
        }
        Err(Error::OtherDevice {
            planned: *planned,
            found: *self,
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.compute_capability < (8, 0) {
            let (major, minor) = self.compute_capability;
            return Err(Error::Device {
                what: "compute capability",
                needed: "8.0 or later (cp.async and mma.sync with bf16)".into(),
                available: format!("{major}.{minor}"),
            });
        }
        Ok(())
    }

    /// The number of blocks with this much dynamic shared memory that a multiprocessor can hold at
    /// once. CUDA reserves 1 KiB for each block (CUDA C++ Programming Guide, "Compute
    /// Capabilities").
    pub(crate) fn blocks_by_shared(&self, shared_bytes: u32) -> u32 {
        self.shared_per_multiprocessor / (shared_bytes + 1024)
    }
}

impl fmt::Display for DeviceProps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.compute_capability;
        write!(
            f,
            "compute capability {major}.{minor}, {} multiprocessors, {} bytes of shared memory per block and {} per multiprocessor",
            self.multiprocessors, self.shared_per_block, self.shared_per_multiprocessor
        )
    }
}
