//! The resident clusters of a launch: who has the next turn, and whether any of them can go on.
//!
//! A cluster that looked in vain since the latest change of memory will look in vain again. Once
//! all of them have, and no other may start, the launch is stuck: only the host or another launch
//! can help it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cluster::Cluster;
use super::fault::Fault;
use super::schedule::Order;

/// How long a worker leaves clusters alone that looked in vain while another worker may change what
/// they wait for.
const REST: Duration = Duration::from_micros(100);
/// Turns that a cluster may be ahead of one that runs on another worker: the host may have put that
/// worker aside.
const AHEAD: u64 = 2;
/// How long a worker leaves a cluster alone that is further ahead.
const CATCH_UP: Duration = Duration::from_millis(5);

pub(super) struct Residents {
    state: Mutex<State>,
    /// A cluster has come back.
    returned: Condvar,
    /// Clusters of the launch.
    clusters: u64,
    /// Clusters that fit on the device at once.
    most: u64,
}

struct State {
    waiting: VecDeque<Cluster>,
    /// Of those that wait, the ones that looked in vain since the latest change.
    vain: usize,
    /// For each cluster that runs, which of its turns it has.
    running: Vec<u64>,
    /// The turn that the latest cluster to run has.
    turn: u64,
    started: u64,
    /// The number of changes of memory that ended turns have told of.
    changes: u64,
    /// Ended clusters, whose memory the next ones take.
    spare: Vec<Cluster>,
    order: Order,
    over: bool,
    pause: Option<Pause>,
    /// The number of changes when the launch was last stuck.
    stuck_at: u64,
    /// Whether it has paused for its dependents.
    has_paused: bool,
    /// The finding of the block with the lowest number.
    fault: Option<(u64, Box<Fault>)>,
}

/// Why the workers have stopped before the launch is over.
pub(super) enum Pause {
    /// Nobody can go on. `changed`: memory has changed since the last time.
    Stuck { changed: bool },
    /// Dependent launches may start.
    Dependents,
}

/// What a worker does next.
pub(super) enum Next {
    /// Start the cluster that comes as number `index`, in the memory of one that has ended.
    Start {
        index: u64,
        spare: Option<Cluster>,
        /// The number of its first turn.
        turn: u64,
    },
    Resume(Cluster),
    Over,
}

/// How a cluster's turn ended.
pub(super) enum Ended {
    /// It goes on later. `changed`: it has changed what others may wait for.
    Turn {
        changed: bool,
    },
    Cluster,
    Fault(u64, Box<Fault>),
}

impl Residents {
    pub fn new(clusters: u64, most: u64, order: Order) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            vain: 0,
            running: Vec::new(),
            turn: 0,
            started: 0,
            changes: 0,
            spare: Vec::new(),
            order,
            over: false,
            pause: None,
            stuck_at: 0,
            has_paused: false,
            fault: None,
        };
        Residents {
            state: Mutex::new(state),
            returned: Condvar::new(),
            clusters,
            most: most.max(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses who runs next, and tells how many changes of memory it knows of. Waits while others
    /// run and there is nobody else.
    pub fn next(&self) -> (Next, u64) {
        let mut state = self.state();
        let mut rested = false;
        loop {
            if state.over {
                return (Next::Over, state.changes);
            }
            let is_waiting = !state.waiting.is_empty();
            if self.may_start(&state) && (!is_waiting || state.order.starts_another()) {
                let index = state.started;
                state.started += 1;
                let turn = state.turn;
                state.running.push(turn);
                let spare = state.spare.pop();
                return (Next::Start { index, spare, turn }, state.changes);
            }
            let rest = state.rest();
            if is_waiting && (rested || rest.is_none()) {
                let State { waiting, order, .. } = &mut *state;
                let at = order.next(waiting.len());
                if let Some(cluster) = waiting.remove(at) {
                    let changes = state.changes;
                    state.vain -= usize::from(cluster.looked_in_vain_at == Some(changes));
                    state.turn = cluster.turn;
                    state.running.push(cluster.turn);
                    return (Next::Resume(cluster), changes);
                }
            }
            if state.running.is_empty() {
                return (Next::Over, state.changes);
            }
            let waited = self.returned.wait_timeout(state, rest.unwrap_or(REST));
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            rested = timeout.timed_out();
        }
    }

    fn may_start(&self, state: &State) -> bool {
        let resident = state.running.len() + state.waiting.len();
        state.started < self.clusters && (resident as u64) < self.most
    }

    /// A cluster comes back from its turn, which began when it knew of `known` changes.
    /// `dependents`: dependent launches may start.
    pub fn give_back(&self, mut cluster: Cluster, known: u64, ended: Ended, dependents: bool) {
        let mut state = self.state();
        if let Some(at) = state.running.iter().position(|&turn| turn == cluster.turn) {
            state.running.swap_remove(at);
        }
        cluster.turn += 1;
        match ended {
            Ended::Turn { changed } => {
                if changed {
                    state.changed();
                }
                // What it saw in its rounds must be what is there now.
                let in_vain = !changed && state.changes == known && cluster.is_idle();
                cluster.looked_in_vain_at = in_vain.then_some(known);
                state.vain += usize::from(in_vain);
                state.waiting.push_back(cluster);
            }
            Ended::Cluster => {
                state.changed();
                state.spare.push(cluster);
            }
            Ended::Fault(linear, fault) => {
                state.over = true;
                let is_first = |(other, _): &(u64, Box<Fault>)| linear < *other;
                if state.fault.as_ref().is_none_or(is_first) {
                    state.fault = Some((linear, fault));
                }
            }
        }
        let is_waiting = !state.waiting.is_empty();
        let all_in_vain = is_waiting && state.vain == state.waiting.len();
        if state.fault.is_some() {
            // Nothing is left to do.
        } else if dependents && is_waiting && !state.has_paused {
            state.has_paused = true;
            state.pause = Some(Pause::Dependents);
            state.over = true;
        } else if state.running.is_empty() && all_in_vain && !self.may_start(&state) {
            let changed = state.changes != state.stuck_at;
            state.pause = Some(Pause::Stuck { changed });
            state.over = true;
        }
        drop(state);
        self.returned.notify_all();
    }

    fn state_mut(&mut self) -> &mut State {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the workers have stopped, if the launch is not over.
    pub fn take_pause(&mut self) -> Option<Pause> {
        let state = self.state_mut();
        let pause = state.pause.take();
        pause.filter(|_| state.fault.is_none())
    }

    /// The workers may start again: somebody else may have changed memory.
    pub fn resume(&mut self) {
        let state = self.state_mut();
        state.over = false;
        state.changed();
        state.stuck_at = state.changes;
    }

    pub fn take_fault(&mut self) -> Option<Box<Fault>> {
        let state = self.state_mut();
        state.fault.take().map(|(_, fault)| fault)
    }

    /// The clusters that have started and not ended, while no worker runs.
    pub fn waiting(&mut self) -> &VecDeque<Cluster> {
        &self.state_mut().waiting
    }

    /// Clusters that have not started.
    pub fn left(&mut self) -> u64 {
        let started = self.state_mut().started;
        self.clusters - started
    }
}

impl State {
    /// How long those who wait are better left alone, if others run.
    fn rest(&self) -> Option<Duration> {
        let slowest = *self.running.iter().min()?;
        let first = self.waiting.front()?;
        if self.vain == self.waiting.len() {
            return Some(REST);
        }
        (first.turn > slowest + AHEAD).then_some(CATCH_UP)
    }

    fn changed(&mut self) {
        self.changes += 1;
        self.vain = 0;
    }
}
