//! `lora-kernels` on the command line.

mod device;
mod doctor;
mod failure;
mod inspect;
mod merge;
mod plan;
mod read;
mod replay;
mod show;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
  4  the result can't be printed; OUT is complete (merge, unmerge)
  130  interrupted";

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

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Merge(arguments) => merge::run(&arguments, merge::Direction::Merge),
        Command::Unmerge(arguments) => merge::run(&arguments, merge::Direction::Unmerge),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", show::one_line(&failure.to_string()));
            ExitCode::from(failure.status())
        }
    }
}
