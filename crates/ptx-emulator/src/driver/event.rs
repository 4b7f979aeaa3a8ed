//! Events. An emulated device has no time of its own: an event's time is the host's wall clock when
//! it was recorded.

use std::time::Instant;

use super::abi::Out;
use super::code::Code;
use super::queue::Point;
use super::running::{self, Streams};
use super::state::{Driver, Event, Handle, current, driver};
use super::{Outcome, api, queue, stream};

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

/// Milliseconds of wall clock between two events: how long the emulation took, nothing about a GPU.
fn elapsed(out: Out<f32>, start: Handle, end: Handle) -> Outcome {
    let (driver, _) = current()?;
    for event in [start, end] {
        let points = points(driver, event)?;
        if !queue::try_finish(driver, &points) {
            return Err(Code::NOT_READY);
        }
    }
    let state = driver.state();
    let time = |event: Handle| {
        let event = state.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        if event.captured.is_some() {
            return Err(Code::CAPTURED_EVENT);
        }
        event
            .recorded
            .filter(|_| event.flags & DISABLE_TIMING == 0)
            .ok_or(Code::INVALID_HANDLE)
    };
    let (start, end) = (time(start)?, time(end)?);
    let milliseconds = if end >= start {
        (end - start).as_secs_f64() * 1e3
    } else {
        -(start - end).as_secs_f64() * 1e3
    };
    #[expect(clippy::cast_possible_truncation, reason = "the API's type is f32")]
    out.set(milliseconds as f32)
}

pub(super) fn record(event: Handle, stream: Handle) -> Outcome {
    let (driver, context) = current()?;
    if !driver.state().events.contains_key(&event) {
        return Err(Code::INVALID_HANDLE);
    }
    let context = stream::context_of(driver, context, stream)?;
    let capturing = stream::record(driver, context, stream, |_| Ok(None))?;
    let points = match running::streams() {
        _ if capturing => Vec::new(),
        streams => {
            if streams == Streams::Now {
                driver.quiet();
            }
            queue::points(driver, context, stream)
        }
    };
    let mut state = driver.state();
    let captured = if capturing {
        let capture = state.streams.get(&stream).and_then(|stream| stream.capture);
        let point = capture.and_then(|key| Some((key, state.captures.get(&key)?.point(stream))));
        Some(point.ok_or(Code::CAPTURE_INVALIDATED)?)
    } else {
        None
    };
    let event = state.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)?;
    if event.context != context {
        return Err(Code::INVALID_HANDLE);
    }
    event.recorded = captured.is_none().then(Instant::now);
    event.captured = captured;
    event.points = points;
    Ok(())
}

/// The work that an event recorded.
fn points(driver: &Driver, event: Handle) -> Outcome<Vec<Point>> {
    let state = driver.state();
    let event = state.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
    Ok(event.points.clone())
}

/// Does the work that an event recorded.
fn finish(driver: &Driver, event: Handle) -> Outcome {
    let points = points(driver, event)?;
    queue::finish(driver, &points);
    Ok(())
}

/// Does what was recorded. Outside a capture it is complete then.
fn complete(event: Handle) -> Outcome {
    let (driver, _) = current()?;
    finish(driver, event)?;
    check(driver, event)
}

/// As [`complete`], but what waits for a number in memory is not waited for.
fn query(event: Handle) -> Outcome {
    let (driver, _) = current()?;
    let points = points(driver, event)?;
    if !queue::try_finish(driver, &points) {
        return Err(Code::NOT_READY);
    }
    check(driver, event)
}

/// The code of an event whose work was done.
fn check(driver: &Driver, event: Handle) -> Outcome {
    let state = driver.state();
    let event = state.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
    state.usable(event.context)?;
    if event.captured.is_some() {
        Err(Code::CAPTURED_EVENT)
    } else {
        Ok(())
    }
}

api! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let (driver, context) = current()?;
        if event.is_null() || flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.events.insert(handle, Event { context, flags, recorded: None, captured: None, points: Vec::new() });
        event.set(handle)
    }

    fn cuEventDestroy_v2(event: Handle) {
        let mut state = driver()?.state();
        let removed = state.events.remove(&event).ok_or(Code::INVALID_HANDLE)?;
        state.usable(removed.context)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        if flags != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        record(event, stream)
    }

    fn cuEventSynchronize(event: Handle) {
        complete(event)
    }

    fn cuEventQuery(event: Handle) {
        query(event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
