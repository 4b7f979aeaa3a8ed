//! GPUs by name. This is the only list in the workspace.
//!
//! Multiprocessors and L2 are from NVIDIA's architecture whitepapers ("NVIDIA A100 Tensor Core GPU
//! Architecture", "NVIDIA Ampere GA102 GPU Architecture", "NVIDIA Ada GPU Architecture", "NVIDIA
//! H100 Tensor Core GPU Architecture") and, for H200, GH200, B200 and the RTX 5090, as
//! cudaGetDeviceProperties reports them; shared memory is from the CUDA C++ Programming Guide,
//! "Compute Capabilities".

use super::DeviceProps;

/// A GPU that plans can be made for by name.
#[derive(Clone, Copy)]
pub(super) struct Named {
    /// The name on command lines and in bindings.
    pub name: &'static str,
    pub props: DeviceProps,
}

/// Shared memory in KiB per block and per multiprocessor, L2 in MiB.
const fn gpu(
    name: &'static str,
    compute_capability: (u32, u32),
    multiprocessors: u32,
    (block_kib, multiprocessor_kib): (u32, u32),
    l2_mib: u64,
) -> Named {
    let props = DeviceProps::new(
        compute_capability,
        multiprocessors,
        block_kib << 10,
        multiprocessor_kib << 10,
        l2_mib << 20,
    );
    Named { name, props }
}

pub(super) const A100: Named = gpu("a100", (8, 0), 108, (163, 164), 40);
pub(super) const A100_80GB: Named = gpu("a100-80gb", (8, 0), 108, (163, 164), 40);
pub(super) const RTX3090: Named = gpu("rtx3090", (8, 6), 82, (99, 100), 6);
pub(super) const RTX4090: Named = gpu("rtx4090", (8, 9), 128, (99, 100), 72);
pub(super) const L40S: Named = gpu("l40s", (8, 9), 142, (99, 100), 96);
pub(super) const H100: Named = gpu("h100", (9, 0), 132, (227, 228), 50);
pub(super) const H100_PCIE: Named = gpu("h100-pcie", (9, 0), 114, (227, 228), 50);
pub(super) const H200: Named = gpu("h200", (9, 0), 132, (227, 228), 60);
pub(super) const GH200: Named = gpu("gh200", (9, 0), 132, (227, 228), 60);
pub(super) const B200: Named = gpu("b200", (10, 0), 148, (227, 228), 126);
pub(super) const RTX5090: Named = gpu("rtx5090", (12, 0), 170, (99, 100), 96);

pub(super) const COUNT: usize = 11;

pub(super) const ALL: [Named; COUNT] = [
    A100, A100_80GB, RTX3090, RTX4090, L40S, H100, H100_PCIE, H200, GH200, B200, RTX5090,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_every_device_runs_the_kernels() {
        for (index, device) in ALL.iter().enumerate() {
            let again = ALL
                .iter()
                .skip(index + 1)
                .find(|other| other.name == device.name);
            assert!(again.is_none(), "{}", device.name);
            assert!(device.props.check().is_ok(), "{}", device.name);
            let (block, all) = (
                device.props.shared_per_block(),
                device.props.shared_per_multiprocessor(),
            );
            assert!(block < all, "{}", device.name);
        }
    }
}
