//! A driver older than the images that it is given. The first CUDA call decides for a process.

use std::ffi::CString;
use std::ptr::null_mut;

use cudarc::driver::sys;
use ptx_emulator::select::emulated;

use super::process::{case, own_context, run};

/// PTX 9.0, of nvcc 13.0.
const PTX: &str = include_str!("../fixtures/driver.ptx");
const SPEED: &[u8] = include_bytes!("../fixtures/driver.speed.fatbin");
const BALANCE: &[u8] = include_bytes!("../fixtures/driver.balance.fatbin");
const SIZE: &[u8] = include_bytes!("../fixtures/driver.size.fatbin");

fn load(image: &[u8]) -> u32 {
    let mut module = null_mut();
    // SAFETY: the image carries its size, or is NUL-terminated text.
    unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) as u32 }
}

/// Not a test of its own: the other tests run it in processes with the variable set.
#[test]
fn child() {
    if case().is_none() {
        return;
    }
    emulated().expect("the emulated driver");
    let mut version = 0;
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuDriverGetVersion(&mut version) };
    println!("version: {version} {}", code as u32);
    let _context = own_context();
    let text = CString::new(PTX).expect("text");
    println!("text: {}", load(text.as_bytes_with_nul()));
    println!("speed: {}", load(SPEED));
    println!("balance: {}", load(BALANCE));
    println!("size: {}", load(SIZE));
    let text = PTX.replace(".version 9.0", ".version 8.3");
    let text = CString::new(text).expect("text");
    println!("older text: {}", load(text.as_bytes_with_nul()));
}

#[track_caller]
fn prints(version: &str, lines: &[&str]) {
    let variables: &[(&str, &str)] = match version {
        "" => &[],
        _ => &[("PTX_EMULATOR_DRIVER_VERSION", version)],
    };
    let (success, output) = run("driver_version::child", "load", variables);
    assert!(success, "{output}");
    for line in lines {
        assert!(output.contains(line), "{version}: no {line} in\n{output}");
    }
}

#[test]
fn the_newest_driver_takes_everything() {
    let taken = [
        "text: 0",
        "speed: 0",
        "balance: 0",
        "size: 0",
        "older text: 0",
    ];
    prints("", &["version: 13000 0"]);
    prints("", &taken);
    prints("13000", &taken);
}

#[test]
fn an_older_driver_refuses_newer_ptx() {
    prints(
        "12040",
        &[
            "version: 12040 0",
            "text: 222",
            "speed: 222",
            "balance: 222",
            "size: 222",
            "older text: 0",
            "the image is PTX 9.0; the driver, of CUDA 12.4, takes PTX up to 8.4",
        ],
    );
}

#[test]
fn a_driver_before_12_4_does_not_read_zstd() {
    prints(
        "12030",
        &[
            "speed: 222",
            "balance: 200",
            "size: 200",
            "older text: 0",
            "compressed with zstd",
        ],
    );
}

#[test]
fn a_version_that_no_driver_has_is_refused() {
    let variables = [("PTX_EMULATOR_DRIVER_VERSION", "12.4")];
    let (success, output) = run("driver_version::child", "load", &variables);
    assert!(!success, "{output}");
    assert!(
        output.contains("PTX_EMULATOR_DRIVER_VERSION=12.4: a CUDA version from 11000 to 13000"),
        "{output}"
    );
}
