//! Copies and fills, in their synchronous and stream-ordered forms. All are complete when they
//! return, pageable host memory or not.

use super::abi::{Host, is_device_address};
use super::code::Code;
use super::state::{Handle, current};
use super::work::{Work, submit};
use super::{Outcome, api};

fn enqueue(stream: Handle, work: Work) -> Outcome {
    let (driver, context) = current()?;
    submit(driver, context, stream, work)
}

/// A copy between addresses that are told apart by their range.
fn copy_unified(stream: Handle, to: u64, from: u64, bytes: usize) -> Outcome {
    let host = |address: u64| Host::new(std::ptr::with_exposed_provenance_mut(address as usize));
    let work = match (is_device_address(to), is_device_address(from)) {
        (true, true) => Work::OnDevice {
            to,
            from,
            bytes: bytes as u64,
        },
        (true, false) => Work::ToDevice {
            to,
            from: host(from),
            bytes,
        },
        (false, true) => Work::ToHost {
            to: host(to),
            from,
            bytes,
        },
        (false, false) => Work::OnHost {
            to: host(to),
            from: host(from),
            bytes,
        },
    };
    enqueue(stream, work)
}

fn fill(stream: Handle, to: u64, value: u32, width: usize, count: usize) -> Outcome {
    let (driver, context) = current()?;
    if !to.is_multiple_of(width as u64) {
        return Err(Code::INVALID_VALUE);
    }
    if count == 0 {
        return Ok(());
    }
    let work = Work::Fill {
        to,
        pattern: value.to_le_bytes(),
        width,
        count: count as u64,
    };
    submit(driver, context, stream, work)
}

fn peer(
    stream: Handle,
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
) -> Outcome {
    let (driver, _) = current()?;
    let state = driver.state();
    state.usable(to_context)?;
    state.usable(from_context)?;
    drop(state);
    enqueue(
        stream,
        Work::OnDevice {
            to,
            from,
            bytes: bytes as u64,
        },
    )
}

api! {
    fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) {
        enqueue(0, Work::ToDevice { to, from, bytes })
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: Handle) {
        enqueue(stream, Work::ToDevice { to, from, bytes })
    }
    fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) {
        enqueue(0, Work::ToHost { to, from, bytes })
    }
    fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: Handle) {
        enqueue(stream, Work::ToHost { to, from, bytes })
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        enqueue(0, Work::OnDevice { to, from, bytes: bytes as u64 })
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(stream, Work::OnDevice { to, from, bytes: bytes as u64 })
    }
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        copy_unified(0, to, from, bytes)
    }
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy_unified(stream, to, from, bytes)
    }
    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        peer(0, to, to_context, from, from_context, bytes)
    }
    fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        peer(stream, to, to_context, from, from_context, bytes)
    }
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill(0, to, u32::from(value), 1, count)
    }
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        fill(stream, to, u32::from(value), 1, count)
    }
    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill(0, to, u32::from(value), 2, count)
    }
    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        fill(stream, to, u32::from(value), 2, count)
    }
    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill(0, to, value, 4, count)
    }
    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        fill(stream, to, value, 4, count)
    }
}
