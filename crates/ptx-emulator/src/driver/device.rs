//! Initialisation and device queries.

use std::ffi::c_char;
use std::sync::Once;

use super::abi::{Name, Out, report};
use super::code::Code;
use super::state::{driver, driver_of, initialise, is_initialised};
use super::{Outcome, api, attributes, counters, cuda_version, running};
use crate::device::DeviceModel;
use crate::settings;

/// Reads the environment; a value that means nothing is an error, not the default.
fn configure() -> Outcome {
    static FORMER_SPELLINGS: Once = Once::new();
    FORMER_SPELLINGS.call_once(|| {
        if let Some(sentence) = settings::former_spellings() {
            report(format_args!("{sentence}"));
        }
    });
    let model = match settings::find("device") {
        None => DeviceModel::default(),
        Some(found) => DeviceModel::by_name(&found.value).ok_or_else(|| {
            let known: Vec<&str> = DeviceModel::ALL.iter().map(|model| model.key).collect();
            counters::refuse(&found, &format!("this is none of {}", known.join(", ")))
        })?,
    };
    cuda_version::configure().map_err(|(found, error)| counters::refuse(&found, &error))?;
    running::configure()?;
    counters::configure()?;
    initialise(model, settings::find("log").is_some());
    Ok(())
}

fn uuid(out: Out<[u8; 16]>, device: i32) -> Outcome {
    let model = driver_of(device)?.model;
    let mut bytes = *b"emulated\0\0\0\0\0\0\0\0";
    for (byte, letter) in bytes.iter_mut().skip(8).zip(model.key.bytes()) {
        *byte = letter;
    }
    out.set(bytes)
}

api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if is_initialised() { Ok(()) } else { configure() }
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(cuda_version::reported())
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        driver()?;
        count.set(1)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        driver_of(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<u8>, length: i32, device: i32) {
        let driver = driver_of(device)?;
        let room = usize::try_from(length).ok().and_then(|length| length.checked_sub(1));
        let room = room.ok_or(Code::INVALID_VALUE)?;
        let text = format!("Emulated {}", driver.model.name);
        let mut bytes: Vec<u8> = text.bytes().take(room).collect();
        bytes.push(0);
        name.set_all(&bytes)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(driver_of(device)?.model.memory_bytes as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        let driver = driver_of(device)?;
        value.set(attributes::value(&driver.model, attribute).ok_or(Code::INVALID_VALUE)?)
    }

    fn cuDeviceGetUuid(bytes: Out<[u8; 16]>, device: i32) {
        uuid(bytes, device)
    }

    fn cuDeviceGetUuid_v2(bytes: Out<[u8; 16]>, device: i32) {
        uuid(bytes, device)
    }

    fn cuDeviceGetPCIBusId(text: Out<u8>, length: i32, device: i32) {
        driver_of(device)?;
        let id = b"0000:00:00.0\0";
        if usize::try_from(length).map_or(true, |length| length < id.len()) {
            return Err(Code::INVALID_VALUE);
        }
        text.set_all(id)
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Name) {
        driver()?;
        let known = ["0000:00:00.0", "00:00.0", "0000:00:00"];
        if !known.contains(&id.get()?) {
            return Err(Code::INVALID_DEVICE);
        }
        device.set(0)
    }

    // One device has no peers.
    fn cuDeviceGetP2PAttribute(_value: Out<i32>, attribute: u32, from: i32, to: i32) {
        driver_of(from)?;
        driver_of(to)?;
        if (1..=5).contains(&attribute) { Err(Code::INVALID_DEVICE) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let (first, second) = driver_of(device)?.model.compute_capability;
        major.set(first.cast_signed())?;
        minor.set(second.cast_signed())
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        driver_of(device)?;
        driver_of(peer)?;
        can.set(0)
    }

    fn cuDeviceGetLuid(_luid: Out<c_char>, _mask: Out<u32>, device: i32) {
        driver_of(device)?;
        Err(Code::NOT_SUPPORTED)
    }
}
