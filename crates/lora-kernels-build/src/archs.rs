//! The GPUs that the kernels are compiled for, and nvcc's arguments for them.

use std::fmt;

/// The default compute capabilities for machine code: A100, the RTX 30 and 40 series, H100, the RTX
/// 50 series.
pub const DEFAULT: &str = "80,86,89,90,120";

/// The oldest GPU that the kernels run on: `cp.async` and bf16 tensor cores begin there.
pub const FLOOR: u32 = 80;

/// A compute capability: `89` is 8.9, `90a` is 9.0 with the instructions that only that capability
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

/// Reads a list of devices such as `80,89,90`, `8.0 9.0` or `sm_90a`; `variable` is its source, for
/// the error. A suffix is dropped, because the table of kernels says which kernels use instructions
/// of a single capability.
pub fn parse_list(variable: &str, list: &str) -> Result<Vec<Arch>, String> {
    let mut archs = list
        .split(|c: char| c == ',' || c == ';' || c.is_whitespace())
        .filter(|item| !item.is_empty())
        .map(|item| parse(item).map_err(|reason| format!("{variable}={list}: `{item}` {reason}")))
        .map(|arch| {
            arch.map(|arch| Arch {
                suffix: None,
                ..arch
            })
        })
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

/// Reads one compute capability, `80` or `90a`; the error says what is wrong with it.
pub fn parse(item: &str) -> Result<Arch, String> {
    let unknown =
        || format!("is no compute capability; write e.g. 80, 8.9 or 90 (the default is {DEFAULT})");
    let bare = item
        .strip_prefix("sm_")
        .or_else(|| item.strip_prefix("compute_"))
        .unwrap_or(item);
    let (digits, suffix) = match bare.chars().last() {
        Some('a') => (&bare[..bare.len() - 1], Some('a')),
        Some('f') if decimal(&bare[..bare.len() - 1].replace('.', "")).is_some() => {
            return Err(
                "is a family of capabilities; name each capability, e.g. 100 or 100a for 100f"
                    .to_owned(),
            );
        }
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

/// Splits devices into those that an nvcc knows and those that it doesn't. `listing` is the output
/// of `nvcc --list-gpu-code`.
pub fn known_to(listing: &str, archs: &[Arch]) -> (Vec<Arch>, Vec<Arch>) {
    let known: Vec<&str> = listing.lines().map(str::trim).collect();
    archs
        .iter()
        .copied()
        .partition(|arch| known.contains(&format!("sm_{}", arch.number).as_str()))
}

/// The devices that run code compiled for `compute`: those with its capability or a later one. With
/// a suffix, only those with exactly its capability.
pub fn targets(compute: Arch, devices: &[Arch]) -> Vec<Arch> {
    let runs = |device: &&Arch| match compute.suffix {
        None => device.number >= compute.number,
        Some(_) => device.number == compute.number,
    };
    devices.iter().filter(runs).copied().collect()
}

/// Whether code compiled for `compute` is of use where these devices are asked for. Without a
/// suffix it always is: its PTX serves later devices as well.
pub fn is_for(compute: Arch, devices: &[Arch]) -> bool {
    compute.suffix.is_none() || !targets(compute, devices).is_empty()
}

/// The `-gencode` arguments of a unit that is compiled for `compute`. All its machine code comes
/// from one pass of the front end, the slowest part of nvcc. The PTX of that pass goes into the
/// image too, so the tests on the emulated GPU run the PTX that the machine code was made from.
/// Drivers compile it for GPUs that are not in the list. With a suffix, only GPUs of exactly this
/// capability run it, and the kernels' loader leaves it out on others.
pub fn gencode(compute: Arch, devices: &[Arch]) -> [String; 2] {
    let suffix = compute.suffix.map(String::from).unwrap_or_default();
    let mut codes: Vec<String> = targets(compute, devices)
        .iter()
        .map(|arch| format!("sm_{arch}{suffix}"))
        .collect();
    codes.push(format!("compute_{compute}"));
    [
        "-gencode".to_owned(),
        format!("arch=compute_{compute},code=[{}]", codes.join(",")),
    ]
}
