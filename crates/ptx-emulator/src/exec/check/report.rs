//! The words of a finding.

use super::{Checks, Conflict, Party, Unwritten, What};
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

fn party(launch: &Launch<'_>, party: Party) -> String {
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
    let other = party(launch, found.other);
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

/// `what` says what depends on undefined bits. Whence they come is not followed: the read of
/// never-written memory that is named is the last one of the lane, else of another of its warp.
#[cold]
pub(super) fn undefined(
    run: &Run<'_, '_, '_>,
    checks: &Checks,
    lane: usize,
    what: &str,
) -> Box<Trap> {
    let warp = run.warp.index as usize;
    let reads = &checks.warps[warp].unwritten;
    let last = reads[lane].map(|read| (lane, read));
    let last = last.or_else(|| (0..LANES).find_map(|other| Some((other, reads[other]?))));
    let read = last.map_or_else(String::new, |(lane, Unwritten { pc, space, address })| {
        let block = None;
        let by = party(
            run.launch,
            Party {
                block,
                warp,
                lane,
                pc,
            },
        );
        format!("; the last such memory read here was {space} memory at {address:#x}, by {by}")
    });
    Trap::new(
        FaultKind::LaunchFailed,
        lane,
        format!(
            "uninitialised: {what} depends on memory or a register that was never written{read}"
        ),
    )
}
