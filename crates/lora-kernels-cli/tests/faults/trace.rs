//! Runs a program under ptrace, and acts at its system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A system call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub number: i64,
    /// How many of this number were made before, since the program began its own work.
    pub before: usize,
    /// How many of any number were.
    pub index: usize,
    /// The program's process.
    pub process: i32,
}

/// What to do at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Proceed,
    /// The call isn't made, and gives this error.
    Fail(Errno),
    /// The program gets a signal before the call.
    Send(Signal),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Status(i32),
    Signal(Signal),
}

/// What a run left.
#[derive(Debug)]
pub struct Traced {
    pub end: End,
    pub stdout: String,
    pub stderr: String,
}

/// A program that is traced, and stands at its first instruction.
struct Tracee {
    leader: Pid,
    /// Threads within a call, with the error that it is to give.
    within: BTreeMap<Pid, Option<Errno>>,
    /// Threads that were seen: the first stop of each is not for a signal.
    seen: BTreeSet<Pid>,
    /// Whether the program's own work has begun, after the loader's.
    begun: bool,
    counts: BTreeMap<i64, usize>,
    calls: usize,
}

/// Runs a program. `act` sees every system call of every thread from the program's first own one
/// on: `main` begins with setting a handler for SIGXFSZ.
///
/// # Errors
/// The system doesn't permit tracing.
pub fn run(command: &mut Command, mut act: impl FnMut(&Call) -> Action) -> io::Result<Traced> {
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    // SAFETY: between fork and exec there is one system call, which allocates nothing.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child = command.spawn()?;
    let leader = Pid::from_raw(child.id() as i32);
    match waitpid(leader, None)? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
        other => {
            return Err(io::Error::other(format!(
                "the program didn't stop: {other:?}"
            )));
        }
    }
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(leader, options)?;
    ptrace::syscall(leader, None)?;
    let mut tracee = Tracee {
        leader,
        within: BTreeMap::new(),
        seen: BTreeSet::from([leader]),
        begun: false,
        counts: BTreeMap::new(),
        calls: 0,
    };
    let end = loop {
        if let Some(end) = tracee.step(&mut act)? {
            break end;
        }
    };
    Ok(Traced {
        end,
        stdout: text(stdout)?,
        stderr: text(stderr)?,
    })
}

fn text(mut file: File) -> io::Result<String> {
    use std::io::{Read, Seek};
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Tracee {
    /// Waits for the next stop of any thread.
    fn step(&mut self, act: &mut impl FnMut(&Call) -> Action) -> io::Result<Option<End>> {
        // Other tests trace from threads of their own.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (thread, signal) = match waitpid(None, Some(flags)) {
            Err(Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(WaitStatus::Exited(pid, status)) if pid == self.leader => {
                return Ok(Some(End::Status(status)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                return Ok(Some(End::Signal(signal)));
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                let signal = self.syscall(thread, act);
                // A thread that was killed has no registers any more.
                (thread, signal.unwrap_or(None))
            }
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => {
                let is_new = self.seen.insert(thread);
                // A new thread begins with a stop, which may come after a signal to it.
                let is_begin = signal == Signal::SIGSTOP || (is_new && signal == Signal::SIGTRAP);
                (thread, { Some(signal) }.filter(|_| !is_begin))
            }
            Ok(_) => return Ok(None),
        };
        match ptrace::syscall(thread, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_folder(&self, descriptor: u64) -> bool {
        std::fs::metadata(format!("/proc/{}/fd/{descriptor}", self.leader))
            .is_ok_and(|metadata| metadata.is_dir())
    }

    /// A thread enters a call, or returns from one.
    fn syscall(
        &mut self,
        thread: Pid,
        act: &mut impl FnMut(&Call) -> Action,
    ) -> nix::Result<Option<Signal>> {
        self.seen.insert(thread);
        if let Some(error) = self.within.remove(&thread) {
            if let Some(error) = error {
                let mut registers = ptrace::getregs(thread)?;
                registers.rax = -(error as i64) as u64;
                ptrace::setregs(thread, registers)?;
            }
            return Ok(None);
        }
        self.within.insert(thread, None);
        let mut registers = ptrace::getregs(thread)?;
        let number = registers.orig_rax as i64;
        // No file system fails to close a folder, and std panics if one does.
        if number == libc::SYS_close && self.is_folder(registers.rdi) {
            return Ok(None);
        }
        self.begun |= number == libc::SYS_rt_sigaction && registers.rdi == libc::SIGXFSZ as u64;
        if !self.begun {
            return Ok(None);
        }
        let before = self.counts.entry(number).or_default();
        let call = Call {
            number,
            before: *before,
            index: self.calls,
            process: self.leader.as_raw(),
        };
        *before += 1;
        self.calls += 1;
        match act(&call) {
            Action::Proceed => {}
            Action::Fail(error) => {
                // No call has this number.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(thread, registers)?;
                self.within.insert(thread, Some(error));
            }
            // To this thread, so that it is handled before the call returns. Sent to the process,
            // it may come to another thread when the run is over.
            Action::Send(signal) => {
                // SAFETY: the call takes three numbers.
                let sent = unsafe {
                    libc::syscall(
                        libc::SYS_tgkill,
                        self.leader.as_raw(),
                        thread.as_raw(),
                        signal as i32,
                    )
                };
                Errno::result(sent)?;
            }
        }
        Ok(None)
    }
}
