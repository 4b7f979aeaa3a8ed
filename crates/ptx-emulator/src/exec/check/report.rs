//! The words of a finding.

use super::{Checks, Conflict, Me, Party, Source, Undefined, What};
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

/// `here`: the block that the report is about, which is not named.
pub(super) fn thread_of(launch: &Launch<'_>, here: Option<u64>, party: Party) -> String {
    let [x, y, z] = thread(
        launch.grid.block,
        32 * party.warp as u32 + party.lane as u32,
    );
    let block = if Some(party.block) == here {
        "of this block".to_owned()
    } else {
        let [gx, gy, _] = launch.grid.grid.map(u64::from);
        let linear = party.block;
        format!(
            "of block ({}, {}, {})",
            linear % gx,
            linear / gx % gy,
            linear / gx / gy
        )
    };
    format!(
        "thread ({x}, {y}, {z}) {block} at {}",
        line(launch, party.pc)
    )
}

#[cold]
pub(super) fn conflict(launch: &Launch<'_>, space: &str, me: &Me, found: &Conflict) -> Box<Trap> {
    let other = thread_of(launch, Some(me.block), found.other);
    let at = format!("{space} memory at {:#x}", found.address);
    let unordered = "with nothing to order the two, by";
    let message = match found.what {
        What::ReadAfterWrite => {
            format!("race: read of {at}, which was written, {unordered} {other}")
        }
        What::WriteAfterWrite => {
            format!("race: write to {at}, which was written, {unordered} {other}")
        }
        What::WriteAfterRead => format!("race: write to {at}, which was read, {unordered} {other}"),
        What::Scopes => format!(
            "race: access to {at} by an operation whose scope, or the other one's, is too small: it was accessed by {other}"
        ),
        What::ReadOnly => format!(
            "read-only: ld.global.nc of {at}, which the same launch has written, by {other}; use ld.global (a pointer that is not const \
             __restrict__)"
        ),
        What::InFlight => format!(
            "cp.async in flight: access to {at}, which is the destination of a copy not yet waited for, issued by {other}"
        ),
        What::SourceInFlight => format!(
            "cp.async in flight: write to {at}, which is the source of a copy not yet waited for, issued by {other}"
        ),
        What::Unsynchronised => {
            format!(
                "race: access to {at}, whose cp.async was waited for, but with no barrier since then, by {other}"
            )
        }
        What::AsyncWrite => format!(
            "asynchronous write in flight: access to {at}, which an operation not yet complete writes, issued by {other}"
        ),
        What::AsyncRead => format!(
            "asynchronous read in flight: write to {at}, which an operation not yet complete reads, issued by {other}"
        ),
        What::PhaseNotSeen => format!(
            "race: access to {at}, which an asynchronous operation has written whose mbarrier phase the thread has not seen complete, issued \
             by {other}"
        ),
        What::NotProxied => format!(
            "race: asynchronous read of {at}, which was written with no fence.proxy.async since then, by {other}"
        ),
    };
    Trap::new(FaultKind::LaunchFailed, found.lane, message)
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
        let block = run.core.linear;
        thread_of(
            run.launch,
            Some(block),
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
