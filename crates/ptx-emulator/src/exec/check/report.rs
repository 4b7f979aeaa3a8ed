//! The words of a finding.

use super::{Checks, Conflict, Party, Source, Undefined, What};
use crate::exec::fault::FaultKind;
use crate::exec::interpret::Run;
use crate::exec::launch::Launch;
use crate::exec::registers::LANES;
use crate::exec::special::thread;
use crate::exec::trap::Trap;

/// A line of PTX, and of CUDA where known.
pub(super) fn line(launch: &Launch<'_>, pc: usize) -> String {
    let Some(place) = launch.kernel.places.get(pc) else {
        return "an unknown line".to_owned();
    };
    match launch.file(place.file).filter(|_| place.line > 0) {
        Some(file) => format!("PTX line {} ({file}:{})", place.ptx_line, place.line),
        None => format!("PTX line {}", place.ptx_line),
    }
}

pub(super) fn thread_of(launch: &Launch<'_>, party: Party) -> String {
    let [x, y, z] = thread(
        launch.grid.block,
        32 * party.warp as u32 + party.lane as u32,
    );
    let block = match party.block {
        None => "of this block".to_owned(),
        Some(linear) => {
            let [gx, gy, _] = launch.grid.grid.map(u64::from);
            format!(
                "of block ({}, {}, {})",
                linear % gx,
                linear / gx % gy,
                linear / gx / gy
            )
        }
    };
    format!(
        "thread ({x}, {y}, {z}) {block} at {}",
        line(launch, party.pc)
    )
}

#[cold]
pub(super) fn conflict(
    launch: &Launch<'_>,
    space: &str,
    lane: usize,
    found: &Conflict,
) -> Box<Trap> {
    let other = thread_of(launch, found.other);
    let at = format!("{space} memory at {:#x}", found.offset);
    let message = match found.what {
        What::ReadAfterWrite => {
            format!(
                "race: read of {at}, which was written, with nothing to order the two, by {other}"
            )
        }
        What::WriteAfterWrite => {
            format!(
                "race: write to {at}, which was written, with nothing to order the two, by {other}"
            )
        }
        What::WriteAfterRead => {
            format!(
                "race: write to {at}, which was read, with nothing to order the two, by {other}"
            )
        }
        What::InFlight => format!(
            "cp.async in flight: access to {at}, which is the destination of a copy not yet waited for, issued by {other}"
        ),
        What::Unsynchronised => {
            format!(
                "race: access to {at}, whose cp.async was waited for, but with no barrier since then, by {other}"
            )
        }
    };
    Trap::new(FaultKind::LaunchFailed, lane, message)
}

/// `what` says what depends on undefined bits. Whence they come is not followed: what is named is
/// what brought undefined bits last to the lane, else to another of its warp.
#[cold]
pub(super) fn undefined(
    run: &Run<'_, '_, '_>,
    checks: &Checks,
    lane: usize,
    what: &str,
) -> Box<Trap> {
    let warp = run.warp.index as usize;
    let brought = &checks.warps[warp].undefined;
    let last = brought[lane].map(|found| (lane, found));
    let last = last.or_else(|| (0..LANES).find_map(|other| Some((other, brought[other]?))));
    let by = |lane, pc| {
        let block = None;
        thread_of(
            run.launch,
            Party {
                block,
                warp,
                lane,
                pc,
            },
        )
    };
    let message = match last {
        Some((
            by_lane,
            Undefined {
                pc,
                source: Source::Lane(from),
            },
        )) => format!(
            "uninitialised: {what} depends on a shuffle from a lane that does not take part in it; \
             the last such shuffle here was from lane {from}, by {}",
            by(by_lane, pc)
        ),
        Some((
            by_lane,
            Undefined {
                pc,
                source: Source::Memory { space, address },
            },
        )) => format!(
            "uninitialised: {what} depends on memory or a register that was never written; the \
             last such memory read here was {space} memory at {address:#x}, by {}",
            by(by_lane, pc)
        ),
        None => {
            format!("uninitialised: {what} depends on memory or a register that was never written")
        }
    };
    Trap::new(FaultKind::LaunchFailed, lane, message)
}
