//! The suite over bundles of shell scripts, on the emulated device.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use lora_kernels_bundle::manifest::{BLOBS, Kind, MANIFEST, Manifest, Program};
use lora_kernels_bundle::results::{
    Bench, MeasuredLayer, Measurement, Outcome, Pass, Results, Time, Way,
};

const PASSES: &str = "echo 'test a ... ok'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored'";
const FAILS: &str =
    "echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101";
/// Hands over one measurement.
const BENCHES: &str = "cp bench.json \"$LORA_KERNELS_BENCH_RESULTS\"";

/// A bundle of these scripts: one of the first look, one more of tests, and a bench.
fn bundle(first: &str, second: &str, bench: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(BLOBS)).unwrap();
    let scripts = [
        ("first", Kind::Test, first),
        ("second", Kind::Test, second),
        ("bench", Kind::Bench, bench),
    ];
    let programs = scripts.iter().enumerate().map(|(number, script)| {
        let (name, kind, script) = *script;
        let text = format!("#!/bin/sh\n{script}\n");
        let blob = folder.path().join(BLOBS).join(number.to_string());
        fs::write(blob, lz4_flex::compress_prepend_size(text.as_bytes())).unwrap();
        Program {
            name: name.to_owned(),
            kind,
            path: format!("bin/{name}"),
            bytes: text.len() as u64,
            parts: vec![number],
            first_look: if name == "first" {
                vec!["a".to_owned()]
            } else {
                Vec::new()
            },
            hopper: if name == "second" {
                vec!["wgmma".to_owned()]
            } else {
                Vec::new()
            },
            ..Program::default()
        }
    });
    let manifest = Manifest {
        nvcc: "13.0".to_owned(),
        programs: programs.collect(),
        ..Manifest::default()
    };
    let measured = Bench {
        emulated: true,
        cublas: "none".to_owned(),
        measurements: vec![Measurement {
            layer: MeasuredLayer {
                tokens: 1,
                in_features: 2,
                out_features: vec![3],
                dtype: "bf16".to_owned(),
            },
            pass: Pass::Forward,
            way: Way::Ours { rank: 4, p: 0.0 },
            flops: 5,
            time: Time::Emulated,
        }],
    };
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write(MANIFEST, serde_json::to_string(&manifest).unwrap());
    write("bench.json", serde_json::to_string(&measured).unwrap());
    folder
}

fn suite(bundle: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suite"));
    command
        .arg("--bundle")
        .arg(bundle)
        .args(["--date", "2026-01-02T03:04:05Z"])
        .args(arguments)
        .env("LORA_KERNELS_DEVICE", "emulated");
    command
}

