//! Runs a bundle's tests and benches and writes their results. run.sh starts it.

mod device;
mod driver;
mod harness;
mod output;
mod process;
mod sanitizer;
mod steps;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use lora_kernels_bundle::budget::Budget;
use lora_kernels_bundle::manifest::{Kind, MANIFEST, Manifest, Program};
use lora_kernels_bundle::results::{Bench, Build, MeasuredDevice, Outcome};
use lora_kernels_bundle::{BENCH_RESULTS, BENCH_SECONDS, BENCH_SHAPES, FIRST_LOOK, SUITE};

use output::Output;
use process::{End, Run};
use steps::{Limit, Step};

/// Runs the correctness suite and the benches of a bundle.
#[derive(Parser)]
#[command(name = "run.sh", after_help = steps::help())]
struct Arguments {
    /// The bundle's folder
    #[arg(long, hide = true)]
    bundle: PathBuf,
    /// When the run began
    #[arg(long, hide = true)]
    date: String,
    /// Only these steps
    #[arg(long, value_delimiter = ',')]
    only: Vec<Step>,
    /// The time limit of a step, or of every step
    #[arg(long, value_name = "[STEP=]SECONDS")]
    timeout: Vec<Limit>,
    /// The time of all steps together, which cuts what would take longer; 358 if no --timeout is
    /// given, else without a limit
    #[arg(long)]
    seconds: Option<u64>,
    /// The folder for results.json, results.md and log.txt
    #[arg(long)]
    output: Option<PathBuf>,
    /// Run only benches whose names match
    #[arg(last = true)]
    filter: Vec<String>,
}

/// A run of the suite.
struct Suite {
    arguments: Arguments,
    manifest: Manifest,
    output: Output,
    /// The time of all steps. Who asks for other limits of steps, and for none of the whole, gets
    /// them however long they are.
    budget: Budget,
    /// The folder for the programs' temporary files.
    scratch: PathBuf,
}

/// The compute capability that the kernels for Hopper run on.
const HOPPER: &str = "9.0";

