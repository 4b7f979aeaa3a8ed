//! Launches that run side by side: each on a thread of its own, but only one of them at a time. One
//! that can't go on before memory changes is set aside, and so is one whose dependent launch may
//! start.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::abi::report;
use super::state::Driver;
use super::work::Launch;
use crate::exec::{Fault, LaunchOptions, Neighbour, Supervisor};

/// A launch that has started. If it is dropped before its end, it ends as a deadlock.
pub(super) struct Running {
    baton: Arc<Baton>,
}

/// Why a launch does not run.
pub(super) enum Stop {
    /// `None` if its thread panicked.
    Over(Option<Box<Result<(), Fault>>>),
    /// It waits for somebody else to change memory. `changed`: it has changed memory itself since
    /// it was last set aside.
    Stuck { changed: bool },
    /// The launch behind it may start.
    DependentsMayStart,
}

/// What the thread of a launch and whoever runs it tell each other.
#[derive(Debug)]
struct Baton {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the launch has ended.
    ended: AtomicBool,
    prerequisites: Vec<Prerequisite>,
    /// What the checks know of the launch, once the one behind it may start.
    checks: OnceLock<Neighbour>,
}

/// A launch that another one's `griddepcontrol.wait` waits for.
#[derive(Debug, Clone)]
pub(super) struct Prerequisite(Arc<Baton>);

#[derive(Debug)]
struct State {
    turn: Turn,
    /// Whether nobody wants the launch's end any more.
    is_abandoned: bool,
}

#[derive(Debug)]
enum Turn {
    Runs,
    Stuck { changed: bool },
    DependentsMayStart,
    Over(Option<Box<Result<(), Fault>>>),
}

impl Baton {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, turn: Turn) {
        self.state().turn = turn;
        self.changed.notify_all();
    }

    /// Sets the launch aside until it is its turn again. False if it is to end.
    fn pause(&self, turn: Turn) -> bool {
        let mut state = self.state();
        if state.is_abandoned {
            return false;
        }
        state.turn = turn;
        self.changed.notify_all();
        while !matches!(state.turn, Turn::Runs) {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_abandoned
    }
}

impl Supervisor for Baton {
    fn stuck(&self, changed: bool) -> bool {
        self.pause(Turn::Stuck { changed })
    }

    fn dependents_may_start(&self, checks: Option<Neighbour>) {
        if let Some(checks) = checks {
            // It is called at most once.
            let _ = self.checks.set(checks);
        }
        self.pause(Turn::DependentsMayStart);
    }

    fn prerequisites_ended(&self) -> bool {
        let mut all = self.prerequisites.iter();
        all.all(|Prerequisite(before)| before.ended.load(SeqCst))
    }

    fn primary(&self) -> Option<Neighbour> {
        let mut all = self.prerequisites.iter();
        let running = all.find(|Prerequisite(before)| !before.ended.load(SeqCst))?;
        running.0.checks.get().cloned()
    }
}

impl Running {
    /// Starts a launch, and runs it until it stops.
    pub fn start(
        driver: &'static Driver,
        launch: Arc<Launch>,
        options: LaunchOptions,
        prerequisites: Vec<Prerequisite>,
    ) -> (Self, Stop) {
        let baton = Arc::new(Baton {
            state: Mutex::new(State {
                turn: Turn::Runs,
                is_abandoned: false,
            }),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            prerequisites,
            checks: OnceLock::new(),
        });
        // However the thread ends, and if it never starts, those that wait for it must learn of it.
        let end = End(Arc::clone(&baton));
        let options = LaunchOptions {
            supervisor: Some(Arc::clone(&baton) as Arc<dyn Supervisor>),
            ..options
        };
        let body = move || {
            let result = launch.run(driver, &options);
            end.0.set(Turn::Over(Some(Box::new(result))));
        };
        let name = "ptx-emulator launch".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(body) {
            report(format_args!("no thread for a launch: {error}"));
        }
        let running = Running { baton };
        let stop = running.wait();
        (running, stop)
    }

    /// Lets a launch that was set aside go on until it stops again.
    pub fn go_on(&self) -> Stop {
        self.baton.set(Turn::Runs);
        self.wait()
    }

    /// Ends a launch that was set aside, as a deadlock if it is one.
    pub fn give_up(&self) -> Stop {
        self.baton.state().is_abandoned = true;
        self.go_on()
    }

    /// The launch as one behind it knows it.
    pub fn prerequisite(&self) -> Prerequisite {
        Prerequisite(Arc::clone(&self.baton))
    }

    fn wait(&self) -> Stop {
        let mut state = self.baton.state();
        loop {
            match &mut state.turn {
                Turn::Runs => {}
                Turn::Stuck { changed } => return Stop::Stuck { changed: *changed },
                Turn::DependentsMayStart => return Stop::DependentsMayStart,
                Turn::Over(result) => {
                    self.baton.ended.store(true, SeqCst);
                    return Stop::Over(result.take());
                }
            }
            let waited = self.baton.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let is_over = matches!(self.baton.state().turn, Turn::Over(_));
        if !is_over {
            self.give_up();
        }
    }
}

/// Tells of the end of a thread, also if it panics or never starts.
struct End(Arc<Baton>);

impl Drop for End {
    fn drop(&mut self) {
        let is_over = matches!(self.0.state().turn, Turn::Over(_));
        if !is_over {
            self.0.set(Turn::Over(None));
        }
    }
}
