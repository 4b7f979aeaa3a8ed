//! Merges random adapters into random models, both often damaged, with random options. None panics,
//! and each ends with a documented status. OUT is then complete, or as it was before, and nothing
//! else in its folder has changed.
//!
//! `LORA_KERNELS_FUZZ_CASES` is the number of cases. `LORA_KERNELS_FUZZ_CASE` runs one case, and
//! keeps its folder.

mod adapter;
mod case;
mod check;
mod disturb;
mod model;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use case::Case;
use check::Before;

const CASES: u64 = 40_000;
const CASES_VARIABLE: &str = "LORA_KERNELS_FUZZ_CASES";
const ONE_CASE_VARIABLE: &str = "LORA_KERNELS_FUZZ_CASE";
/// Worker `i` of `n` runs the cases i, i + n, i + 2n and so on: its value is `i/n`.
const WORKER_VARIABLE: &str = "LORA_KERNELS_FUZZ_WORKER";

/// The files have a few kilobytes. On a busy machine, too, a case takes a fraction of this.
const LONGEST: Duration = Duration::from_secs(60);

/// The number of faults after which a worker stops.
const MOST_FAULTS: usize = 10;

fn cases() -> u64 {
    std::env::var(CASES_VARIABLE).map_or(CASES, |text| text.parse().expect(CASES_VARIABLE))
}

/// Each worker is a process: commands print, and a panic in one of their threads must be noticed.
#[test]
fn merging_leaves_all_or_nothing() {
    let jobs = std::thread::available_parallelism().map_or(1, |jobs| jobs.get());
    let workers: Vec<_> = (0..jobs)
        .map(|worker| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "worker", "--nocapture"])
                .env(WORKER_VARIABLE, format!("{worker}/{jobs}"))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            failures.push(said);
            continue;
        }
        for line in said.lines().filter_map(|line| line.strip_prefix("count ")) {
            let (name, count) = line.rsplit_once(' ').unwrap();
            *counts.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (name, count) in &counts {
        println!("{count:>9}  {name}");
    }
    // Cases that are refused for a reason of their own test nothing of what comes after it.
    let total = cases();
    assert_eq!(counts["cases"], total);
    if total >= 1000 {
        for name in case::KINDS {
            let merged = counts.get(&format!("merged: {name}")).copied().unwrap_or(0);
            assert!(
                merged * 1000 >= total,
                "only {merged} of {total} cases were merged with: {name}"
            );
        }
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Not a test of its own: the test above runs it in processes of its own.
#[test]
fn worker() {
    let Ok(worker) = std::env::var(WORKER_VARIABLE) else {
        return;
    };
    let (first, step) = worker.split_once('/').unwrap();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        report(info);
    }));
    let folder = lora_kernels_fuzz::folder();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut faults = Vec::new();
    for number in (first.parse().unwrap()..cases()).step_by(step.parse().unwrap()) {
        let root = folder.path().join("case");
        match run(number, &root) {
            Ok(kinds) => {
                for kind in kinds {
                    *counts.entry(kind).or_default() += 1;
                }
            }
            Err(fault) => faults.push(fault),
        }
        fs::remove_dir_all(&root).unwrap();
        if faults.len() == MOST_FAULTS {
            break;
        }
    }
    let mut stderr = std::io::stderr().lock();
    for (name, count) in counts {
        writeln!(stderr, "count {name} {count}").unwrap();
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs the case that a failure named, and keeps its folder.
#[test]
fn one_case() {
    let Ok(number) = std::env::var(ONE_CASE_VARIABLE) else {
        return;
    };
    let root = std::env::temp_dir().join(format!("lora-kernels-fuzz-{number}"));
    let _ = fs::remove_dir_all(&root);
    eprintln!("the files are in {}", root.display());
    run(number.parse().unwrap(), &root).unwrap();
}

/// Runs a case in `root` and checks what it leaves; what kind of case it was, for the counts.
///
/// # Errors
/// What is wrong, and how to see it again.
fn run(number: u64, root: &Path) -> Result<Vec<String>, String> {
    let case = Case::new(number);
    case.write(root);
    let arguments = case.arguments(root);
    let before = Before::new(root);
    let panics = PANICS.load(Ordering::Relaxed);
    let started = Instant::now();
    let result = std::panic::catch_unwind(|| lora_kernels_cli::run(&arguments));
    let took = started.elapsed();
    let fault = match &result {
        Err(_) => Some("it panicked".to_owned()),
        Ok(_) if PANICS.load(Ordering::Relaxed) != panics => Some("a thread panicked".to_owned()),
        Ok(_) if took > LONGEST => Some(format!("it took {took:?}")),
        Ok(result) => before.compare(&case, root, result).err(),
    };
    match (fault, result) {
        (None, Ok(result)) => Ok(case.kinds(&result)),
        (fault, result) => Err(format!(
            "case {number}: {}\n  it was: {}\n  it ended with {result:?}\n  \
             {ONE_CASE_VARIABLE}={number} repeats it and keeps its files",
            fault.unwrap_or_default(),
            arguments.join(" ")
        )),
    }
}
