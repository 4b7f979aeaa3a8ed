//! The properties of a device that plans depend on.

use std::fmt;

use super::devices;
use crate::{Error, Result};

/// The properties of a device that a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceProps {
    compute_capability: (u32, u32),
    /// All that the device has.
    physical_multiprocessors: u32,
    /// Those that plans divide their work over.
    multiprocessors: u32,
    shared_per_block: u32,
    shared_per_multiprocessor: u32,
    l2_bytes: u64,
    /// Whether the GPU has TMA and its driver encodes tensor maps.
    tensor_maps: bool,
}

impl DeviceProps {
    /// A device with this compute capability (major, minor) and number of multiprocessors (at least
    /// 1). A block may use `shared_per_block` bytes of shared memory after opting in, and all
    /// blocks of a multiprocessor together `shared_per_multiprocessor` bytes. The L2 cache has
    /// `l2_bytes` bytes. From 9.0 on it is taken to have a driver that encodes tensor maps.
    /// [`crate::Kernels::props`] returns those of a real device.
    pub const fn new(
        compute_capability: (u32, u32),
        multiprocessors: u32,
        shared_per_block: u32,
        shared_per_multiprocessor: u32,
        l2_bytes: u64,
    ) -> Self {
        let multiprocessors = if multiprocessors == 0 {
            1
        } else {
            multiprocessors
        };
        Self {
            compute_capability,
            physical_multiprocessors: multiprocessors,
            multiprocessors,
            shared_per_block,
            shared_per_multiprocessor,
            l2_bytes,
            tensor_maps: compute_capability.0 >= 9,
        }
    }

    /// NVIDIA A100 40 GB.
    pub fn a100() -> Self {
        devices::A100.props
    }

    /// NVIDIA A100 80 GB.
    pub fn a100_80gb() -> Self {
        devices::A100_80GB.props
    }

    /// NVIDIA GeForce RTX 3090.
    pub fn rtx3090() -> Self {
        devices::RTX3090.props
    }

    /// NVIDIA GeForce RTX 4090.
    pub fn rtx4090() -> Self {
        devices::RTX4090.props
    }

    /// NVIDIA L40S.
    pub fn l40s() -> Self {
        devices::L40S.props
    }

    /// NVIDIA H100 SXM.
    pub fn h100() -> Self {
        devices::H100.props
    }

    /// NVIDIA H100 PCIe.
    pub fn h100_pcie() -> Self {
        devices::H100_PCIE.props
    }

    /// NVIDIA H200.
    pub fn h200() -> Self {
        devices::H200.props
    }

    /// NVIDIA GH200.
    pub fn gh200() -> Self {
        devices::GH200.props
    }

    /// NVIDIA B200.
    pub fn b200() -> Self {
        devices::B200.props
    }

    /// NVIDIA GeForce RTX 5090.
    pub fn rtx5090() -> Self {
        devices::RTX5090.props
    }

    /// The GPUs above, with short names.
    pub fn named() -> [(&'static str, DeviceProps); devices::COUNT] {
        devices::ALL.map(|device| (device.name, device.props))
    }

    /// The compute capability (major, minor).
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// The number of streaming multiprocessors that plans divide their work over, at least 1.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
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
            multiprocessors: multiprocessors.max(1),
            ..self
        }
    }

    /// Whether kernels may copy by tensor maps (TMA).
    pub fn tensor_maps(&self) -> bool {
        self.tensor_maps
    }

    /// The same device as with a driver before CUDA 12.0, which encodes no tensor maps. Its plans
    /// have the kernels that every device has, and run with any driver.
    pub fn without_tensor_maps(self) -> Self {
        Self {
            tensor_maps: false,
            ..self
        }
    }

    /// Refuses a plan that was made for a device with other properties. Those of a part of the
    /// device ([`DeviceProps::with_multiprocessors`]) are its own, and so are those without its
    /// tensor maps ([`DeviceProps::without_tensor_maps`]).
    #[cfg(feature = "cuda")]
    pub(crate) fn check_planned(&self, planned: &DeviceProps) -> Result<()> {
        let needed = |props: &DeviceProps| Self {
            multiprocessors: props.physical_multiprocessors,
            tensor_maps: props.tensor_maps && planned.tensor_maps,
            ..*props
        };
        if needed(self) == needed(planned) {
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
        let (major, minor) = &self.compute_capability;
        write!(
            f,
            "compute capability {major}.{minor}, {} multiprocessors, {} bytes of shared memory per \
             block and {} per multiprocessor, {} bytes of L2{}",
            self.physical_multiprocessors,
            self.shared_per_block,
            self.shared_per_multiprocessor,
            self.l2_bytes,
            if self.tensor_maps || *major < 9 {
                ""
            } else {
                ", no tensor maps (a driver before CUDA 12.0)"
            }
        )
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn a_device_runs_plans_without_its_tensor_maps_and_none_that_need_what_it_lacks() {
        let with = DeviceProps::h100();
        let without = with.without_tensor_maps();
        assert!(with.check_planned(&without).is_ok());
        assert!(without.check_planned(&without).is_ok());
        assert!(without.check_planned(&with).is_err());
        let part = without.with_multiprocessors(7);
        assert!(with.check_planned(&part).is_ok());
        assert!(DeviceProps::h200().check_planned(&part).is_err());
    }
}
