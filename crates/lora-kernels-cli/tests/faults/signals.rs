//! Signals that come while OUT is written.

use std::os::unix::process::CommandExt;

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::scene::{KINDS, Kind, Scene};
use super::sweep::recorded;
use super::trace::{self, Action, Call, End};

/// Sends a signal before the first call of this number, once the output was begun.
pub fn at_first(number: i64, what: Action) -> impl FnMut(&Call) -> Action {
    let mut is_locked = false;
    let mut is_done = false;
    move |call| {
        // Every run locks its output.
        is_locked |= call.number == libc::SYS_flock;
        if is_done || !is_locked || call.number != number {
            return Action::Proceed;
        }
        is_done = true;
        what
    }
}

#[test]
fn a_signal_ends_a_run_with_its_status_and_removes_what_was_written() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        if recorded(&scene).is_none() {
            return;
        }
        for (sent, status, text) in [
            (
                Signal::SIGINT,
                130,
                "error: interrupted; nothing was written\n",
            ),
            (
                Signal::SIGTERM,
                143,
                "error: ended by SIGTERM; nothing was written\n",
            ),
            (
                Signal::SIGHUP,
                129,
                "error: ended by SIGHUP; nothing was written\n",
            ),
            (
                Signal::SIGXCPU,
                152,
                "error: ended by SIGXCPU; nothing was written\n",
            ),
        ] {
            for number in [libc::SYS_write, libc::SYS_fsync] {
                let traced = scene.run(at_first(number, Action::Send(sent))).unwrap();
                assert_eq!(
                    traced.end,
                    End::Status(status),
                    "{kind:?}, {sent}: {traced:?}"
                );
                assert_eq!(traced.stderr, text);
                assert_eq!(scene.is_complete(), Ok(false));
                assert_eq!(scene.leftovers(), [""; 0], "{kind:?}, {sent}");
            }
        }
    }
}

/// As nohup starts it.
#[test]
fn a_signal_that_was_ignored_before_stays_ignored() {
    let scene = Scene::new(Kind::Folder);
    if recorded(&scene).is_none() {
        return;
    }
    scene.reset();
    let mut command = scene.command();
    // SAFETY: between fork and exec there is one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(signal(Signal::SIGHUP, SigHandler::SigIgn).map(drop)?));
    }
    let act = at_first(libc::SYS_write, Action::Send(Signal::SIGHUP));
    let traced = trace::run(&mut command, act).unwrap();
    assert_eq!(traced.end, End::Status(0), "{traced:?}");
    assert_eq!(scene.check(&traced), Ok(()));
}

#[test]
fn memory_that_cannot_be_read_ends_a_run_with_a_message() {
    let scene = Scene::new(Kind::Folder);
    if recorded(&scene).is_none() {
        return;
    }
    let act = at_first(libc::SYS_write, Action::Send(Signal::SIGBUS));
    let traced = scene.run(act).unwrap();
    assert_eq!(traced.end, End::Status(135), "{traced:?}");
    assert!(traced.stderr.starts_with("error: ") && traced.stderr.contains("SIGBUS"));
    assert_eq!(traced.stderr.lines().count(), 1);
    assert_eq!(scene.is_complete(), Ok(false));
}

/// `ulimit -f`: the system sends SIGXFSZ.
#[test]
fn a_file_beyond_the_limit_is_an_error_of_writing_it() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        scene.reset();
        let mut command = scene.command();
        let limit = Rlimit {
            current: Some(100),
            maximum: Some(100),
        };
        // SAFETY: between fork and exec there is one system call, which allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setrlimit(Resource::Fsize, limit)?));
        }
        // Its stdout and stderr are pipes, which have no size.
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{kind:?}: {output:?}");
        assert!(
            stderr.starts_with("error: can't write ") && stderr.contains("too large"),
            "{stderr}"
        );
        assert_eq!(scene.is_complete(), Ok(false));
        assert_eq!(scene.leftovers(), [""; 0]);
    }
}
