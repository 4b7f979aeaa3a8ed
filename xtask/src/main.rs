//! Developer commands: `cargo xtask --help`.

mod aarch64;
mod candle;
mod capi;
mod client;
mod commands;
mod conformance;
mod gpu;
mod lint;
mod miri;
mod package;
mod peft;
mod pip;
mod program;
mod python;
mod report;
mod steps;
mod toolchain;
mod wheel;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of lora-kernels; none needs a GPU. Those that compile kernels run `setup`
/// first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look for nvcc, and install it from PyPI into .toolchain if there is none
    Setup,
    /// Replay the recorded layers of tests/fixtures in f32, bf16 and f16, and serve a batch of
    /// requests for many adapters
    Demo,
    /// Run every test, also of a build without kernels, and check a build without CUDA
    Test,
    /// Type-check everything for Linux on aarch64; rustup installs the target if it is missing
    Aarch64,
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
        /// Also recompile Triton's kernels and replace the committed PTX (installs Triton, 280 MB)
        #[arg(long)]
        regenerate: bool,
    },
    /// Compare with PEFT, installed from PyPI: it loads what we write, we read what it writes, and
    /// both merge to the same
    Peft,
    /// Fine-tune all-MiniLM-L6-v2 with candle, and compare with the losses recorded from PEFT; 24
    /// steps take some minutes
    Finetune {
        /// Passed on, e.g. --steps 2, --dtype bf16, --out FOLDER, --json or --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the candle crate on candle's CUDA device, the emulated one, without CUDA's libraries
    CandleCuda,
    /// Give a million random cases each to the emulated GPU's parser, fatbin reader and driver, to
    /// every reader of files, and to merging; let every system call of a merge fail, and kill a
    /// thousand merges
    Fuzz {
        /// How many cases
        #[arg(long, default_value_t = 1_000_000)]
        cases: u64,
    },
    /// Run the tests that need neither a device nor files under Miri (installed by rustup)
    Miri,
    /// Write docs/report.md and docs/report.json: the machine code, the emulated device's counts,
    /// and traffic under its L2 model, compared with goals
    Report {
        /// Compare a quick form with the committed docs/report.json instead, and fail if a figure
        /// got worse
        #[arg(long)]
        check: bool,
    },
    /// Build a folder that tests and benches the kernels on any CUDA machine; the last line on
    /// stdout is its path
    Gpu {
        /// Instead run such a folder on the emulated device, with the checkout hidden
        #[arg(long)]
        check: bool,
    },
    /// Build the C library, shared and static; the last line on stdout is the folder that it, its
    /// header and its pkg-config file are in
    Capi {
        /// Put them into this folder instead of one in the target folder
        #[arg(long)]
        prefix: Option<PathBuf>,
    },
    /// Build the Python package as a wheel with the library in it; the last line on stdout is its
    /// path
    Wheel,
    /// Build the Python package's wheel, install it into a fresh environment, and test it there on
    /// the emulated device (installs NumPy and pytest from PyPI)
    Python {
        /// Also test what is for PyTorch and PEFT (installs both if there are none, 6 GB)
        #[arg(long)]
        torch: bool,
        /// Also check the package with ruff and its types with mypy (installs them)
        #[arg(long)]
        types: bool,
        /// Passed on to pytest, e.g. -k and a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Pack the published crates as for crates.io, and build the core from its package
    Package,
    /// Check formatting, clippy, the documentation, the dependencies and the rules of this
    /// repository; warnings are errors
    Lint,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let mut session = steps::Session::new();
    let result = match command {
        Command::Setup => commands::setup(&mut session),
        Command::Demo => commands::demo(&mut session),
        Command::Test => commands::test(&mut session),
        Command::Aarch64 => aarch64::aarch64(&mut session),
        Command::Bench { arguments } => commands::bench(&mut session, &arguments),
        Command::Emulator => client::emulator(&mut session),
        Command::Client => client::client(&mut session),
        Command::Conformance { regenerate } => conformance::conformance(&mut session, regenerate),
        Command::Peft => peft::peft(&mut session),
        Command::Finetune { arguments } => candle::finetune(&mut session, &arguments),
        Command::CandleCuda => candle::cuda(&mut session),
        Command::Fuzz { cases } => client::fuzz(&mut session, cases),
        Command::Miri => miri::miri(&mut session),
        Command::Report { check } => report::report(&mut session, check),
        Command::Gpu { check } => gpu::gpu(&mut session, check),
        Command::Capi { prefix } => capi::capi(&mut session, prefix),
        Command::Wheel => wheel::wheel(&mut session),
        Command::Python {
            torch,
            types,
            arguments,
        } => {
            let choices = python::Choices {
                torch,
                types,
                arguments,
            };
            python::python(&mut session, &choices)
        }
        Command::Package => package::package(&mut session),
        Command::Lint => lint::lint(&mut session),
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
