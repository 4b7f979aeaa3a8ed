//! Which GPUs the kernels are compiled for, and how nvcc is told.

use std::fmt;

/// Machine code is made for these where nobody says otherwise: A100, the RTX 30 and 40 series,
/// H100, the RTX 50 series.
pub const DEFAULT: &str = "80,86,89,90a,120";

/// The oldest GPU that the kernels run on: `cp.async` and bf16 tensor cores begin there.
pub const FLOOR: u32 = 80;

/// A compute capability: `89` is 8.9, `90a` is 9.0 with the instructions that only that generation
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arch {
    pub number: u32,
    pub suffix: Option<char>,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        self.suffix.map_or(Ok(()), |suffix| write!(f, "{suffix}"))
    }
}

/// Reads a list such as `80,89,90a`, `8.0 9.0a` or `sm_90a`; `variable` is where it came from, for
/// the error.
pub fn parse_list(variable: &str, list: &str) -> Result<Vec<Arch>, String> {
    let mut archs = list
        .split(|c: char| c == ',' || c == ';' || c.is_whitespace())
        .filter(|item| !item.is_empty())
        .map(|item| parse(item).map_err(|reason| format!("{variable}={list}: `{item}` {reason}")))
        .collect::<Result<Vec<_>, _>>()?;
    if archs.is_empty() {
        return Err(format!(
            "{variable} is set but empty; unset it, or name compute capabilities, e.g. {DEFAULT}"
        ));
    }
    archs.sort_unstable();
    archs.dedup();
    Ok(archs)
}

fn parse(item: &str) -> Result<Arch, String> {
    let unknown = || {
        format!("is no compute capability; write e.g. 80, 8.9 or 90a (the default is {DEFAULT})")
    };
    let bare = item
        .strip_prefix("sm_")
        .or_else(|| item.strip_prefix("compute_"))
        .unwrap_or(item);
    let (digits, suffix) = match bare.chars().last() {
        Some(c @ ('a' | 'f')) => (&bare[..bare.len() - 1], Some(c)),
        _ => (bare, None),
    };
    let number = match digits.split_once('.') {
        Some((major, minor)) => {
            let (major, minor) = (
                decimal(major).ok_or_else(unknown)?,
                decimal(minor).ok_or_else(unknown)?,
            );
            if major > 99 || minor > 9 {
                return Err(unknown());
            }
            major * 10 + minor
        }
        None => decimal(digits).ok_or_else(unknown)?,
    };
    if !(10..1000).contains(&number) {
        return Err(unknown());
    }
    if number < FLOOR {
        return Err(format!(
            "is older than {FLOOR}, the oldest GPU the kernels run on"
        ));
    }
    // Every 9.0 device is a 9.0a device, so there is one spelling.
    let suffix = if number == 90 { Some('a') } else { suffix };
    Ok(Arch { number, suffix })
}

/// `u32::from_str` would take a sign.
fn decimal(digits: &str) -> Option<u32> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

/// Keeps what an nvcc knows. `listing` is what `nvcc --list-gpu-code` prints; it never names the
/// suffixed ones.
pub fn known_to(listing: &str, archs: &[Arch]) -> (Vec<Arch>, Vec<Arch>) {
    let known: Vec<&str> = listing.lines().map(str::trim).collect();
    archs
        .iter()
        .copied()
        .partition(|arch| known.contains(&format!("sm_{}", arch.number).as_str()))
}

/// The `-gencode` arguments. All plain capabilities share one pass of the front end, the slowest
/// part of nvcc, and its PTX. That goes into the image too, for the driver of a GPU not in the list
/// to compile; so the PTX that is tested is the one that the machine code was made from. A suffixed
/// capability needs a pass of its own.
pub fn gencode(archs: &[Arch]) -> Vec<String> {
    let mut codes: Vec<String> = archs
        .iter()
        .filter(|a| a.suffix.is_none())
        .map(|a| format!("sm_{a}"))
        .collect();
    codes.push(format!("compute_{FLOOR}"));
    let mut args = vec![
        "-gencode".to_owned(),
        format!("arch=compute_{FLOOR},code=[{}]", codes.join(",")),
    ];
    for arch in archs.iter().filter(|a| a.suffix.is_some()) {
        args.extend([
            "-gencode".to_owned(),
            format!("arch=compute_{arch},code=sm_{arch}"),
        ]);
    }
    args
}
