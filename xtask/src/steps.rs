//! Runs programs: each is printed and timed, and its failure ends the command.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The reason why a command failed.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    /// The exit status of the process: that of the failed program, if it was a program that failed.
    pub status: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, status: 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A run of an xtask command.
pub struct Session {
    root: PathBuf,
    done: Vec<(String, Duration)>,
}

impl Session {
    pub fn new() -> Self {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: xtask.parent().unwrap_or(xtask).to_owned(),
            done: Vec::new(),
        }
    }

    /// The root of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub fn target(&self) -> PathBuf {
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from("target"), PathBuf::from);
        self.root.join(folder)
    }

    /// cargo, in the checkout. `arguments` are separated by single spaces.
    pub fn cargo(&self, arguments: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments.split(' ')).current_dir(&self.root);
        command
    }

    /// Runs a program to its end. Its output goes where ours goes.
    pub fn run(&mut self, mut command: Command) -> Result<(), Failure> {
        let name = describe(&command);
        eprintln!("\n$ {name}");
        let started = Instant::now();
        let status = command
            .status()
            .map_err(|error| format!("can't run `{name}`: {error}"))?;
        self.done.push((name.clone(), started.elapsed()));
        if status.success() {
            return Ok(());
        }
        let code = status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .filter(|code| *code != 0);
        Err(Failure {
            message: format!("`{name}` failed: {status}"),
            status: code.unwrap_or(1),
        })
    }

    /// Runs a program to its end and returns its stdout. Its stderr goes where ours goes.
    pub fn capture(&mut self, command: Command) -> Result<String, Failure> {
        let (name, took, text) = capture(command);
        self.done.push((name, took));
        text
    }

    /// Runs programs to their ends, `at_once` at a time, and returns what each printed.
    pub fn capture_all(
        &mut self,
        commands: Vec<Command>,
        at_once: usize,
    ) -> Result<Vec<String>, Failure> {
        let mut printed = Vec::new();
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let batch: Vec<Command> = commands.by_ref().take(at_once.max(1)).collect();
            let results: Vec<_> = thread::scope(|scope| {
                let run = |command| scope.spawn(move || capture(command));
                let running: Vec<_> = batch.into_iter().map(run).collect();
                running.into_iter().map(|thread| thread.join()).collect()
            });
            for result in results {
                let (name, took, text) =
                    result.map_err(|_| "a thread that runs a program panicked".to_owned())?;
                self.done.push((name, took));
                printed.push(text?);
            }
        }
        Ok(printed)
    }

    /// Prints what was run since the last summary, and how long it took.
    pub fn summarise(&mut self) {
        let done = std::mem::take(&mut self.done);
        if done.is_empty() {
            return;
        }
        let total: Duration = done.iter().map(|(_, took)| *took).sum();
        eprintln!();
        for (name, took) in &done {
            let short: String = name.chars().take(100).collect();
            eprintln!(
                "{:>8.1} s  {short}{}",
                took.as_secs_f64(),
                if short.len() < name.len() { " ..." } else { "" }
            );
        }
        eprintln!("{:>8.1} s  in all", total.as_secs_f64());
    }
}

/// The command, how long it took, and its stdout.
fn capture(mut command: Command) -> (String, Duration, Result<String, Failure>) {
    let name = describe(&command);
    let started = Instant::now();
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let text = match output {
        Err(error) => Err(format!("can't run `{name}`: {error}")),
        Ok(output) if !output.status.success() => {
            Err(format!("`{name}` failed: {}", output.status))
        }
        Ok(output) => String::from_utf8(output.stdout)
            .map_err(|error| format!("what `{name}` printed is no text: {error}")),
    };
    (name, started.elapsed(), text.map_err(Failure::from))
}

/// The command as one would type it, beginning with the variables set for it.
pub fn describe(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())));
    let program = Path::new(command.get_program());
    let program = program
        .file_stem()
        .unwrap_or(command.get_program())
        .display()
        .to_string();
    let arguments = command.get_args().map(|argument| {
        let argument = argument.display().to_string();
        let plain = !argument.is_empty() && !argument.contains([' ', '*', '\'', '"', '$']);
        if plain {
            argument
        } else {
            format!("'{argument}'")
        }
    });
    variables
        .chain([program])
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
