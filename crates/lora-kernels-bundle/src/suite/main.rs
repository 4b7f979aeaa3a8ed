//! Runs a bundle's tests and benches and writes what they found; run.sh starts it.

mod correctness;
mod device;
mod process;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use lora_kernels_bundle::manifest::{Kind, MANIFEST, Manifest};
use lora_kernels_bundle::results::{Bench, Build, Device, Outcome, Results, TestRun, rows};
use lora_kernels_bundle::{BENCH_RESULTS, QUICK, markdown};

/// Runs the correctness suite and the benches of a bundle.
#[derive(Parser)]
#[command(name = "run.sh")]
struct Arguments {
    /// The bundle's folder
    #[arg(long, hide = true)]
    bundle: PathBuf,
    /// When the run began
    #[arg(long, hide = true)]
    date: String,
    /// Few tests and few shapes
    #[arg(long)]
    quick: bool,
    /// No benches
    #[arg(long, conflicts_with = "bench_only")]
    tests_only: bool,
    /// No tests
    #[arg(long)]
    bench_only: bool,
    /// Where results.json, results.md and logs/ go
    #[arg(long)]
    output: Option<PathBuf>,
    /// Seconds for any one program
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// Only benches whose names match
    #[arg(last = true)]
    filter: Vec<String>,
}

/// One run.
struct Suite {
    arguments: Arguments,
    manifest: Manifest,
    output: PathBuf,
    device: Device,
}

fn main() -> ExitCode {
    let run = Suite::open(Arguments::parse()).and_then(|suite| suite.run());
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

impl Suite {
    fn open(arguments: Arguments) -> Result<Self, String> {
        let path = arguments.bundle.join(MANIFEST);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("can't read {}: {error}", path.display()))?;
        let manifest =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let output = arguments
            .output
            .clone()
            .unwrap_or_else(|| arguments.bundle.join("results"));
        // Programs run in the bundle's folder.
        let output = std::path::absolute(&output)
            .map_err(|error| format!("{}: {error}", output.display()))?;
        for below in ["logs", "tmp"] {
            let folder = output.join(below);
            fs::create_dir_all(&folder)
                .map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        }
        let device = device::describe()?;
        Ok(Self {
            arguments,
            manifest,
            output,
            device,
        })
    }

    /// Whether all that was asked for passed.
    fn run(&self) -> Result<bool, String> {
        let Device {
            name,
            compute_capability,
            cuda,
            ..
        } = &self.device;
        println!("{name}, compute capability {compute_capability}, CUDA {cuda}");
        if version(cuda) < version(&self.manifest.nvcc) {
            // It may still do: drivers take machine code of later nvccs within limits, which they
            // alone know.
            println!(
                "note: the driver supports CUDA {cuda}, the kernels were made by nvcc {}. If they don't load, update the driver",
                self.manifest.nvcc
            );
        }
        unpack::unpack(&self.arguments.bundle, &self.manifest)?;

        let tests = if self.arguments.bench_only {
            Vec::new()
        } else {
            self.tests()?
        };
        let failed = tests
            .iter()
            .filter(|run| run.outcome != Outcome::Passed)
            .count();
        let (bench, failure) = match (self.arguments.tests_only, failed) {
            (true, _) => (Bench::default(), None),
            (false, 0) => self.bench()?,
            (false, failed) => {
                let failure = format!("Not benched, since {failed} of the test programs failed");
                (Bench::default(), Some(failure))
            }
        };
        let passed = failed == 0 && failure.is_none();
        // Only what a program leaves that was stopped.
        let _ = fs::remove_dir_all(self.output.join("tmp"));
        self.write(tests, bench, failure)?;
        println!("{}", if passed { "passed" } else { "FAILED" });
        Ok(passed)
    }

    fn tests(&self) -> Result<Vec<TestRun>, String> {
        let mut runs = Vec::new();
        for program in self
            .manifest
            .programs
            .iter()
            .filter(|one| one.kind == Kind::Test)
        {
            let filters = match (self.arguments.quick, &program.quick) {
                (false, _) => &[],
                (true, None) => continue,
                (true, Some(filters)) => filters.as_slice(),
            };
            let mut command = self.command(&program.path);
            // Alone: a capture forbids other threads of the process to allocate, and tests of far
            // offsets want the memory for themselves.
            command.arg("--test-threads=1").args(filters);
            for tests in &program.skip {
                command.args(["--skip", tests]);
            }
            let log = self.log(&program.name);
            let run = correctness::run(&program.name, command, &log, self.timeout())?;
            correctness::print(&run, &log);
            runs.push(run);
        }
        Ok(runs)
    }

    /// What was measured, and what went wrong.
    fn bench(&self) -> Result<(Bench, Option<String>), String> {
        let handed_over = self.output.join("bench.json");
        let _ = fs::remove_file(&handed_over);
        let mut programs = self.manifest.programs.iter();
        let program = programs
            .find(|one| one.kind == Kind::Bench)
            .ok_or("the bundle has no bench")?;
        let mut command = self.command(&program.path);
        // On an emulated device each bench runs once and nothing is timed.
        command.arg(if self.device.emulated {
            "--test"
        } else {
            "--bench"
        });
        command.args(&self.arguments.filter);
        command.env(BENCH_RESULTS, &handed_over);
        command.env("CRITERION_HOME", self.output.join("criterion"));
        if self.arguments.quick {
            command.env(QUICK, "1");
        }
        let log = self.log(&program.name);
        let end = process::run(command, &log, self.timeout(), true)?;
        let bench = read_bench(&handed_over);
        if !end.is_success() {
            let failure = format!(
                "The benches {}; see logs/{}.log",
                end.describe(),
                program.name
            );
            return Ok((bench.unwrap_or_default(), Some(failure)));
        }
        Ok(match bench {
            Ok(bench) if bench.measurements.is_empty() => (bench, Some("No bench ran".to_owned())),
            Ok(bench) => (bench, None),
            Err(error) => (Bench::default(), Some(error)),
        })
    }

    fn write(
        &self,
        tests: Vec<TestRun>,
        bench: Bench,
        failure: Option<String>,
    ) -> Result<(), String> {
        let Manifest {
            commit,
            nvcc,
            archs,
            glibc,
            ..
        } = self.manifest.clone();
        let timings = rows(&bench, &self.device)?;
        let results = Results {
            date: self.arguments.date.clone(),
            form: if self.arguments.quick {
                "quick"
            } else {
                "full"
            }
            .to_owned(),
            build: Build {
                commit,
                nvcc,
                archs,
                glibc,
            },
            device: self.device.clone(),
            tests,
            bench_failure: failure,
            cublas: Some(bench.cublas).filter(|text| !text.is_empty()),
            timings,
        };
        let json = serde_json::to_string_pretty(&results)
            .map_err(|error| format!("results.json: {error}"))?;
        for (name, text) in [
            ("results.json", json + "\n"),
            ("results.md", markdown::write(&results)),
        ] {
            let path = self.output.join(name);
            fs::write(&path, text)
                .map_err(|error| format!("can't write {}: {error}", path.display()))?;
            println!("{}", path.display());
        }
        Ok(())
    }

    /// Tests find their files below the folder they run in.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.arguments.bundle.join(program));
        command
            .current_dir(&self.arguments.bundle)
            .env("TMPDIR", self.output.join("tmp"));
        command
    }

    fn log(&self, program: &str) -> PathBuf {
        self.output.join("logs").join(format!("{program}.log"))
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.arguments.timeout)
    }
}

/// 13.0 is (13, 0).
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn read_bench(path: &Path) -> Result<Bench, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("the bench left no {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
