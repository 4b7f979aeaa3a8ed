//! The bundle's quick form on the emulated device, copied away from where it was built.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::build::Built;
use crate::steps::{Failure, Session};

pub fn check(session: &mut Session, bundle: &Path, built: &Built) -> Result<(), Failure> {
    let place = bundle.with_file_name("check");
    super::empty(&place)?;
    // A path with a space is one that scripts get wrong.
    let copy = place.join("a copy");
    super::copy(bundle, &copy)?;
    // The product's bundle has no emulator. The programs look for it in their own folder.
    let driver = copy.join("bin/deps");
    fs::create_dir_all(&driver)
        .map_err(|error| format!("can't make {}: {error}", driver.display()))?;
    let driver = driver.join(built.emulator.file_name().unwrap_or_default());
    fs::copy(&built.emulator, &driver)
        .map_err(|error| format!("can't write {}: {error}", driver.display()))?;

    let mut script = Command::new("bash");
    script
        .arg(copy.join("run.sh"))
        .args(["--quick", "--output", "results"]);
    script
        .current_dir(&place)
        .env("LORA_KERNELS_DEVICE", "emulated");
    session.run(script)?;

    let results = place.join("results");
    let read = |name: &str| {
        let path = results.join(name);
        fs::read_to_string(&path)
            .map_err(|error| format!("run.sh left no {}: {error}", path.display()))
    };
    let json = serde_json::from_str(&read("results.json")?)
        .map_err(|error| format!("results.json: {error}"))?;
    let findings = check_json(&json).and_then(|()| check_markdown(&read("results.md")?));
    findings.map_err(|finding| format!("{finding}: see {}", results.display()).into())
}

/// Tests that passed and benches that ran, nothing of them timed.
fn check_json(results: &Value) -> Result<(), String> {
    if results["device"]["emulated"] != true {
        return Err("the device is not said to be emulated".to_owned());
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
    if !timings
        .iter()
        .any(|row| row["note"] == "emulated: not timed")
    {
        return Err("no bench of ours ran".to_owned());
    }
    Ok(())
}

fn check_markdown(text: &str) -> Result<(), String> {
    if !text.contains("emulated: not timed") {
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
            "tests": [{"program": "shapes", "outcome": "passed"}],
            "timings": [{"note": "emulated: not timed"}, row],
        })
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
