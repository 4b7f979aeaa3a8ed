//! Damaged fatbins through the reader and its decompressors.

use std::path::{Path, PathBuf};

use ptx_emulator::fatbin::{choose, ptx_images, registers};

use crate::random::Random;
use crate::trial;

pub const FATBINS: [&[u8]; 3] = [
    include_bytes!("../fixtures/driver.none.fatbin"),
    include_bytes!("../fixtures/driver.speed.fatbin"),
    include_bytes!("../fixtures/driver.balance.fatbin"),
];

/// Numbers at which sizes and offsets go wrong.
const EXTREMES: [u64; 12] = [
    0,
    1,
    63,
    64,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 30,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// A fatbin with one to five damages.
pub fn damaged(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.choose(&FATBINS).to_vec();
    let times = if random.once_in(3) {
        1 + random.below(5)
    } else {
        1
    };
    for _ in 0..times {
        if bytes.is_empty() {
            return bytes;
        }
        // Many damages fall into the first headers, where they do most.
        let reach = if random.once_in(3) {
            bytes.len().min(160)
        } else {
            bytes.len()
        };
        let at = random.below(reach);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 | 3 => {
                let value = random.choose(&EXTREMES).to_le_bytes();
                let width = *random.choose(&[2, 4, 8]);
                bytes[at..]
                    .iter_mut()
                    .zip(&value[..width])
                    .for_each(|(to, &from)| *to = from);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + random.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}

/// Reads a fatbin as `cuModuleLoadFatBinary` does, and all of its images; how far it came.
fn read(bytes: &[u8]) -> &'static str {
    let Ok(images) = ptx_images(bytes) else {
        return "no fatbin";
    };
    let _ = registers(bytes, 80);
    let read = images.iter().filter(|image| image.text().is_ok()).count();
    match choose(&images, 80) {
        None => "no image to choose",
        Some(_) if read < images.len() => "an image not read",
        Some(_) => "all images read",
    }
}

/// The kept inputs of a kind, in order.
pub fn corpus(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let entries = folder
        .read_dir()
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|own| own == kind))
        .collect();
    paths.sort();
    paths
}

#[test]
fn damaged_fatbins_are_refused_or_read() {
    let outcomes = trial::run(30_000, || |case| read(&damaged(&mut Random::of_case(case))));
    for stage in [
        "no fatbin",
        "no image to choose",
        "an image not read",
        "all images read",
    ] {
        assert!(
            outcomes.contains_key(stage),
            "none ended with {stage}: {outcomes:?}"
        );
    }
}

#[test]
fn fatbins_that_failed_once_do_no_more() {
    for path in corpus("fatbin") {
        let bytes = std::fs::read(&path).expect("a file");
        trial::attempt(|| read(&bytes))
            .unwrap_or_else(|wrong| panic!("{} {wrong}", path.display()));
    }
}
