//! Copies and fills, in their synchronous and stream-ordered forms. All are complete when they
//! return, pageable host memory or not, unless streams are late.

use super::abi::{Host, is_device_address};
use super::state::{Handle, current};
use super::work::{Fill, Work, submit};
use super::{Outcome, api, queue};

/// A copy that is over when the call returns.
fn copy(work: Work) -> Outcome {
    let (driver, context) = current()?;
    submit(driver, context, 0, work)?;
    queue::finish_stream(driver, context, 0);
    driver.state().usable(context)
}

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

fn fill(stream: Handle, to: u64, value: u32, element_bytes: usize, count: usize) -> Outcome {
    let row = Fill {
        to,
        element: value.to_le_bytes(),
        element_bytes,
        width: count as u64,
        rows: 1,
        pitch: 0,
    };
    fill_rows(stream, row)
}

fn fill_rows(stream: Handle, fill: Fill) -> Outcome {
    let (driver, context) = current()?;
    fill.check()?;
    if fill.width == 0 || fill.rows == 0 {
        return Ok(());
    }
    submit(driver, context, stream, Work::Fill(fill))
}

#[rustfmt::skip]
fn fill_2d(
    stream: Handle, to: u64, pitch: usize, value: u32, element_bytes: usize, width: usize, rows: usize,
) -> Outcome {
    let [pitch, width, rows] = [pitch, width, rows].map(|number| number as u64);
    fill_rows(stream, Fill { to, element: value.to_le_bytes(), element_bytes, width, rows, pitch })
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
        copy(Work::ToDevice { to, from, bytes })
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: Handle) {
        enqueue(stream, Work::ToDevice { to, from, bytes })
    }
    fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) {
        copy(Work::ToHost { to, from, bytes })
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
        copy_unified(0, to, from, bytes)?;
        let (driver, context) = current()?;
        queue::finish_stream(driver, context, 0);
        driver.state().usable(context)
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
    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, rows: usize) {
        fill_2d(0, to, pitch, u32::from(value), 1, width, rows)
    }
    fn cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, rows: usize, stream: Handle) {
        fill_2d(stream, to, pitch, u32::from(value), 1, width, rows)
    }
    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, rows: usize) {
        fill_2d(0, to, pitch, u32::from(value), 2, width, rows)
    }
    fn cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, rows: usize, stream: Handle) {
        fill_2d(stream, to, pitch, u32::from(value), 2, width, rows)
    }
    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, rows: usize) {
        fill_2d(0, to, pitch, value, 4, width, rows)
    }
    fn cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, rows: usize, stream: Handle) {
        fill_2d(stream, to, pitch, value, 4, width, rows)
    }
}
