//! The steps of a run and their time limits.

use std::time::Duration;

/// A run of all steps takes no longer, with the time to unpack and to write results.
pub const WHOLE: Duration = Duration::from_secs(358);

/// A step of a run. The limits add up to less than [`WHOLE`], those of the first three to less than
/// 90 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Tests of the kernels for compute capability 9.0, on such a GPU
    HopperTests,
    /// Tests of every family of kernels
    FirstTests,
    /// Two shapes, ours and cuBLAS
    FirstBench,
    /// All shapes
    Bench,
    /// compute-sanitizer's memcheck, over a test of each family
    Memcheck,
    /// compute-sanitizer's synccheck
    Synccheck,
    /// compute-sanitizer's racecheck
    Racecheck,
    /// Every test of every program
    Tests,
}

impl Step {
    /// All steps in order, the most informative first.
    pub const ALL: [Self; 8] = [
        Self::HopperTests,
        Self::FirstTests,
        Self::FirstBench,
        Self::Bench,
        Self::Memcheck,
        Self::Synccheck,
        Self::Racecheck,
        Self::Tests,
    ];

    /// The name in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::HopperTests => "hopper-tests",
            Self::FirstTests => "first-tests",
            Self::FirstBench => "first-bench",
            Self::Memcheck => "memcheck",
            Self::Synccheck => "synccheck",
            Self::Racecheck => "racecheck",
            Self::Tests => "tests",
            Self::Bench => "bench",
        }
    }

    /// Whether it runs under compute-sanitizer, at a fraction of the speed.
    pub fn is_sanitizer(self) -> bool {
        matches!(self, Self::Memcheck | Self::Synccheck | Self::Racecheck)
    }

    fn default_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::HopperTests | Self::FirstTests => 30,
            Self::FirstBench => 25,
            Self::Bench => 100,
            Self::Memcheck | Self::Synccheck => 20,
            Self::Racecheck => 30,
            Self::Tests => 95,
        })
    }
}

/// `SECONDS` for every step, or `STEP=SECONDS` for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    step: Option<Step>,
    seconds: u64,
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (step, seconds) = match text.split_once('=') {
            None => (None, text),
            Some((name, seconds)) => {
                let step = Step::ALL.into_iter().find(|step| step.name() == name);
                let names = Step::ALL.map(Step::name).join(", ");
                let step = step.ok_or_else(|| format!("{name} is none of {names}"))?;
                (Some(step), seconds)
            }
        };
        let seconds = seconds
            .parse()
            .map_err(|_| format!("{seconds:?} is no number of seconds"))?;
        Ok(Self { step, seconds })
    }
}

/// The time limit of a step: the last one that was asked for, else the default.
pub fn limit(step: Step, asked: &[Limit]) -> Duration {
    let asked = asked
        .iter()
        .rfind(|limit| limit.step.is_none_or(|of| of == step));
    asked.map_or(step.default_limit(), |limit| {
        Duration::from_secs(limit.seconds)
    })
}

/// The steps and their limits, for `--help`.
pub fn help() -> String {
    let mut text = "Steps, in this order, and the seconds that each may take:\n".to_owned();
    for step in Step::ALL {
        let seconds = limit(step, &[]).as_secs();
        text += &format!("  {:<12} {seconds:>4}\n", step.name());
    }
    let whole = WHOLE.as_secs();
    text += &format!(
        "\nAll of them together take {whole} s at most, or --seconds: a step that would take longer is \
         cut, and the results say so. With --timeout and no --seconds, they may take any time.\n"
    );
    text + "\nCUDA_VISIBLE_DEVICES chooses the GPU. LORA_KERNELS_CUBLAS is the path of a libcublas.so that is \
            not found otherwise.\nExit status: 0 if all that was asked for ran and passed. Results are \
            written as they come, so a run that is cut off leaves what it had found."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_keep_a_run_under_six_minutes_and_its_first_look_under_ninety_seconds() {
        let sum = |steps: &[Step]| -> Duration { steps.iter().map(|&step| limit(step, &[])).sum() };
        assert!(sum(&Step::ALL[..3]) < Duration::from_secs(90));
        // A few seconds are for unpacking.
        assert!(sum(&Step::ALL) + Duration::from_secs(5) < WHOLE);
        assert!(WHOLE < Duration::from_secs(360));
    }

    #[test]
    fn the_readme_has_the_limits() {
        let readme = include_str!("../../bundle/README.md");
        for step in Step::ALL {
            let row = format!("| `{}` | {} |", step.name(), limit(step, &[]).as_secs());
            assert!(readme.contains(&row), "there is no {row}");
        }
    }

    #[test]
    fn the_last_limit_that_was_asked_for_counts() {
        let parse = |text: &str| text.parse::<Limit>();
        let asked = [parse("10").unwrap(), parse("tests=600").unwrap()];
        assert_eq!(limit(Step::Tests, &asked), Duration::from_secs(600));
        assert_eq!(limit(Step::Bench, &asked), Duration::from_secs(10));
        assert!(parse("test=1").unwrap_err().contains("racecheck, tests"));
        assert!(parse("bench=soon").unwrap_err().contains("soon"));
    }
}
