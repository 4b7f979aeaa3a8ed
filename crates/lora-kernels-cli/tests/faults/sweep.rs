//! Every call fails, or ends the process.

use std::collections::BTreeSet;

use lora_kernels_fuzz::Random;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::calls::{self, faults};
use super::scene::{KINDS, Kind, Scene};
use super::trace::{Action, Call, End};

const FAULTS_VARIABLE: &str = "LORA_KERNELS_FAULTS";
const KILLS_VARIABLE: &str = "LORA_KERNELS_KILLS";
/// For each kind of merge, beside the first call of each number with each error.
const FAULTS: usize = 40;
/// In all.
const KILLS: usize = 60;

/// The calls of a run in which nothing fails, or nothing where the system permits no tracing.
pub fn recorded(scene: &Scene) -> Option<Vec<Call>> {
    let mut made = Vec::new();
    let traced = scene.run(|call| {
        made.push(*call);
        Action::Proceed
    });
    match traced {
        Ok(traced) => {
            assert_eq!(scene.check(&traced), Ok(()), "{traced:?}");
            assert_eq!(traced.end, End::Status(0));
            Some(made)
        }
        Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
            println!("not tried: this system doesn't permit one process to trace another (ptrace)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A fault: which call of a number, and its error.
type Fault = (i64, usize, Errno);

fn chosen(calls: &[Call], random: &mut Random) -> Vec<Fault> {
    let mut all: Vec<Fault> = Vec::new();
    for call in calls {
        let errors = faults(call.number).map_or(&[][..], |(.., errors)| errors);
        all.extend(
            errors
                .iter()
                .map(|&error| (call.number, call.before, error)),
        );
    }
    if std::env::var(FAULTS_VARIABLE).is_ok_and(|value| value == "all") {
        return all;
    }
    let mut chosen: Vec<Fault> = { all.iter() }
        .filter(|(_, before, _)| *before == 0)
        .copied()
        .collect();
    chosen.extend((0..FAULTS).map(|_| random.of(&all)));
    chosen
}

fn sweep(kind: Kind) {
    let scene = Scene::new(kind);
    let Some(calls) = recorded(&scene) else {
        return;
    };
    let mut wrong = Vec::new();
    let (mut tried, mut ends) = (0, BTreeSet::new());
    for (number, before, error) in chosen(&calls, &mut Random::new(13)) {
        let mut was_made = false;
        let traced = scene.run(|call| {
            if (call.number, call.before) != (number, before) {
                return Action::Proceed;
            }
            was_made = true;
            Action::Fail(error)
        });
        let traced = traced.unwrap();
        // Threads don't make the same calls in each run.
        if !was_made {
            continue;
        }
        tried += 1;
        let is_memory = faults(number).is_some_and(|(_, kind, _)| kind == calls::Kind::Memory);
        let without_memory = [End::Signal(Signal::SIGABRT), End::Status(101)];
        let result = match is_memory && without_memory.contains(&traced.end) {
            // Rust's own code gives up where it gets no memory. What there is stays whole.
            true => scene.is_complete().map(drop),
            false => scene.check(&traced),
        };
        if let End::Status(status) = traced.end {
            ends.insert(status);
        }
        if let Err(what) = result {
            wrong.push(format!(
                "{kind:?}, {} {before} with {error}: {what}\n  it ended with {:?}, and said {:?}; \
                 left: {:?}",
                calls::name(number),
                traced.end,
                traced.stderr,
                scene.leftovers()
            ));
        }
    }
    println!("{kind:?}: {tried} faults in {} calls", calls.len());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ends.contains(&0) && ends.contains(&2), "{ends:?}");
}

#[test]
fn a_call_that_fails_ends_a_merge_of_folders_as_documented() {
    sweep(Kind::Folder);
}

#[test]
fn a_call_that_fails_ends_a_merge_over_a_folder_as_documented() {
    sweep(Kind::FolderOver);
}

#[test]
fn a_call_that_fails_ends_a_merge_of_files_as_documented() {
    sweep(Kind::File);
}

#[test]
fn a_call_that_fails_ends_a_merge_over_a_file_as_documented() {
    sweep(Kind::FileOver);
}

#[test]
fn a_call_that_fails_ends_a_look_at_an_adapter_as_documented() {
    sweep(Kind::Inspect);
}

/// SIGKILL before any call. OUT is as it was, or complete; the next run writes it and removes what
/// is left.
#[test]
fn a_merge_that_is_killed_leaves_all_or_nothing() {
    let kills = std::env::var(KILLS_VARIABLE);
    let kills = kills.map_or(KILLS, |text| text.parse().expect(KILLS_VARIABLE));
    let mut random = Random::new(14);
    let (mut killed, mut left, mut complete) = (0, 0, 0);
    for kind in KINDS {
        let scene = Scene::new(kind);
        let Some(calls) = recorded(&scene) else {
            return;
        };
        for _ in 0..kills.div_ceil(KINDS.len()) {
            let at = random.below(calls.len());
            let traced = scene.run(|call| match call.index == at {
                true => Action::Send(Signal::SIGKILL),
                false => Action::Proceed,
            });
            let traced = traced.unwrap();
            let state = scene.is_complete();
            let context = || format!("{kind:?}, killed at call {at}: {:?}", scene.leftovers());
            let is_complete = state.unwrap_or_else(|what| panic!("{}: {what}", context()));
            if traced.end != End::Signal(Signal::SIGKILL) {
                assert_eq!(traced.end, End::Status(0), "{}", context());
                continue;
            }
            killed += 1;
            complete += usize::from(is_complete);
            left += usize::from(!scene.leftovers().is_empty());
            let mut again = scene.command();
            if !scene.is_over() {
                again.arg("--force");
            }
            let output = again.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}: {output:?}", context());
            assert_eq!(scene.is_complete(), Ok(true), "{}", context());
            assert_eq!(scene.leftovers(), [""; 0], "{}", context());
        }
    }
    println!("{killed} kills: {left} left a partial output, {complete} a complete one");
    assert!(killed >= kills / 2, "only {killed} were killed");
}