fn results(bundle: &Path) -> Results {
    let text = fs::read_to_string(bundle.join("results/results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn run(bundle: &Path, arguments: &[&str]) -> (ExitStatus, Results) {
    let output = suite(bundle, arguments).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    (output.status, results(bundle))
}

fn outcomes(results: &Results) -> Vec<(&str, &str, Outcome)> {
    let tests = results.tests.iter();
    tests
        .map(|run| (run.step.as_str(), run.program.as_str(), run.outcome))
        .collect()
}

#[test]
fn a_program_that_fails_keeps_no_other_and_no_bench_from_running() {
    let bundle = bundle(FAILS, PASSES, BENCHES);
    let (status, results) = run(bundle.path(), &[]);
    assert_eq!(status.code(), Some(1));
    assert!(results.complete);
    assert_eq!(
        outcomes(&results),
        [
            ("first-tests", "first", Outcome::Failed),
            ("tests", "first", Outcome::Failed),
            ("tests", "second", Outcome::Passed),
        ]
    );
    assert_eq!(results.tests[0].failures, ["a"]);
    assert_eq!(results.timings.len(), 1);
    assert_eq!(results.bench_failures, [""; 0]);
}

#[test]
fn all_that_passes_is_a_success_in_few_files() {
    let bundle = bundle(PASSES, PASSES, BENCHES);
    let (status, results) = run(bundle.path(), &[]);
    assert!(status.success(), "{results:?}");
    let files = fs::read_dir(bundle.path().join("results")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["log.txt", "results.json", "results.md"]);
}

#[test]
fn a_step_whose_time_is_over_is_stopped_and_what_it_found_counts() {
    let bundle = bundle(
        "echo 'test a ... ok'; sleep 60",
        PASSES,
        &format!("{BENCHES}; sleep 60"),
    );
    let started = Instant::now();
    let (status, results) = run(bundle.path(), &["--timeout", "1", "--timeout", "tests=2"]);
    assert!(started.elapsed() < Duration::from_secs(50));
    assert_eq!(status.code(), Some(1));
    assert_eq!(
        outcomes(&results),
        [
            ("first-tests", "first", Outcome::TimedOut),
            ("tests", "first", Outcome::TimedOut),
            ("tests", "second", Outcome::NotRun),
        ]
    );
    assert_eq!(results.tests[0].passed, 1);
    // That a bench is stopped is no failure, but it is said.
    assert_eq!(results.bench_failures, [""; 0]);
    let stopped =
        |note: &&String| note.starts_with("bench: ") && note.contains("stopped after 1 s");
    assert_eq!(
        results.notes.iter().filter(stopped).count(),
        1,
        "{results:?}"
    );
    assert_eq!(results.timings.len(), 1);
}

#[test]
fn what_a_run_has_no_time_for_is_cut_and_said() {
    let bundle = bundle("echo 'test a ... ok'; sleep 60", PASSES, BENCHES);
    let started = Instant::now();
    let (status, results) = run(bundle.path(), &["--seconds", "1"]);
    assert!(started.elapsed() < Duration::from_secs(50));
    assert_eq!(status.code(), Some(1));
    assert!(results.complete);
    assert_eq!(
        outcomes(&results),
        [
            ("first-tests", "first", Outcome::TimedOut),
            ("tests", "first", Outcome::NotRun),
            ("tests", "second", Outcome::NotRun),
        ]
    );
    assert_eq!(results.timings.len(), 0);
    for step in ["first-bench", "bench"] {
        let said = |note: &&String| {
            **note == format!("{step}: not run, because the time of the run was over")
        };
        assert_eq!(results.notes.iter().filter(said).count(), 1, "{results:?}");
    }
}

/// The bench is told to end before it is stopped, so that it can say what it left out.
#[test]
fn the_bench_knows_its_time() {
    let checks = format!("[ \"$LORA_KERNELS_BENCH_SECONDS\" = 17 ] && {BENCHES}");
    let bundle = bundle(PASSES, PASSES, &checks);
    let arguments = ["--only", "bench", "--timeout", "bench=20"];
    let (status, results) = run(bundle.path(), &arguments);
    assert!(status.success(), "{results:?}");
    assert_eq!(results.timings.len(), 1);
}

#[test]
fn tests_of_hoppers_kernels_run_first_and_on_hopper_alone() {
    let bundle = bundle(PASSES, &format!("echo \"filters: $*\"; {PASSES}"), BENCHES);
    let on = |device: &str| {
        let mut suite = suite(bundle.path(), &["--only", "hopper-tests,first-tests"]);
        assert!(
            suite
                .env("PTX_EMULATOR_DEVICE", device)
                .status()
                .unwrap()
                .success()
        );
        results(bundle.path())
    };
    let a100 = on("a100");
    assert_eq!(outcomes(&a100), [("first-tests", "first", Outcome::Passed)]);
    assert!(
        a100.notes[0].starts_with("hopper-tests: not run"),
        "{:?}",
        a100.notes
    );
    let h100 = on("h100");
    assert_eq!(
        outcomes(&h100),
        [
            ("hopper-tests", "second", Outcome::Passed),
            ("first-tests", "first", Outcome::Passed),
        ]
    );
    assert_eq!(h100.notes, [""; 0]);
    let log = fs::read_to_string(bundle.path().join("results/log.txt")).unwrap();
    assert!(log.contains("filters: wgmma"), "{log}");
}

#[test]
fn a_run_that_is_cut_off_leaves_what_it_had_found() {
    let bundle = bundle(PASSES, PASSES, "exec sleep 20");
    let mut child = suite(bundle.path(), &[]).spawn().unwrap();
    let started = Instant::now();
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing was written"
        );
        std::thread::sleep(Duration::from_millis(50));
        let path = bundle.path().join("results/results.json");
        // Whole at any time.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let results: Results = serde_json::from_str(&text).unwrap();
        if results
            .tests
            .iter()
            .any(|run| run.outcome == Outcome::Passed)
        {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let results = results(bundle.path());
    assert!(!results.complete);
    assert_eq!(
        outcomes(&results),
        [("first-tests", "first", Outcome::Passed)]
    );
    let page = fs::read_to_string(bundle.path().join("results/results.md")).unwrap();
    assert!(page.contains("**cut off**"), "{page}");
}
