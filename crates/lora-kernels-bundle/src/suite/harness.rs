//! Reads what the harness of a test program prints.

use lora_kernels_bundle::results::{Outcome, TestRun};

use crate::process::End;

/// The state of a run according to its output so far. `end` is `None` while it runs.
pub fn read(step: &str, program: &str, text: &str, end: Option<&End>, seconds: u64) -> TestRun {
    let [passed, failed, ignored] = totals(text).unwrap_or_else(|| lines(text));
    TestRun {
        step: step.to_owned(),
        program: program.to_owned(),
        outcome: match end {
            None => Outcome::Running,
            Some(End::TimedOut(_)) => Outcome::TimedOut,
            Some(End::Exited(status)) if !status.success() => Outcome::Failed,
            Some(End::Exited(_)) if passed == 0 => Outcome::NothingRun,
            Some(End::Exited(_)) => Outcome::Passed,
        },
        passed,
        failed,
        ignored,
        failures: failures(text),
        seconds,
    }
}

/// The numbers of passed, failed and ignored tests, if the program printed its summary.
fn totals(text: &str) -> Option<[u32; 3]> {
    let mut results = text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "));
    let line = results.next_back()?;
    Some([" passed", " failed", " ignored"].map(|what| {
        let before = line.split(what).next().unwrap_or_default();
        let number = before.rsplit(' ').next().unwrap_or_default();
        number.parse().unwrap_or(0)
    }))
}

/// The same numbers, counted from the lines of single tests.
fn lines(text: &str) -> [u32; 3] {
    let tests = || text.lines().filter(|line| line.starts_with("test "));
    let count = |end: &str| tests().filter(|line| line.contains(end)).count() as u32;
    [" ... ok", " ... FAILED", " ... ignored"].map(count)
}

fn failures(text: &str) -> Vec<String> {
    // Names come from the list at the end, because a test's own line may be torn by its output.
    if let Some((_, after)) = text.rsplit_once("\nfailures:\n") {
        let names = after.lines().take_while(|line| !line.is_empty());
        return names.map(|name| name.trim().to_owned()).collect();
    }
    let failed = text
        .lines()
        .filter_map(|line| line.strip_suffix(" ... FAILED")?.strip_prefix("test "));
    failed.map(str::to_owned).collect()
}

/// Prints one line, and the names of the tests that failed.
pub fn print(run: &TestRun) {
    let TestRun {
        step,
        program,
        passed,
        failed,
        seconds,
        ..
    } = run;
    let end = match run.outcome {
        Outcome::Passed => format!("{passed} passed"),
        Outcome::Failed => format!("FAILED, {failed} failed and {passed} passed"),
        Outcome::TimedOut => format!("STOPPED, {failed} had failed and {passed} passed"),
        Outcome::Running => "CUT OFF".to_owned(),
        Outcome::NothingRun => "RAN NO TEST".to_owned(),
        Outcome::NotRun => "not run".to_owned(),
    };
    println!("{step}, {program}: {end} ({seconds} s)");
    for name in &run.failures {
        println!("    {name}");
    }
    if run.outcome == Outcome::Failed && run.failures.is_empty() {
        println!("    see log.txt");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    fn ended(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    fn of(text: &str, end: Option<&End>) -> TestRun {
        read("tests", "integration", text, end, 1)
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
        let run = of(FAILED, Some(&ended(101)));
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!((run.passed, run.failed, run.ignored), (1, 1, 1));
        assert_eq!(run.failures, ["in_bf16::odd"]);
    }

    #[test]
    fn what_a_stopped_program_has_tested_counts() {
        let (cut, _) = FAILED.split_once("\n\nfailures").unwrap();
        let stopped = of(cut, Some(&End::TimedOut(Duration::from_secs(1))));
        assert_eq!(stopped.outcome, Outcome::TimedOut);
        let running = of(cut, None);
        assert_eq!(running.outcome, Outcome::Running);
        for run in [stopped, running] {
            assert_eq!((run.passed, run.failed, run.ignored), (1, 1, 1));
            assert_eq!(run.failures, ["in_bf16::odd"]);
        }
    }

    #[test]
    fn a_crash_is_a_failure_whatever_was_printed() {
        let crash = End::Exited(ExitStatus::from_raw(11));
        let run = of("running 3 tests\n", Some(&crash));
        assert_eq!((run.outcome, run.passed), (Outcome::Failed, 0));
    }

    #[test]
    fn a_program_without_tests_has_not_passed() {
        let text = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(of(text, Some(&ended(0))).outcome, Outcome::NothingRun);
    }
}
