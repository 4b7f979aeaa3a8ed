//! Faults with a meaning of their own: no locks, what fails after OUT has its name, and runs that
//! write the same OUT.

use std::process::Child;

use nix::errno::Errno;
use nix::libc;

use super::scene::{KINDS, Kind, Scene};
use super::signals::at_first;
use super::sweep::recorded;
use super::trace::{Action, Call, End};

/// Fails every call of a number from the given one on.
fn fail(number: i64, from: usize, error: Errno) -> impl FnMut(&Call) -> Action {
    move |call| match call.number == number && call.before >= from {
        true => Action::Fail(error),
        false => Action::Proceed,
    }
}

#[test]
fn a_file_system_without_locks_changes_nothing() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        if recorded(&scene).is_none() {
            return;
        }
        for error in [Errno::ENOLCK, Errno::EOPNOTSUPP, Errno::ENOSYS] {
            let traced = scene.run(fail(libc::SYS_flock, 0, error)).unwrap();
            assert_eq!(traced.end, End::Status(0), "{kind:?}, {error}: {traced:?}");
            assert_eq!(scene.check(&traced), Ok(()));
            // A run that fails leaves nothing, either.
            let mut locks = fail(libc::SYS_flock, 0, error);
            let mut writes = at_first(libc::SYS_write, Action::Fail(Errno::ENOSPC));
            let traced = scene.run(|call| match locks(call) {
                Action::Proceed => writes(call),
                failed => {
                    writes(call);
                    failed
                }
            });
            let traced = traced.unwrap();
            assert_eq!(traced.end, End::Status(2), "{kind:?}, {error}: {traced:?}");
            assert_eq!(scene.check(&traced), Ok(()));
            assert_eq!(scene.leftovers(), [""; 0]);
        }
    }
}

/// What a killed run left under this process's own number is no hindrance where there are no locks.
#[test]
fn a_leftover_of_the_same_number_stays_where_it_may_be_alive() {
    let scene = Scene::new(Kind::Folder);
    if recorded(&scene).is_none() {
        return;
    }
    let mut locks = fail(libc::SYS_flock, 0, Errno::ENOLCK);
    let root = scene.root.path().to_owned();
    let mut left = None;
    let traced = scene.run(|call| {
        if left.is_none() && call.number == libc::SYS_flock {
            let name = format!(".out.partial-{}", call.process);
            std::fs::create_dir(root.join(&name)).unwrap();
            left = Some(name);
        }
        locks(call)
    });
    let traced = traced.unwrap();
    assert_eq!(traced.end, End::Status(0), "{traced:?}");
    assert_eq!(scene.is_complete(), Ok(true));
    assert_eq!(scene.leftovers(), [left.unwrap()]);
}

/// Whatever fails once OUT has its name, OUT is complete, and the status says so.
#[test]
fn what_fails_after_the_rename_has_the_status_of_a_complete_output() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        let Some(calls) = recorded(&scene) else {
            return;
        };
        let count = |number| calls.iter().filter(|call| call.number == number).count();
        // The last one is the parent's.
        let last = count(libc::SYS_fsync) - 1;
        let traced = scene.run(fail(libc::SYS_fsync, last, Errno::EIO)).unwrap();
        assert_eq!(traced.end, End::Status(4), "{kind:?}: {traced:?}");
        assert_eq!(scene.check(&traced), Ok(()));
        assert!(
            traced.stderr.contains("out is complete, but") && !traced.stdout.is_empty(),
            "{traced:?}"
        );
        if kind != Kind::FolderOver {
            continue;
        }
        for number in [libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rmdir] {
            if count(number) == 0 {
                continue;
            }
            let traced = scene.run(fail(number, 0, Errno::EACCES)).unwrap();
            assert_eq!(traced.end, End::Status(4), "{traced:?}");
            assert_eq!(scene.check(&traced), Ok(()));
            assert!(
                traced.stderr.contains("can't remove what it replaced"),
                "{traced:?}"
            );
            assert_eq!(scene.leftovers().len(), 1);
            // The next run removes it.
            assert!(scene.command().output().unwrap().status.success());
            assert_eq!(scene.leftovers(), [""; 0]);
        }
    }
}

/// The second run begins while the first one writes.
#[test]
fn a_second_run_to_the_same_output_says_so_at_once() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        if recorded(&scene).is_none() {
            return;
        }
        for number in [libc::SYS_write, libc::SYS_fsync] {
            let mut pause = at_first(number, Action::Fail(Errno::EINTR));
            let mut second = None;
            let traced = scene.run(|call| {
                if pause(call) != Action::Proceed {
                    second = Some(scene.command().output().unwrap());
                }
                Action::Proceed
            });
            let traced = traced.unwrap();
            assert_eq!(traced.end, End::Status(0), "{kind:?}: {traced:?}");
            assert_eq!(scene.check(&traced), Ok(()));
            let second = second.unwrap();
            let stderr = String::from_utf8_lossy(&second.stderr);
            assert_eq!(second.status.code(), Some(2), "{kind:?}: {second:?}");
            assert!(
                stderr.contains("out is being written by another run"),
                "{stderr}"
            );
            assert_eq!(stderr.lines().count(), 1);
        }
    }
}

/// Runs that begin together: one writes OUT, and the others say that it does or did.
#[test]
fn of_runs_that_begin_together_one_works() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        scene.reset();
        let runs: Vec<Child> = (0..6)
            .map(|_| {
                let mut command = scene.command();
                command.stdout(std::process::Stdio::null());
                command.stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let mut done = 0;
        for run in runs {
            let output = run.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                done += 1;
                continue;
            }
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            let is_said = ["is being written by another run", "exists"]
                .iter()
                .any(|text| stderr.contains(text));
            assert!(is_said, "{stderr}");
        }
        assert!(
            done == 1 || (scene.is_over() && done > 1),
            "{done} were done"
        );
        assert_eq!(scene.is_complete(), Ok(true));
        assert_eq!(scene.leftovers(), [""; 0]);
    }
}
