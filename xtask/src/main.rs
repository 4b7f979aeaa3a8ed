//! Developer commands: `cargo xtask --help`.

mod client;
mod commands;
mod conformance;
mod gpu;
#[path = "../../build/nvcc.rs"]
#[expect(dead_code, reason = "shared with the build script, which needs more of it")]
mod nvcc;
mod peft;
mod program;
mod report;
mod steps;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of lora-kernels; none needs a GPU. Those that compile kernels run `setup` first.
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
    /// Build the emulated CUDA driver; the last line on stdout is the path of its shared library
    Emulator,
    /// Run NVIDIA's Python bindings, installed from PyPI, on the emulated driver
    Client,
    /// Compile CUTLASS's and candle's kernels and run them, and Triton's, on the emulated GPU
    Conformance {
        /// Compile Triton's kernels anew, too, and replace the committed PTX (installs Triton, 280 MB)
        #[arg(long)]
        regenerate: bool,
    },
    /// Compare with PEFT, installed from PyPI: it loads what we write, we read what it writes, and both merge to the same
    Peft,
    /// Put a million random cases each to the emulator's parser, fatbin reader and driver
    Fuzz {
        /// How many cases
        #[arg(long, default_value_t = 1_000_000)]
        cases: u64,
    },
    /// Write docs/report.md and docs/report.json: the machine code, what the emulated device counts, and traffic under its L2 model, beside goals
    Report {
        /// Compare a quick form with the committed docs/report.json instead, and fail where a figure got worse
        #[arg(long)]
        check: bool,
    },
    /// Build a folder that tests and benches the kernels on any CUDA machine; the last line on stdout is its path
    Gpu {
        /// Run the folder's quick form on the emulated device as well
        #[arg(long)]
        check: bool,
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
        Command::Emulator => client::emulator(&mut session),
        Command::Client => client::client(&mut session),
        Command::Conformance { regenerate } => conformance::conformance(&mut session, regenerate),
        Command::Peft => peft::peft(&mut session),
        Command::Fuzz { cases } => client::fuzz(&mut session, cases),
        Command::Report { check } => report::report(&mut session, check),
        Command::Gpu { check } => gpu::gpu(&mut session, check),
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
