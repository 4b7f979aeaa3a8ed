//! Running a program under a limit, what it prints going to the log.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often those who wait for a program look at what it has printed.
const LOOK: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed after so long.
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

    /// Neither a full disk nor a closed terminal is a reason to stop what runs.
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

/// A program, and what becomes of its output.
pub struct Run<'a> {
    pub command: Command,
    pub limit: Duration,
    pub log: &'a Log,
    /// Also print what it prints.
    pub echo: bool,
}

impl Run<'_> {
    /// Runs it to its end, or kills it and all that it started once the limit is over. `look` gets
    /// what was printed so far, every two seconds. Gives the end, and all that was printed.
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
        // The pipe ends when its last writer is gone: those in here.
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
                // A panic there has been printed; the log lacks a part.
                let _ = copier.join();
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

/// With what it has started, which is in its group.
fn kill(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: the group is the child's own, which has not been waited for yet.
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
