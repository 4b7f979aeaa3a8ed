//! The command line of lora-kernels, as a library: its tests run commands in their own process. It
//! promises no stable interface; the program `lora-kernels` does.

#[cfg(test)]
mod between;
mod device;
mod doctor;
mod failure;
mod inspect;
mod merge;
mod plan;
mod read;
mod replay;
mod show;
mod signals;
mod steps;
mod threads;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lora_kernels_adapters::shown::escaped;

use failure::Failure;

const AFTER_HELP: &str = "\
Examples:
  lora-kernels doctor                                 do the kernels run here?
  lora-kernels inspect my-adapter                     ranks, scalings, norms
  lora-kernels merge my-model my-adapter -o merged    the adapter in the weights
  lora-kernels plan -m 4096 -k 4096 -n 4096 -r 16 --on h100

Exit status:
  0  done
  1  the answer is no: a result beyond its bound (replay), a merged weight that
     is not finite (merge, unmerge)
  2  nothing was done: an argument, a file or an output can't be used
  3  no device that can be used, or it failed
  4  the result can't be printed; or OUT is complete (merge, unmerge), but its name
     can't be brought to the disk, or what it replaced can't be removed
  5  OUT is complete but for files that can't be read (--skip-unreadable)
  128 + N  ended by signal N, such as 130 by Ctrl-C: OUT is as it was";

/// LoRA adapters on NVIDIA GPUs: merge them into models, look into them, and see what the kernels
/// of lora-kernels would do.
#[derive(Parser)]
#[command(name = "lora-kernels", version, after_help = AFTER_HELP, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add adapters to the weights of a model: W + scaling·B·A, summed in f32 and rounded once
    Merge(merge::Arguments),
    /// Take adapters out of a merged model again: W - scaling·B·A
    Unmerge(merge::Arguments),
    /// Show what is in an adapter: format, ranks, scalings, modules, norms
    Inspect(inspect::Arguments),
    /// Show which kernels would run for a layer on a device, on which grid, and why
    Plan(plan::Arguments),
    /// Check driver, devices and kernels, and say what to do where they don't fit
    Doctor(doctor::Arguments),
    /// Run a recorded layer on the device and compare the results
    Replay(replay::Arguments),
}

/// Runs the program with the process's arguments, and prints its failure.
pub fn main() -> ExitCode {
    signals::prepare();
    allow_many_files();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let result = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => execute(parsed.command),
        Err(error) => {
            let error = plain(error, &arguments);
            let printed = show::unless_closed(error.print());
            match error.use_stderr() {
                true => return ExitCode::from(2),
                // The help, or the version.
                false => printed,
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            show::failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

/// The same error about the same arguments, as a terminal can show them.
fn plain(error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let escaped =
        { arguments.iter() }.map(|argument| escaped(&argument.to_string_lossy()).into_owned());
    // An argument that is right once it is escaped was wrong for its characters alone.
    { Arguments::try_parse_from(escaped).err() }.unwrap_or_else(|| {
        clap::Error::raw(
            error.kind(),
            "an argument has characters that it can't have\n",
        )
    })
}

/// Lets this process open as many files as the system allows it. Each of a model's shards stays
/// open while it is read, and models have more of them than the 256 or 1024 files that are the
/// default.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it fails, opening the file that is too many says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Runs a command in this process. `arguments` begin with the program's name.
///
/// # Errors
/// The exit status and the message that the program would end with.
pub fn run<I: IntoIterator<Item = T>, T: Into<OsString> + Clone>(
    arguments: I,
) -> Result<(), (u8, String)> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let parsed = Arguments::try_parse_from(&arguments)
        .map_err(|error| (2, plain(error, &arguments).to_string()))?;
    execute(parsed.command).map_err(|failure| {
        let text = escaped(&failure.to_string()).into_owned();
        (failure.status(), text)
    })
}

/// Runs a command as [`run`] does, and returns what it would print to stdout, which isn't printed.
///
/// # Errors
/// As [`run`].
pub fn run_keeping<I: IntoIterator<Item = T>, T: Into<OsString> + Clone>(
    arguments: I,
) -> (Result<(), (u8, String)>, String) {
    show::keeping(|| run(arguments))
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Merge(arguments) => merge::run(&arguments, merge::Direction::Merge),
        Command::Unmerge(arguments) => merge::run(&arguments, merge::Direction::Unmerge),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
    }
}
