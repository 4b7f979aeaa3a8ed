//! Test programs, and what their harness prints.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lora_kernels_bundle::results::{Outcome, TestRun};

use crate::process::{self, End};

pub fn run(
    program: &str,
    command: Command,
    log: &Path,
    limit: Duration,
) -> Result<TestRun, String> {
    let started = Instant::now();
    let end = process::run(command, log, limit, false)?;
    let text = fs::read(log).map_err(|error| format!("can't read {}: {error}", log.display()))?;
    let mut run = read(program, &String::from_utf8_lossy(&text), &end);
    run.seconds = started.elapsed().as_secs();
    Ok(run)
}

fn read(program: &str, log: &str, end: &End) -> TestRun {
    let mut counts = [0; 3];
    for line in log
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        for (count, what) in counts.iter_mut().zip([" passed", " failed", " ignored"]) {
            let number = line
                .split(what)
                .next()
                .and_then(|before| before.rsplit(' ').next());
            *count += number
                .and_then(|number| number.parse::<u32>().ok())
                .unwrap_or(0);
        }
    }
    let [passed, failed, ignored] = counts;
    // The list at the end: a test's own line may be torn by what it prints.
    let after = log
        .rsplit_once("\nfailures:\n")
        .map_or("", |(_, after)| after);
    let names = after.lines().take_while(|line| !line.is_empty());
    TestRun {
        program: program.to_owned(),
        outcome: match end {
            End::TimedOut(_) => Outcome::TimedOut,
            End::Exited(status) if !status.success() => Outcome::Failed,
            End::Exited(_) if passed == 0 => Outcome::NothingRun,
            End::Exited(_) => Outcome::Passed,
        },
        passed,
        failed,
        ignored,
        failures: names.map(|name| name.trim().to_owned()).collect(),
        seconds: 0,
    }
}

pub fn print(run: &TestRun, log: &Path) {
    let TestRun {
        program,
        outcome,
        passed,
        failed,
        seconds,
        ..
    } = run;
    match outcome {
        Outcome::Passed => println!("{program}: {passed} passed ({seconds} s)"),
        Outcome::Failed => {
            println!("{program}: FAILED, {failed} failed and {passed} passed ({seconds} s)")
        }
        Outcome::TimedOut => println!("{program}: STOPPED after {seconds} s"),
        Outcome::NothingRun => println!("{program}: RAN NO TEST"),
    }
    for name in &run.failures {
        println!("    {name}");
    }
    if *outcome != Outcome::Passed {
        println!("    see {}", log.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn ended(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    const FAILED: &str = "
running 3 tests
test in_bf16::odd ... FAILED
test in_f16::odd ... ok
test in_f32::odd ... ignored

failures:

---- in_bf16::odd stdout ----
off by 3

failures:
    in_bf16::odd

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.00s
";

    #[test]
    fn failures_are_counted_and_named() {
        let run = read("shapes", FAILED, &ended(101));
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!((run.passed, run.failed, run.ignored), (1, 1, 1));
        assert_eq!(run.failures, ["in_bf16::odd"]);
    }

    #[test]
    fn a_crash_is_a_failure_whatever_was_printed() {
        let run = read(
            "shapes",
            "running 3 tests\n",
            &End::Exited(ExitStatus::from_raw(11)),
        );
        assert_eq!((run.outcome, run.passed), (Outcome::Failed, 0));
    }

    #[test]
    fn a_program_without_tests_has_not_passed() {
        let text = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(read("shapes", text, &ended(0)).outcome, Outcome::NothingRun);
    }
}
