//! What plans know of a device.

use std::ffi::{CStr, c_char};

use kernels::DeviceProps;

use crate::error::{Error, Result};
use crate::status::{lora_status, run};
use crate::structs::{Versioned, read, write};

/// What a plan needs to know of a device: asked of a handle by lora_kernels_device, looked up by
/// lora_device_named, or filled in by hand.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_device {
    /// sizeof(lora_device)
    pub struct_size: u32,
    /// Major compute capability, at least 8.
    pub compute_major: u32,
    /// Minor compute capability.
    pub compute_minor: u32,
    /// Streaming multiprocessors; 0 counts as 1.
    pub multiprocessors: u32,
    /// Shared memory that one block may use after opting in, bytes.
    pub shared_per_block: u32,
    /// Shared memory that the blocks of a multiprocessor have together, bytes.
    pub shared_per_multiprocessor: u32,
    /// Size of the L2 cache, bytes.
    pub l2_bytes: u64,
}

// SAFETY: repr(C), plain integers: 6 of 4 bytes, one of 8.
unsafe impl Versioned for lora_device {
    const NAME: &'static str = "lora_device";
    const FIRST_SIZE: u32 = 32;
}

impl From<&DeviceProps> for lora_device {
    fn from(props: &DeviceProps) -> Self {
        let (compute_major, compute_minor) = props.compute_capability();
        Self {
            struct_size: size_of::<Self>() as u32,
            compute_major,
            compute_minor,
            multiprocessors: props.multiprocessors(),
            shared_per_block: props.shared_per_block(),
            shared_per_multiprocessor: props.shared_per_multiprocessor(),
            l2_bytes: props.l2_bytes(),
        }
    }
}

/// # Safety
/// As [`read`].
pub unsafe fn properties(device: *const lora_device) -> Result<DeviceProps> {
    // SAFETY: the caller's promise.
    let device = unsafe { read(device, "device") }?;
    Ok(DeviceProps::new(
        (device.compute_major, device.compute_minor),
        device.multiprocessors,
        device.shared_per_block,
        device.shared_per_multiprocessor,
        device.l2_bytes,
    ))
}

fn named(name: &str) -> Result<DeviceProps> {
    let all = DeviceProps::named();
    let known = all
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ");
    let found = all.into_iter().find(|(one, _)| *one == name);
    found.map(|(_, props)| props).ok_or(Error::DeviceName {
        given: name.into(),
        known,
    })
}

/// The properties of a GPU that the library knows, for plans on a machine without it.
///
/// name: "a100", "rtx3090", "rtx4090", "l40s", "h100", "b200" or "rtx5090".
/// device: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_device_named(
    name: *const c_char,
    device: *mut lora_device,
) -> lora_status {
    run(|| {
        if name.is_null() {
            return Err(Error::NullArgument {
                place: "name".into(),
            });
        }
        // SAFETY: not null, so a string by the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let props = named(&name)?;
        // SAFETY: the caller's promise: null or valid.
        unsafe { write(device, &lora_device::from(&props), "device") }
    })
}
