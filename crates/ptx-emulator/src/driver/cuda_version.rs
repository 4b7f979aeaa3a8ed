//! The CUDA version that the driver has: the one it reports, and which images are too new for it.
//! Versions are numbers, 1000 * major + 10 * minor.

use std::sync::OnceLock;

use crate::settings;

/// The version whose entry points this driver has, and which it reports unless a setting names an
/// older one.
const NEWEST: i32 = 13_000;
const OLDEST: i32 = 11_000;

/// The first driver that reads fatbins compressed with zstd: nvcc's modes `balance` and `size`.
const FIRST_WITH_ZSTD: i32 = 12_040;

/// PTX versions, 10 * major + minor, by the CUDA version that brought them (PTX ISA, release
/// notes).
const PTX_VERSIONS: [(i32, u32); 19] = [
    (11_000, 70),
    (11_010, 71),
    (11_020, 72),
    (11_030, 73),
    (11_040, 74),
    (11_050, 75),
    (11_060, 76),
    (11_070, 77),
    (11_080, 78),
    (12_000, 80),
    (12_010, 81),
    (12_020, 82),
    (12_030, 83),
    (12_040, 84),
    (12_050, 85),
    (12_070, 86),
    (12_080, 87),
    (12_090, 88),
    (13_000, 90),
];

/// The version that the setting `DRIVER_VERSION` names.
///
/// # Errors
/// The setting's variable and value, and what is wrong with it.
pub(super) fn configure() -> Result<(), (settings::Found, String)> {
    match settings::find("driver_version") {
        Some(found) if parse(&found.value).is_none() => {
            let error = format!(
                "a CUDA version from {OLDEST} to {NEWEST} is wanted, such as 12040 for 12.4"
            );
            Err((found, error))
        }
        _ => Ok(()),
    }
}

fn parse(value: &str) -> Option<i32> {
    let version = value.parse().ok()?;
    (OLDEST..=NEWEST).contains(&version).then_some(version)
}

/// The version that was asked for. Without one, no image is too new: an instruction that the
/// decoder doesn't know is refused by name anyway.
fn chosen() -> Option<i32> {
    static CHOSEN: OnceLock<Option<i32>> = OnceLock::new();
    *CHOSEN.get_or_init(|| parse(&settings::value("driver_version")?))
}

/// What `cuDriverGetVersion` gives.
pub(super) fn reported() -> i32 {
    chosen().unwrap_or(NEWEST)
}

/// Whether the driver knows this PTX version, 10 * major + minor.
///
/// # Errors
/// The sentence for the log.
pub(super) fn check_ptx(version: u32) -> Result<(), String> {
    match chosen() {
        Some(cuda) if version > newest_ptx(cuda) => {
            let newest = newest_ptx(cuda);
            Err(format!(
                "the image is PTX {}.{}; the driver, of CUDA {}, takes PTX up to {}.{}",
                version / 10,
                version % 10,
                dotted(cuda),
                newest / 10,
                newest % 10
            ))
        }
        _ => Ok(()),
    }
}

/// Whether the driver reads zstd.
///
/// # Errors
/// The sentence for the log.
pub(super) fn check_zstd() -> Result<(), String> {
    match chosen() {
        Some(cuda) if cuda < FIRST_WITH_ZSTD => Err(format!(
            "the fatbin is compressed with zstd; the driver, of CUDA {}, reads it from {} on \
             (nvcc --compress-mode=speed or none makes one that it takes)",
            dotted(cuda),
            dotted(FIRST_WITH_ZSTD)
        )),
        _ => Ok(()),
    }
}

fn newest_ptx(cuda: i32) -> u32 {
    let known = PTX_VERSIONS.iter().rev().find(|(since, _)| *since <= cuda);
    known.map_or(0, |&(_, version)| version)
}

fn dotted(cuda: i32) -> String {
    format!("{}.{}", cuda / 1000, cuda % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_takes_the_ptx_of_its_time() {
        assert_eq!(
            [11_000, 11_080, 12_040, 12_060, 12_080, 13_000].map(newest_ptx),
            [70, 78, 84, 85, 87, 90]
        );
    }

    #[test]
    fn a_version_is_a_number_that_some_driver_reports() {
        assert_eq!(
            ["12040", "13000", "13010", "10020", "12.4", ""].map(parse),
            [Some(12_040), Some(13_000), None, None, None, None]
        );
    }
}
