//! Developer commands: `cargo xtask --help`.

mod commands;
#[path = "../../build/nvcc.rs"]
#[expect(dead_code, reason = "shared with the build script, which needs more of it")]
mod nvcc;
mod steps;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of lora-kernels. All but `setup` run `setup` first; none needs a GPU.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look for nvcc; where there is none, install it from PyPI into .toolchain
    Setup,
    /// Replay the recorded layers of tests/fixtures in f32, bf16 and f16
    Demo,
    /// Run every test, also of a build without kernels, and check one without CUDA
    Test,
    /// Run the benches
    Bench {
        /// Passed on to criterion, e.g. a filter, or --test to run each bench once
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check formatting, clippy and the documentation; warnings are errors
    Lint,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let mut session = steps::Session::new();
    let result = match command {
        Command::Setup => commands::setup(&mut session),
        Command::Demo => commands::demo(&mut session),
        Command::Test => commands::test(&mut session),
        Command::Bench { arguments } => commands::bench(&mut session, &arguments),
        Command::Lint => commands::lint(&mut session),
    };
    session.summarise();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.status)
        }
    }
}
