//! Running many cases: a panic, a hang or a large allocation is told with the case's number.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A case that takes longer hangs. It is far more than any needs, for machines that are busy
/// otherwise.
const LONGEST: Duration = Duration::from_secs(30);
/// What a case may hold at once. The inputs have some 10 kB.
const LARGEST: isize = 64 << 20;
const FAILURES_TOLD: usize = 8;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread holds.
pub struct Counting;

fn count(change: isize) {
    let live = LIVE.get().wrapping_add(change);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Runs one case; what came of it, or what is wrong with it.
pub fn attempt<T>(case: impl FnOnce() -> T) -> Result<T, String> {
    let before = LIVE.get();
    PEAK.set(before);
    let came = catch_unwind(AssertUnwindSafe(case)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        format!("panicked: {}", text.unwrap_or_default())
    })?;
    let held = PEAK.get() - before;
    if held > LARGEST {
        return Err(format!("held {held} bytes at once"));
    }
    Ok(came)
}

/// Runs as many cases as were asked for, `usual` by default; how often each thing came of them.
/// What runs a case is made on the thread that runs them all.
pub fn run<C: FnMut(u64) -> &'static str>(
    usual: u64,
    make: impl FnOnce() -> C + Send + 'static,
) -> BTreeMap<&'static str, u64> {
    let first = variable("PTX_EMULATOR_FUZZ_FIRST").unwrap_or(0);
    let count = variable("PTX_EMULATOR_FUZZ_CASES").unwrap_or(usual);
    let at = Arc::new(AtomicU64::new(first));
    let reached = Arc::clone(&at);
    // Of the size that Rust gives a thread, as a caller's may be: a parser must not need more.
    let worker = std::thread::spawn(move || {
        let mut case = make();
        let (mut failures, mut outcomes) = (Vec::new(), BTreeMap::new());
        for number in first..first + count {
            reached.store(number, Ordering::Relaxed);
            match attempt(|| case(number)) {
                Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
                Err(wrong) => failures.push(format!("case {number} {wrong}")),
            }
            if failures.len() == FAILURES_TOLD {
                break;
            }
        }
        (failures, outcomes)
    });
    let (mut last, mut still) = (u64::MAX, Duration::ZERO);
    let tick = Duration::from_millis(20);
    while !worker.is_finished() {
        std::thread::sleep(tick);
        let now = at.load(Ordering::Relaxed);
        still = if now == last {
            still + tick
        } else {
            Duration::ZERO
        };
        last = now;
        assert!(still < LONGEST, "case {now} hangs");
    }
    let (failures, outcomes) = worker.join().expect("cases are caught");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{count} cases from number {first} on: {outcomes:?}");
    outcomes
}

#[test]
fn a_case_that_goes_wrong_is_told() {
    assert_eq!(attempt(|| 7), Ok(7));
    assert_eq!(
        attempt(|| panic!("so {}", 1)),
        Err::<(), _>("panicked: so 1".to_owned())
    );
    let large = attempt(|| drop(Vec::<u8>::with_capacity(LARGEST as usize + 1)));
    assert!(large.is_err_and(|wrong| wrong.starts_with("held ")));
}