/// What the bench has for writing its results after its last measurement, before it is stopped.
const BENCH_END: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let passed = Suite::open(Arguments::parse()).and_then(|mut suite| suite.run());
    match passed {
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
        let whole = arguments.timeout.is_empty().then_some(steps::WHOLE);
        let budget = Budget::new(arguments.seconds.map(Duration::from_secs).or(whole));
        let bundle = &arguments.bundle;
        let path = bundle.join(MANIFEST);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("can't read {}: {error}", path.display()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let results = arguments.output.clone();
        let results = results.unwrap_or_else(|| bundle.join("results"));
        // Programs run in the bundle's folder.
        let results = std::path::absolute(&results)
            .map_err(|error| format!("{}: {error}", results.display()))?;
        let scratch = bundle.join("scratch");
        fs::create_dir_all(&scratch)
            .map_err(|error| format!("can't make {}: {error}", scratch.display()))?;
        let build = Build {
            commit: manifest.commit.clone(),
            nvcc: manifest.nvcc.clone(),
            archs: manifest.archs.clone(),
            glibc: manifest.glibc.clone(),
        };
        let output = Output::create(results, arguments.date.clone(), build, device::describe()?)?;
        Ok(Self {
            arguments,
            manifest,
            output,
            budget,
            scratch,
        })
    }

    /// Runs the steps, and returns whether all of them passed.
    fn run(&mut self) -> Result<bool, String> {
        let MeasuredDevice {
            name,
            compute_capability,
            cuda,
            ..
        } = self.output.device();
        println!("{name}, compute capability {compute_capability}, CUDA {cuda}");
        if let Some(note) = driver::too_old(self.output.device(), &self.manifest.nvcc) {
            self.output.note(note);
        }
        self.output.write(false)?;
        unpack::unpack(&self.arguments.bundle, &self.manifest)?;
        for step in Step::ALL {
            if !self.arguments.only.is_empty() && !self.arguments.only.contains(&step) {
                continue;
            }
            match step {
                Step::HopperTests => self.hopper_tests()?,
                Step::FirstTests | Step::Tests => self.tests(step)?,
                Step::Memcheck | Step::Synccheck | Step::Racecheck => self.sanitize(step)?,
                Step::FirstBench | Step::Bench => self.bench(step)?,
            }
            self.output.write(false)?;
        }
        // Only programs that were stopped leave something here.
        let _ = fs::remove_dir_all(&self.scratch);
        self.output.write(true)?;
        println!("results: {}", self.output.folder().display());
        let passed = self.output.bench_failures.is_empty()
            && self.output.tests.iter().all(|run| match run.outcome {
                Outcome::Passed | Outcome::NotRun => true,
                // A tool that didn't come to its end has found nothing until then.
                Outcome::TimedOut => run.failed == 0 && is_sanitizers(&run.step),
                _ => false,
            });
        println!("{}", if passed { "passed" } else { "FAILED" });
        Ok(passed)
    }

    fn hopper_tests(&mut self) -> Result<(), String> {
        let found = self.output.device().compute_capability.clone();
        if found == HOPPER {
            return self.tests(Step::HopperTests);
        }
        self.output.note(format!(
            "{}: not run, because the kernels for compute capability {HOPPER} don't run on {found}",
            Step::HopperTests.name()
        ));
        Ok(())
    }

    fn tests(&mut self, step: Step) -> Result<(), String> {
        let end = Instant::now() + self.limit(step);
        for program in self.manifest.programs.clone() {
            let chosen = match step {
                Step::HopperTests => Some(&program.hopper),
                Step::FirstTests => Some(&program.first_look),
                _ => None,
            };
            if program.kind != Kind::Test || chosen.is_some_and(Vec::is_empty) {
                continue;
            }
            let filters = chosen.map_or(&[][..], Vec::as_slice);
            let mut command = self.command(&self.arguments.bundle.join(&program.path));
            command.args(filters);
            let emulated = self.output.device().emulated;
            let more = if emulated {
                &program.skip_emulated[..]
            } else {
                &[]
            };
            let hopper = step == Step::HopperTests;
            if hopper {
                // They run on the GPU of this machine, where they would start an emulated one.
                command.env(lora_kernels_test_device::ALONE, "1");
            }
            let skip = if hopper { &[][..] } else { &program.skip[..] };
            for tests in skip.iter().chain(more) {
                command.args(["--skip", tests]);
            }
            self.test(step, &program.name, command, end)?;
        }
        Ok(())
    }

    fn sanitize(&mut self, step: Step) -> Result<(), String> {
        let end = Instant::now() + self.limit(step);
        let sanitizer = if self.output.device().emulated {
            Err("the device is emulated")
        } else {
            sanitizer::find().ok_or("no compute-sanitizer is installed")
        };
        let sanitizer = match sanitizer {
            Ok(sanitizer) => sanitizer,
            Err(reason) => {
                println!("{}: not run, {reason}", step.name());
                return Ok(());
            }
        };
        for family in self.manifest.families.clone() {
            let program = self.path_of(&family.program)?;
            let command = sanitizer::command(&sanitizer, step, &family, &program);
            let command = self.prepared(command);
            self.test(step, &family.name, command, end)?;
        }
        Ok(())
    }

    /// Runs a test program within the time of its step.
    fn test(
        &mut self,
        step: Step,
        name: &str,
        command: Command,
        end: Instant,
    ) -> Result<(), String> {
        let limit = end.saturating_duration_since(Instant::now());
        let started = Instant::now();
        let mut run = harness::read(step.name(), name, "", None, 0);
        if limit.is_zero() {
            run.outcome = Outcome::NotRun;
            harness::print(&run);
            self.output.set(run);
            return Ok(());
        }
        let log = self.output.log.clone();
        log.title(&format!("{}: {name}", step.name()));
        let program = Run {
            command,
            limit,
            log: &log,
            echo: false,
        };
        let result = program.run(|text| {
            let seconds = started.elapsed().as_secs();
            self.output
                .set(harness::read(step.name(), name, text, None, seconds));
            // A failure is ignored here: the results are written again when the program has ended.
            let _ = self.output.write(false);
        });
        let seconds = started.elapsed().as_secs();
        match result {
            Ok((end, text)) => {
                run = harness::read(step.name(), name, &text, Some(&end), seconds);
                if let Some(note) =
                    driver::refused(&text, self.output.device(), &self.manifest.nvcc)
                    && !self.output.notes.contains(&note)
                {
                    self.output.note(note);
                }
            }
            // If a program can't be started, the others may still run.
            Err(error) => {
                run.outcome = Outcome::Failed;
                run.failures.push(error);
            }
        }
        harness::print(&run);
        self.output.set(run);
        self.output.write(false)
    }

    fn bench(&mut self, step: Step) -> Result<(), String> {
        let limit = self.limit(step);
        if limit.is_zero() {
            let note = format!(
                "{}: not run, because the time of the run was over",
                step.name()
            );
            self.output.note(note);
            return Ok(());
        }
        let handed_over = self.scratch.join("bench.json");
        let _ = fs::remove_file(&handed_over);
        let mut programs = self.manifest.programs.iter();
        let program = programs
            .find(|program| program.kind == Kind::Bench)
            .ok_or("the bundle has no bench")?;
        let mut command = self.command(&self.arguments.bundle.join(&program.path));
        // On an emulated device, each bench runs once and nothing is timed.
        let mode = if self.output.device().emulated {
            "--test"
        } else {
            "--bench"
        };
        command
            .arg(mode)
            .args(&self.arguments.filter)
            .env(BENCH_RESULTS, &handed_over)
            .env(
                BENCH_SECONDS,
                limit.saturating_sub(BENCH_END).as_secs().to_string(),
            )
            .env("CRITERION_HOME", self.scratch.join("criterion"))
            .env(
                BENCH_SHAPES,
                if step == Step::FirstBench {
                    FIRST_LOOK
                } else {
                    SUITE
                },
            );
        let log = self.output.log.clone();
        log.title(step.name());
        let run = Run {
            command,
            limit,
            log: &log,
            echo: true,
        };
        let before = self.output.bench.clone();
        let result = run.run(|_| {
            if let Ok(bench) = read_bench(&handed_over) {
                self.output.bench.merge(bench);
                let _ = self.output.write(false);
            }
        });
        self.output.bench = before;
        let bench = read_bench(&handed_over);
        let found = bench.as_ref().map_or(0, |bench| bench.measurements.len());
        let failure = match result {
            Err(error) => Some(error),
            // Running out of time is no failure: the most informative shapes came first.
            Ok((end @ End::TimedOut(_), _)) if found > 0 => {
                let (step, end) = (step.name(), end.describe());
                let note = format!("{step}: the bench {end}: what its tables lack was not timed");
                self.output.note(note);
                None
            }
            Ok((end, _)) if !end.is_success() => Some(format!(
                "The bench of {} {}; see log.txt",
                step.name(),
                end.describe()
            )),
            Ok(_) if found == 0 => Some(match &bench {
                Ok(_) => format!("{}: no bench ran", step.name()),
                Err(error) => error.clone(),
            }),
            Ok(_) => None,
        };
        if let Ok(bench) = bench {
            self.output.bench.merge(bench);
        }
        if let Some(failure) = failure {
            println!("{failure}");
            self.output.bench_failures.push(failure);
        }
        Ok(())
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, String> {
        let mut programs = self.manifest.programs.iter();
        let program: &Program = programs
            .find(|program| program.name == name)
            .ok_or_else(|| format!("the bundle has no program {name}"))?;
        Ok(self.arguments.bundle.join(&program.path))
    }

    fn command(&self, program: &Path) -> Command {
        self.prepared(Command::new(program))
    }

    /// Tests find their files relative to the folder that they run in.
    fn prepared(&self, mut command: Command) -> Command {
        command
            .current_dir(&self.arguments.bundle)
            .env("TMPDIR", &self.scratch);
        command
    }

    fn limit(&self, step: Step) -> Duration {
        self.budget
            .left(steps::limit(step, &self.arguments.timeout))
    }
}

fn is_sanitizers(name: &str) -> bool {
    let mut steps = Step::ALL.into_iter();
    steps.any(|step| step.name() == name && step.is_sanitizer())
}

fn read_bench(path: &Path) -> Result<Bench, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("the bench left no {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
