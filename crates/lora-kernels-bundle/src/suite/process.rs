//! Running a program, what it prints going to a file.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
pub enum End {
    Exited(ExitStatus),
    TimedOut(Duration),
}

impl End {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Exited(status) => format!("ended with {status}"),
            Self::TimedOut(limit) => format!("were stopped after {} s", limit.as_secs()),
        }
    }
}

/// Runs it to its end, or kills it after `limit`. With `echo`, what it prints is seen here too.
pub fn run(mut command: Command, log: &Path, limit: Duration, echo: bool) -> Result<End, String> {
    let name = command.get_program().display().to_string();
    let failed = |error: std::io::Error| format!("can't run {name}: {error}");
    let mut file =
        File::create(log).map_err(|error| format!("can't write {}: {error}", log.display()))?;
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // The pipe ends when its last writer is gone: those in here.
    drop(command);
    let copier = thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            // Neither a full disk nor a closed terminal is a reason to stop what runs.
            let _ = file.write_all(&buffer[..count]);
            if echo {
                let _ = std::io::stdout().write_all(&buffer[..count]);
            }
        }
    });
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            // A panic there has been printed; the log lacks a part.
            let _ = copier.join();
            return Ok(End::Exited(status));
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            // What the program has started may hold the pipe: nobody waits for the copier.
            return Ok(End::TimedOut(limit));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
