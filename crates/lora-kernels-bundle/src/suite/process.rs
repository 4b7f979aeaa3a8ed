//! Runs a program with a time limit, and writes its output to the log.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The interval at which the output of a running program is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How long what a program has started may hold its output open once it has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// It exited by itself.
    Exited(ExitStatus),
    /// It was killed after this time.
    TimedOut(Duration),
}

impl End {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Exited(status) => format!("ended with {status}"),
            Self::TimedOut(limit) => format!("was stopped after {} s", limit.as_secs()),
        }
    }
}

/// The log of all programs.
#[derive(Clone)]
pub struct Log {
    file: Arc<Mutex<File>>,
}

impl Log {
    pub fn new(file: File) -> Self {
        Self {
            file: Arc::new(Mutex::new(file)),
        }
    }

    /// Errors are ignored: a full disk or a closed terminal is no reason to stop the program.
    fn write(&self, bytes: &[u8], echo: bool) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(bytes);
        if echo {
            let _ = std::io::stdout().write_all(bytes);
        }
    }

    pub fn title(&self, title: &str) {
        self.write(format!("\n==== {title}\n").as_bytes(), false);
    }
}

/// A program, and where its output goes.
pub struct Run<'a> {
    pub command: Command,
    pub limit: Duration,
    pub log: &'a Log,
    /// Whether to print its output too.
    pub echo: bool,
}

impl Run<'_> {
    /// Runs the program to its end, or kills it and everything it started when the time is over.
    /// Every two seconds, `look` is called with the output so far. Returns how it ended, and its
    /// whole output.
    pub fn run(mut self, mut look: impl FnMut(&str)) -> Result<(End, String), String> {
        let name = self.command.get_program().display().to_string();
        let failed = |error: std::io::Error| format!("can't run {name}: {error}");
        let (mut reader, writer) = std::io::pipe().map_err(failed)?;
        self.command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer)
            .process_group(0);
        let mut child = self.command.spawn().map_err(failed)?;
        // The command holds writers of the pipe. The pipe ends when its last writer is closed.
        drop(self.command);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let copier = thread::spawn({
            let (printed, log, echo) = (Arc::clone(&printed), self.log.clone(), self.echo);
            move || {
                let mut buffer = [0; 8192];
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    let bytes = &buffer[..count];
                    log.write(bytes, echo);
                    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                    printed.extend_from_slice(bytes);
                }
            }
        });
        let text = || {
            let bytes = printed.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let start = Instant::now();
        let mut looked = start;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                let end = Instant::now() + DRAIN;
                while !copier.is_finished() && Instant::now() < end {
                    thread::sleep(Duration::from_millis(2));
                }
                return Ok((End::Exited(status), text()));
            }
            if start.elapsed() > self.limit {
                kill(&mut child);
                return Ok((End::TimedOut(self.limit), text()));
            }
            if looked.elapsed() > LOOK {
                look(&text());
                looked = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills a program and everything it started, which is in its process group.
fn kill(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: the group belongs to the child, which has not been waited for yet, so its id is
        // still valid.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        Log::new(File::create("/dev/null").unwrap())
    }

    #[test]
    fn a_program_is_stopped_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 60 & wait"]);
        let log = log();
        let run = Run {
            command,
            limit: Duration::from_millis(300),
            log: &log,
            echo: false,
        };
        let (end, text) = run.run(|_| ()).unwrap();
        assert!(matches!(end, End::TimedOut(_)), "{end:?}");
        assert_eq!(text, "begun\n");
    }

    #[test]
    fn what_a_program_prints_is_kept_whole() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 5000; echo end >&2; exit 3"]);
        let log = log();
        let run = Run {
            command,
            limit: Duration::from_secs(60),
            log: &log,
            echo: false,
        };
        let (end, text) = run.run(|_| ()).unwrap();
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)));
        assert!(text.starts_with("1\n2\n") && text.ends_with("5000\nend\n"));
    }
}
