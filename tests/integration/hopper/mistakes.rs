//! Mistakes of the kinds that Hopper's instructions allow, planted one at a time in the kernels as
//! they were compiled. Each is found: the emulated device reports it, or numbers are wrong. The
//! kernels as they are run right beside them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use ptx_emulator::counters::Control;

use super::H100;
use super::planted::{FORWARD, GRAD_X, LAYERS, Mistake, OVERLAP};
use crate::common::device::gpu;
use crate::common::layer::TestLayer;
use crate::common::process::{is_alone, on_device, run_again};

/// The environment variable that says which mistake to plant, by its number.
const PLANTED: &str = "LORA_KERNELS_TEST_MISTAKE";
/// How the lines begin that say by what a mistake is found: the emulated device's report of a
/// fault, and what the layer's check panicked with. Others, such as Rust's own words about a panic,
/// would be there for any mistake.
const FAULT: &str = "emulated CUDA driver: ";
const FOUND: &str = "found: ";

/// The lines of each kernel whose name begins with this, in a module's PTX.
fn kernels(ptx: &[&str], name: &str) -> Vec<Range<usize>> {
    let entry = format!(".entry {name}");
    let starts: Vec<usize> = (0..ptx.len())
        .filter(|&at| ptx[at].contains(".entry "))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([ptx.len()]);
    let all = starts.iter().copied().zip(ends);
    all.filter(|&(start, _)| ptx[start].contains(&entry))
        .map(|(start, end)| start..end)
        .collect()
}

/// A module's PTX with a mistake in each of its kernels of that name, and how many kernels those
/// are. None without one.
///
/// # Errors
/// A kernel has not what the mistake is about, or more of it.
fn plant(mistake: &Mistake, ptx: &str) -> Result<Option<(String, usize)>, String> {
    let lines: Vec<&str> = ptx.lines().collect();
    let kernels = kernels(&lines, mistake.kernel);
    if kernels.is_empty() {
        return Ok(None);
    }
    let mut changed: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    for kernel in kernels.iter().cloned() {
        let name = lines[kernel.start];
        let places = mistake.places(&lines[kernel.clone()]);
        if places.is_empty() {
            return Err(format!("{name} has no `{}`", mistake.line));
        }
        for at in places {
            let line = &mut changed[kernel.start + at];
            let with = (mistake.change)(line);
            if with == *line {
                return Err(format!("{name}: `{line}` stays as it was"));
            }
            *line = with;
        }
    }
    Ok(Some((changed.join("\n"), kernels.len())))
}

/// A module whose kernels do nothing, which loads at once.
fn without_bodies(ptx: &str) -> String {
    let mut text = String::new();
    let (mut in_signature, mut in_body) = (false, false);
    for line in ptx.lines() {
        let is_header = [".version", ".target", ".address_size"];
        in_signature |= line.contains(".entry ");
        if in_signature && line.starts_with('{') {
            text += "{ ret; }\n";
            (in_signature, in_body) = (false, true);
        } else if in_body {
            in_body = !line.starts_with('}');
        } else if in_signature || is_header.iter().any(|start| line.starts_with(start)) {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Runs the mistake's layer with it planted, and says how it was found.
fn run_planted(mistake: &'static Mistake) -> String {
    lora_kernels_test_device::select().expect("the emulated device");
    let noted = Arc::new(Mutex::new((0, None)));
    let notes = noted.clone();
    let control = Control::loaded().expect("the emulated driver");
    control
        .rewrite(move |ptx| {
            if !ptx.contains("__bf16__") {
                // Of types that no layer here has.
                return Some(without_bodies(ptx));
            }
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            match plant(mistake, ptx) {
                Ok(planted) => planted.map(|(ptx, kernels)| {
                    notes.0 += kernels;
                    ptx
                }),
                Err(error) => {
                    notes.1 = Some(error);
                    None
                }
            }
        })
        .expect("a driver of this version");
    gpu();
    let (planted, error) = &*noted.lock().expect("the driver has returned");
    assert!(error.is_none(), "{error:?}");
    assert!(*planted > 0, "no kernel is called {}", mistake.kernel);

    let layer = TestLayer::<bf16>::random(&(mistake.case)());
    // A launch's fault shows when it is launched or when its results are read.
    let outcome = catch_unwind(AssertUnwindSafe(|| layer.check()));
    let Err(panic) = outcome else {
        panic!("not found: {}", mistake.name);
    };
    let message = panic.downcast_ref::<String>();
    message.expect("what went wrong").clone()
}

/// Plants each mistake in a process of its own, whose streams do their work at this time.
#[track_caller]
fn all_are_found(test: &str, mistakes: &'static [Mistake], streams: &str) {
    if is_alone() {
        let number = std::env::var(PLANTED).expect("the number of a mistake");
        let number: usize = number.parse().expect("a number");
        // The harness may have begun the line.
        println!("\n{FOUND}{}", run_planted(&mistakes[number]));
        return;
    }
    for (number, mistake) in mistakes.iter().enumerate() {
        let said = run_again(test, |command| {
            on_device(command, H100);
            command.env(PLANTED, number.to_string());
            command.env("PTX_EMULATOR_STREAMS", streams);
        });
        let Mistake { name, found, .. } = mistake;
        let mut reports = said
            .lines()
            .filter(|line| line.starts_with(FAULT) || line.starts_with(FOUND));
        assert!(
            reports.any(|line| line.contains(found)),
            "{name} is not found by `{found}`:\n{said}"
        );
    }
}

/// The layers are right without a mistake.
fn the_layers_are_right() {
    for case in LAYERS {
        TestLayer::<bf16>::random(&case()).check();
    }
}

super::on_h100!(the_layers_are_right);

#[test]
fn of_forward() {
    all_are_found(concat!(module_path!(), "::of_forward"), FORWARD, "now");
}

#[test]
fn of_dx() {
    all_are_found(concat!(module_path!(), "::of_dx"), GRAD_X, "now");
}

#[test]
fn of_launches_that_overlap() {
    all_are_found(
        concat!(module_path!(), "::of_launches_that_overlap"),
        OVERLAP,
        // The second launch is there before the first begins: a busy host can't keep them apart.
        "latest-kernels",
    );
}
