//! Signals: those that ask a run to end, and those that would end it without a word.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGBUS, SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ};
use signal_hook::{flag, low_level};

use crate::failure::Failure;

const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGXCPU];

const BUS: &[u8] = b"error: a file in memory was cut short, or its disk fails (SIGBUS): OUT is as \
it was, or complete\n";

/// Lets the program say what two signals mean that would end it silently. A file beyond the limit
/// on sizes (`ulimit -f`, SIGXFSZ) becomes an error of writing it. Memory that a file stands behind
/// and that can't be read (SIGBUS) ends the program with a message.
pub fn prepare() {
    // Where one of them can't be set, the signal ends the program as it always did.
    let _ = flag::register(SIGXFSZ, Arc::default());
    let end = || {
        let _ = rustix::io::write(rustix::stdio::stderr(), BUS);
        low_level::exit(status(SIGBUS).into());
    };
    // SAFETY: the handler makes two system calls, allocates nothing, takes no lock, and doesn't
    // return.
    let _ = unsafe { low_level::register(SIGBUS, end) };
}

/// The status of a program that a signal ends, as shells have it.
pub fn status(signal: i32) -> u8 {
    128 + signal as u8
}

struct State {
    /// The signal that came last, or 0.
    received: Arc<AtomicUsize>,
    /// Whether a signal ends the program at once, as without a handler.
    at_once: Arc<AtomicBool>,
}

static STATE: OnceLock<State> = OnceLock::new();

/// While it lives, a signal that asks the program to end is only noted. After it, such a signal
/// ends the program at once.
pub struct Watch(&'static State);

impl Watch {
    pub fn begin() -> Self {
        let state = STATE.get_or_init(|| {
            let state = State {
                received: Arc::default(),
                at_once: Arc::default(),
            };
            let ignored = ignored();
            for signal in ENDING {
                // nohup, for one, has a reason to ignore it.
                if ignored & 1 << (signal - 1) != 0 {
                    continue;
                }
                // Without a handler, a signal leaves a partial output, whose name says what it is.
                let _ = flag::register_conditional_default(signal, state.at_once.clone());
                let _ = flag::register_usize(signal, state.received.clone(), signal as usize);
            }
            state
        });
        state.at_once.store(false, Ordering::SeqCst);
        Self(state)
    }

    /// # Errors
    /// [`Failure::Interrupted`] if a signal came.
    pub fn check(&self) -> Result<(), Failure> {
        match self.0.received.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Interrupted(signal as i32)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.at_once.store(true, Ordering::SeqCst);
    }
}

/// The signals that this process was started to ignore, a bit for each from 1 on.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    { status.lines() }
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
