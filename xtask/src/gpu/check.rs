//! Runs the bundle on emulated devices from a copy, with the checkout hidden: everything on the
//! default one with a stand-in for cuBLAS, and what is for Hopper on an H100 without any.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::build::Built;
use super::choice;
use crate::steps::{Failure, Session};

/// The time limit of each step in seconds: the emulated device is slow, and machines differ.
const EMULATED_LIMIT: &str = "1200";

/// What computes cuBLAS's products in the memory of the emulated device.
const STAND_IN: &str = "crates/lora-kernels-baselines/tests/cublas/stand_in.cpp";
/// `lora_kernels_baselines::cublas::STAND_IN`, whose crate would bring the kernels along.
const STAND_IN_VARIABLE: &str = "LORA_KERNELS_CUBLAS_STAND_IN";

/// What a row says whose call ran.
const TRIED: &str = "emulated: not timed";

/// A run of the bundle.
struct Emulated<'a> {
    results: &'a str,
    device: &'a str,
    arguments: &'a [&'a str],
    stand_in: Option<&'a Path>,
}

pub fn check(session: &mut Session, bundle: &Path, built: &Built) -> Result<(), Failure> {
    names_are_of_tests(session, built)?;
    // The place is outside of the checkout, which is hidden. Its path has a space, which scripts
    // often get wrong.
    let place = std::env::temp_dir().join(format!("lora-kernels gpu check {}", std::process::id()));
    super::empty(&place)?;
    let result = run(session, bundle, built, &place);
    match result {
        Ok(()) => super::empty(&place),
        // The files that it left say why it failed.
        failed => failed,
    }
}

/// Checks that every name that selects tests of the bundle is part of a test's name.
fn names_are_of_tests(session: &mut Session, built: &Built) -> Result<(), Failure> {
    let mut tests = String::new();
    for (_, path) in &built.tests {
        let mut list = Command::new(path);
        list.arg("--list").current_dir(session.root());
        tests += &session.capture(list)?;
    }
    match choice::names().find(|name| !tests.contains(name)) {
        Some(name) => Err(format!(
            "xtask/src/gpu/choice.rs names {name}, and no test of the bundle has that in its name"
        )
        .into()),
        None => Ok(()),
    }
}

fn run(session: &mut Session, bundle: &Path, built: &Built, place: &Path) -> Result<(), Failure> {
    let copy = place.join("lora-kernels-gpu");
    super::copy(bundle, &copy)?;
    // A bundle contains no emulated GPU. The programs look for it in their own folder.
    let driver = copy.join("bin/deps");
    fs::create_dir_all(&driver)
        .map_err(|error| format!("can't make {}: {error}", driver.display()))?;
    let driver = driver.join(built.emulator.file_name().unwrap_or_default());
    fs::copy(&built.emulator, &driver)
        .map_err(|error| format!("can't write {}: {error}", driver.display()))?;

    let stand_in = place.join("libcublas_stand_in.so");
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-o"]);
    compiler.arg(&stand_in).arg(STAND_IN).arg("-ldl");
    compiler.current_dir(session.root());
    session.run(compiler)?;
    let runs = [
        Emulated {
            results: "results of Hopper",
            device: "h100",
            arguments: &["--only", "hopper-tests,first-bench"],
            stand_in: None,
        },
        Emulated {
            results: "results",
            device: "a100",
            arguments: &[],
            stand_in: Some(&stand_in),
        },
    ];
    runs.iter()
        .try_for_each(|emulated| emulated.run(session, &copy, place))
}

impl Emulated<'_> {
    fn run(&self, session: &mut Session, copy: &Path, place: &Path) -> Result<(), Failure> {
        let mut script = hidden(session, &copy.join("run.sh"))?;
        script
            .args(["--timeout", EMULATED_LIMIT, "--output", self.results])
            .args(self.arguments)
            .current_dir(place)
            .env("LORA_KERNELS_DEVICE", "emulated")
            .env("PTX_EMULATOR_DEVICE", self.device);
        match self.stand_in {
            Some(path) => script.env(STAND_IN_VARIABLE, path),
            None => script.env_remove(STAND_IN_VARIABLE),
        };
        session.run(script)?;

        let results = place.join(self.results);
        let read = |name: &str| {
            let path = results.join(name);
            fs::read_to_string(&path)
                .map_err(|error| format!("run.sh left no {}: {error}", path.display()))
        };
        let json = serde_json::from_str(&read("results.json")?)
            .map_err(|error| format!("results.json: {error}"))?;
        let findings = check_json(&json)
            .and_then(|()| check_cublas(&json, self.stand_in.is_some()))
            .and_then(|()| check_markdown(&read("results.md")?));
        findings.map_err(|finding| format!("{finding}: see {}", results.display()).into())
    }
}

