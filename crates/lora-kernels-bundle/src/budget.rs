//! Time that a run may take.

use std::time::{Duration, Instant};

/// A number of seconds that began to run out when the value was made.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    start: Instant,
    whole: Option<Duration>,
}

impl Budget {
    /// A budget of `whole`, or one without an end.
    pub fn new(whole: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            whole,
        }
    }

    /// The budget that an environment variable states in whole seconds; without an end if it is
    /// unset.
    ///
    /// # Errors
    /// If the variable holds no number of seconds.
    pub fn of_variable(name: &str) -> Result<Self, String> {
        let Some(text) = std::env::var_os(name) else {
            return Ok(Self::new(None));
        };
        let seconds = text.to_str().and_then(|text| text.parse().ok());
        let seconds = seconds.ok_or_else(|| {
            format!(
                "{name}={}: it is no whole number of seconds",
                text.display()
            )
        })?;
        Ok(Self::new(Some(Duration::from_secs(seconds))))
    }

    /// What is left of it, at most `limit`.
    pub fn left(&self, limit: Duration) -> Duration {
        self.whole.map_or(limit, |whole| {
            whole.saturating_sub(self.start.elapsed()).min(limit)
        })
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.left(Duration::MAX).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_leaves_no_more_than_there_is_and_no_more_than_is_asked_for() {
        let second = Duration::from_secs(1);
        let endless = Budget::new(None);
        assert_eq!(endless.left(second), second);
        assert!(!endless.is_spent());
        let hour = Budget::new(Some(3600 * second));
        assert_eq!(hour.left(second), second);
        assert!(hour.left(7200 * second) <= 3600 * second);
        let spent = Budget::new(Some(Duration::ZERO));
        assert_eq!(spent.left(second), Duration::ZERO);
        assert!(spent.is_spent());
    }
}
