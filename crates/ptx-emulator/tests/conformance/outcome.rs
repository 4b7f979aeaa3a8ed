//! What became of a program, and the table of all of them.

/// The result of one program.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub program: String,
    pub dtype: &'static str,
    /// The element that came nearest to its bound, or farthest beyond it: its error and the bound.
    pub error: f64,
    pub bound: f64,
}

/// What an element has to be, and how far off it may be.
pub struct Expected {
    pub value: f64,
    pub bound: f64,
}

impl Outcome {
    pub fn of(
        program: impl Into<String>,
        dtype: &'static str,
        got: &[f64],
        expected: &[Expected],
    ) -> Result<Outcome, String> {
        let program = program.into();
        if got.len() != expected.len() || got.is_empty() {
            return Err(format!(
                "{program}: {} results, {} expected",
                got.len(),
                expected.len()
            ));
        }
        let mut worst = (0.0, 0.0, -1.0);
        for (&value, wanted) in got.iter().zip(expected) {
            let same = value == wanted.value || (value.is_nan() && wanted.value.is_nan());
            let error = if same {
                0.0
            } else {
                (value - wanted.value).abs()
            };
            let error = if error.is_nan() { f64::INFINITY } else { error };
            let share = match error {
                0.0 => 0.0,
                _ => error / wanted.bound,
            };
            if share > worst.2 {
                worst = (error, wanted.bound, share);
            }
        }
        Ok(Outcome {
            program,
            dtype,
            error: worst.0,
            bound: worst.1,
        })
    }

    /// Names the collection that the program is from.
    pub fn from(mut self, collection: &str) -> Outcome {
        self.program = format!("{collection} {}", self.program);
        self
    }

    pub fn ok(&self) -> bool {
        self.error <= self.bound
    }
}

/// Prints the table; the number of programs that failed.
pub fn table(results: &[Result<Outcome, String>]) -> usize {
    println!(
        "{:<44} {:>5} {:>12} {:>12}  ok",
        "program", "dtype", "worst error", "its bound"
    );
    let mut failed = 0;
    for result in results {
        match result {
            Ok(outcome) => {
                let verdict = if outcome.ok() { "yes" } else { "NO" };
                println!(
                    "{:<44} {:>5} {:>12.3e} {:>12.3e}  {verdict}",
                    outcome.program, outcome.dtype, outcome.error, outcome.bound
                );
                failed += usize::from(!outcome.ok());
            }
            Err(error) => {
                println!("{error}  NO");
                failed += 1;
            }
        }
    }
    println!("{} programs, {failed} failed", results.len());
    failed
}
