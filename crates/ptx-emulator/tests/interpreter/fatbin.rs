//! Fatbins as nvcc writes them, in each of its compression modes.

use ptx_emulator::fatbin::{FatbinError, choose, ptx_images, registers};
use ptx_emulator::parse::parse_module;

const PLAIN: &[u8] = include_bytes!("../fixtures/driver.none.fatbin");
const LZ4: &[u8] = include_bytes!("../fixtures/driver.speed.fatbin");
const ZSTD: &[u8] = include_bytes!("../fixtures/driver.balance.fatbin");
/// In this mode, cubins and PTX are compressed one by one.
const SIZE: &[u8] = include_bytes!("../fixtures/driver.size.fatbin");

fn texts(bytes: &[u8]) -> Vec<(u32, String)> {
    let images = ptx_images(bytes).expect("a fatbin");
    images
        .iter()
        .map(|image| (image.sm, image.text().expect("text")))
        .collect()
}

#[test]
fn every_compression_gives_the_same_ptx() {
    let plain = texts(PLAIN);
    assert_eq!(
        plain.iter().map(|(sm, _)| *sm).collect::<Vec<_>>(),
        [80, 90]
    );
    for (sm, text) in &plain {
        let module = parse_module(text).expect("PTX");
        assert_eq!(module.target, format!("sm_{sm}"));
        assert!(
            module
                .functions
                .iter()
                .any(|function| function.name == "reverse")
        );
    }
    assert_eq!(texts(LZ4), plain);
    assert_eq!(texts(ZSTD), plain);
    assert_eq!(texts(SIZE), plain);
}

#[test]
fn zstd_is_told_from_other_compression() {
    let zstd = |bytes| {
        ptx_images(bytes)
            .expect("a fatbin")
            .iter()
            .all(|image| image.is_zstd())
    };
    assert_eq!(
        [PLAIN, LZ4, ZSTD, SIZE].map(zstd),
        [false, false, true, true]
    );
}

#[test]
fn the_highest_target_that_the_device_runs_is_chosen() {
    let images = ptx_images(PLAIN).expect("a fatbin");
    let chosen = |sm| choose(&images, sm).map(|image| image.sm);
    assert_eq!(
        [75, 80, 89, 90, 120].map(chosen),
        [None, Some(80), Some(80), Some(90), Some(90)]
    );
}

/// The figures are those of `cuobjdump --dump-resource-usage`.
#[test]
fn a_cubin_tells_the_registers_of_its_kernels() {
    for bytes in [PLAIN, LZ4, ZSTD, SIZE] {
        let of = |sm| {
            let mut found: Vec<_> = registers(bytes, sm)
                .expect("a fatbin")
                .into_iter()
                .collect();
            found.sort();
            found
        };
        let ampere = [
            ("add", 12),
            ("globals", 10),
            ("parameters", 14),
            ("reverse", 10),
            ("reverse_dynamic", 10),
            ("stray", 8),
        ];
        let ampere = ampere.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(of(80), ampere);
        assert_eq!(of(89), ampere, "a device of 8.9 runs code for 8.0");
        assert_eq!([of(75), of(90)], [vec![], vec![]], "no code for these");
    }
}

#[test]
fn damaged_fatbins_are_refused() {
    assert_eq!(
        ptx_images(b"#include <stdio.h>").err(),
        Some(FatbinError::Magic { found: 0x636e_6923 })
    );
    for bytes in [PLAIN, LZ4, ZSTD, SIZE] {
        for end in 0..bytes.len() {
            assert!(ptx_images(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn damaged_entries_never_panic() {
    for bytes in [PLAIN, LZ4, ZSTD, SIZE] {
        for at in (0..bytes.len()).step_by(7) {
            for value in [0, 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] = value;
                for image in ptx_images(&damaged).unwrap_or_default() {
                    let _ = image.text();
                }
                let _ = registers(&damaged, 80);
            }
        }
    }
}
