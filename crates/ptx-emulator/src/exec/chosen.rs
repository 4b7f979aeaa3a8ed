//! Which blocks of a launch are run: a sample stands for sizes that would take hours, and none at
//! all leaves the host's cost.

use std::fmt;
use std::str::FromStr;

/// Blocks by their number: x first, then y, then z.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Blocks {
    /// Every block.
    #[default]
    All,
    /// Launches are checked and counted, nothing is run.
    None,
    /// Block 0 and every n-th after it.
    Every(u64),
    /// These, in ascending order; numbers that a launch doesn't have are left out.
    Listed(Vec<u64>),
}

/// Text that means no choice of blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no choice of blocks: all, none, every:16, or numbers and ranges such as 0,7,64-79"
)]
pub struct BlocksError {
    given: String,
}

/// More listed blocks than this are a mistake.
const MOST_LISTED: u64 = 1 << 24;

impl Blocks {
    /// How many of `total` blocks are run.
    pub(crate) fn count(&self, total: u64) -> u64 {
        match self {
            Blocks::All => total,
            Blocks::None => 0,
            Blocks::Every(step) => total.div_ceil((*step).max(1)),
            Blocks::Listed(list) => list.partition_point(|&block| block < total) as u64,
        }
    }

    /// The block that runs as number `index` of them.
    pub(crate) fn nth(&self, index: u64) -> u64 {
        match self {
            Blocks::All | Blocks::None => index,
            Blocks::Every(step) => index * (*step).max(1),
            Blocks::Listed(list) => list.get(index as usize).copied().unwrap_or(0),
        }
    }

    /// These blocks, each once.
    pub fn listed(mut blocks: Vec<u64>) -> Blocks {
        blocks.sort_unstable();
        blocks.dedup();
        Blocks::Listed(blocks)
    }
}

impl FromStr for Blocks {
    type Err = BlocksError;

    fn from_str(text: &str) -> Result<Blocks, BlocksError> {
        let error = || BlocksError {
            given: text.to_owned(),
        };
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| error());
        match text.trim() {
            "all" => return Ok(Blocks::All),
            "none" => return Ok(Blocks::None),
            _ => {}
        }
        if let Some(step) = text.trim().strip_prefix("every:") {
            return number(step).and_then(|step| {
                if step > 0 {
                    Ok(Blocks::Every(step))
                } else {
                    Err(error())
                }
            });
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first || last - first >= MOST_LISTED {
                return Err(error());
            }
            list.extend(first..=last);
        }
        Ok(Blocks::listed(list))
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocks::All => f.write_str("all"),
            Blocks::None => f.write_str("none"),
            Blocks::Every(step) => write!(f, "every:{step}"),
            // No block at all: a list that can be read back names one that no launch has.
            Blocks::Listed(list) if list.is_empty() => write!(f, "{}", u64::MAX),
            Blocks::Listed(list) => {
                let numbers: Vec<String> = list.iter().map(u64::to_string).collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, total: u64) -> Vec<u64> {
        let blocks: Blocks = text.parse().expect("a choice");
        assert_eq!(blocks.to_string().parse(), Ok(blocks.clone()));
        (0..blocks.count(total))
            .map(|index| blocks.nth(index))
            .collect()
    }

    #[test]
    fn a_choice_names_blocks_of_the_launch() {
        assert_eq!(chosen("all", 3), [0, 1, 2]);
        assert_eq!(chosen("none", 3), [0_u64; 0]);
        assert_eq!(chosen("every:4", 9), [0, 4, 8]);
        assert_eq!(chosen("every:4", 8), [0, 4]);
        assert_eq!(chosen("7, 1-3,2", 7), [1, 2, 3]);
    }

    #[test]
    fn text_that_names_nothing_is_refused() {
        for text in [
            "",
            "some",
            "every:0",
            "every:x",
            "3-1",
            "1,,2",
            "-1",
            "0-99999999999",
        ] {
            assert!(text.parse::<Blocks>().is_err(), "{text}");
        }
    }
}
