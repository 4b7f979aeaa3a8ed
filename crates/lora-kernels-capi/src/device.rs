//! What plans know of a device.

use std::ffi::c_char;

use kernels::DeviceProps;

use crate::error::{Error, Result};
use crate::status::{lora_status, run};
use crate::structs::{Versioned, read, reserved, size, write};

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
    /// Streaming multiprocessors that plans count on, where others use the device too. 0: all. A
    /// plan runs on devices that agree with its own in everything but this.
    pub planned_multiprocessors: u32,
    /// 0
    pub reserved: u32,
}

// SAFETY: repr(C), plain integers: six of 4 bytes, one of 8, two of 4.
unsafe impl Versioned for lora_device {
    const NAME: &'static str = "lora_device";
    const SIZES: &[u32] = &[40];
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
            planned_multiprocessors: 0,
            reserved: 0,
        }
    }
}

/// # Safety
/// As [`read`].
pub unsafe fn device_props(device: *const lora_device) -> Result<DeviceProps> {
    // SAFETY: the caller's promise.
    let device = unsafe { read(device, "device") }?;
    let number = |name, given: u32| {
        // Sign-extended, so that a negative number stays one.
        let wide = given.cast_signed() as usize;
        size(name, wide, lora_status::Device).map(|_| given)
    };
    reserved("device", device.reserved)?;
    let planned = number(
        "device.planned_multiprocessors",
        device.planned_multiprocessors,
    )?;
    let props = DeviceProps::new(
        (
            number("device.compute_major", device.compute_major)?,
            number("device.compute_minor", device.compute_minor)?,
        ),
        number("device.multiprocessors", device.multiprocessors)?,
        number("device.shared_per_block", device.shared_per_block)?,
        number(
            "device.shared_per_multiprocessor",
            device.shared_per_multiprocessor,
        )?,
        size(
            "device.l2_bytes",
            device.l2_bytes as usize,
            lora_status::Device,
        )? as u64,
    );
    Ok(match planned {
        0 => props,
        _ => props.with_multiprocessors(planned),
    })
}

/// Bytes of a name that are looked at: more than any known one has.
const NAME_BYTES: usize = 40;

/// A string of the program's. Of a longer one than any known name, no more than its start is read,
/// and nothing says how long it is.
///
/// # Safety
/// `text` is a string.
unsafe fn start_of(text: *const c_char) -> String {
    let mut start = Vec::new();
    for index in 0..NAME_BYTES {
        // SAFETY: the string goes at least this far: none of its bytes so far was its end.
        let byte = unsafe { text.cast::<u8>().add(index).read() };
        if byte == 0 {
            return String::from_utf8_lossy(&start).into_owned();
        }
        start.push(byte);
    }
    String::from_utf8_lossy(&start).into_owned() + "..."
}

fn named(name: &str) -> Result<DeviceProps> {
    let all = DeviceProps::named();
    let known: Vec<&str> = all.iter().map(|(known, _)| *known).collect();
    let found = all.into_iter().find(|(known, _)| *known == name);
    found
        .map(|(_, props)| props)
        .ok_or_else(|| Error::DeviceName {
            given: name.into(),
            known: known.join(", "),
        })
}

/// The properties of a GPU that the library knows, for plans on a machine without it.
///
/// name: such as "h100"; the error about an unknown one lists the known ones.
/// device: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_device_named(
    name: *const c_char,
    device: *mut lora_device,
) -> lora_status {
    run(|| {
        if name.is_null() {
            return Err(Error::NullArgument {
                argument: "name".into(),
            });
        }
        // SAFETY: not null, so a string by the caller's promise.
        let name = unsafe { start_of(name) };
        let props = named(&name)?;
        // SAFETY: the caller's promise: null or valid.
        unsafe { write(device, &lora_device::from(&props), "device") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_looked_at_whole() {
        for (name, _) in DeviceProps::named() {
            let text = std::ffi::CString::new(name).unwrap();
            // SAFETY: a string.
            assert_eq!(unsafe { start_of(text.as_ptr()) }, name);
        }
    }
}