/// The command that runs the script with empty folders in place of the checkout and cargo's folder,
/// which a machine with the bundle doesn't have. If the system doesn't allow that, the script sees
/// them, and a message says so.
fn hidden(session: &mut Session, script: &Path) -> Result<Command, Failure> {
    let folders = [session.root().to_owned(), session.target()];
    let bare = || {
        let mut bash = Command::new("bash");
        bash.arg(script);
        bash
    };
    let view = |tried: &mut Command| {
        tried.stdout(Stdio::null()).stderr(Stdio::null());
        tried.status().is_ok_and(|status| status.success())
    };
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    for way in ways {
        let mut unshare = Command::new("unshare");
        unshare.args(way).args(["bash", "-c", HIDE, "hide"]);
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            unshare.arg(folder);
        }
        unshare.arg("--");
        let mut tried = Command::new("unshare");
        tried.args(unshare.get_args()).arg("true");
        if view(&mut tried) {
            unshare.arg("bash").arg(script);
            return Ok(unshare);
        }
    }
    eprintln!(
        "\nnot checked: that the bundle opens no file of {}. `unshare --mount` can't hide it here",
        session.root().display()
    );
    Ok(bare())
}

/// Covers folders, then runs the command after `--`. The target folder may be in the checkout, so
/// it is hidden too.
const HIDE: &str = r#"while [ "$1" != -- ]; do [ ! -d "$1" ] || mount -t tmpfs -o ro hidden "$1" || exit 1; shift; done; shift; exec "$@""#;

/// Checks that tests passed and benches ran, and that nothing was timed.
fn check_json(results: &Value) -> Result<(), String> {
    if results["device"]["emulated"] != true {
        return Err("the device is not said to be emulated".to_owned());
    }
    if results["complete"] != true {
        return Err("results.json is not that of a complete run".to_owned());
    }
    let list = |name: &str| results[name].as_array().filter(|list| !list.is_empty());
    let tests = list("tests").ok_or("no test ran")?;
    if let Some(test) = tests.iter().find(|test| test["outcome"] != "passed") {
        return Err(format!("a test did not pass: {test}"));
    }
    let timings = list("timings").ok_or("no bench ran")?;
    let timed = |row: &&Value| {
        let numbers = [
            "microseconds",
            "microseconds_range",
            "tflops",
            "time_over_cublas",
        ];
        let note = row["note"].as_str().unwrap_or_default();
        numbers.iter().any(|&name| !row[name].is_null()) || !note.starts_with("emulated: ")
    };
    if let Some(row) = timings.iter().find(timed) {
        return Err(format!(
            "a bench on the emulated device seems to be timed: {row}"
        ));
    }
    if !timings.iter().any(|row| row["note"] == TRIED) {
        return Err("no bench of ours ran".to_owned());
    }
    Ok(())
}

/// Checks that the rows of cuBLAS ran where there is a stand-in, and say what is missing where
/// there is none.
fn check_cublas(results: &Value, present: bool) -> Result<(), String> {
    let expected = if present {
        TRIED
    } else {
        "emulated: no cuBLAS"
    };
    let rows = results["timings"].as_array().into_iter().flatten();
    let mut of_cublas =
        rows.filter(|row| row["way"] == "plain" || row["way"]["unsloth"].is_object());
    let Some(first) = of_cublas.next() else {
        return Err("no row is cuBLAS's".to_owned());
    };
    let mut all = std::iter::once(first).chain(of_cublas);
    match all.find(|row| row["note"] != expected) {
        Some(row) => Err(format!("a row of cuBLAS does not say {expected:?}: {row}")),
        None => Ok(()),
    }
}

fn check_markdown(text: &str) -> Result<(), String> {
    if !text.contains(TRIED) {
        return Err("results.md does not say that the device is emulated".to_owned());
    }
    match ["µs", "FLOP/s", "×"]
        .iter()
        .find(|unit| text.contains(**unit))
    {
        Some(unit) => Err(format!("results.md speaks of {unit} on an emulated device")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn results(row: Value) -> Value {
        json!({
            "device": {"emulated": true},
            "complete": true,
            "tests": [{"program": "integration", "outcome": "passed"}],
            "timings": [{"note": "emulated: not timed"}, row],
        })
    }

    #[test]
    fn a_row_of_cublas_ran_or_says_why_not() {
        let of = |note: &str| json!({"timings": [{"way": {"ours": {}}}, {"way": "plain", "note": note}]});
        assert_eq!(check_cublas(&of(TRIED), true), Ok(()));
        assert_eq!(check_cublas(&of("emulated: no cuBLAS"), false), Ok(()));
        let skipped = check_cublas(&of("emulated: no cuBLAS"), true).unwrap_err();
        assert!(skipped.contains("does not say"), "{skipped}");
        let none = json!({"timings": [{"way": {"ours": {}}, "note": TRIED}]});
        assert!(check_cublas(&none, true).unwrap_err().contains("no row"));
    }

    #[test]
    fn a_number_beside_an_emulated_device_is_found() {
        assert_eq!(
            check_json(&results(json!({"note": "emulated: no cuBLAS"}))),
            Ok(())
        );
        let timed = json!({"note": "emulated: not timed", "tflops": 3.0});
        assert!(check_json(&results(timed)).unwrap_err().contains("timed"));
        assert!(
            check_json(&results(json!({"note": null})))
                .unwrap_err()
                .contains("timed")
        );
        assert!(
            check_markdown("emulated: not timed, 3 µs")
                .unwrap_err()
                .contains("µs")
        );
    }
}
