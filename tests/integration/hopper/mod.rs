//! Layers on the virtual H100 and H200, whose forward and dx have kernels of their own: sizes at
//! the edges of those kernels, orders, number models, and the tests of all devices once more.

mod again;
mod cases;
mod contexts;
mod layers;
mod mistakes;
mod orders;
mod planted;
mod rows;

use crate::common::process;

const H100: &str = "h100";
const H200: &str = "h200";

/// Runs a test in a process of its own on a virtual device, with these variables set. The first
/// CUDA call chooses the device for the whole process.
#[track_caller]
fn run_on(device: &str, variables: &[(&str, &str)], test: &str, body: fn()) {
    if process::is_alone() {
        return body();
    }
    process::run_again(test, |command| {
        process::on_device(command, device);
        command.envs(variables.iter().copied());
    });
}

/// Makes tests that run on the virtual H100, as [`run_on`] has it: `on_h100!(test)` runs `test()`.
macro_rules! on_h100 {
    ($($test:ident),+ $(,)?) => {
        mod on_h100 {
            $(#[test] fn $test() {
                let test = concat!(module_path!(), "::", stringify!($test));
                $crate::hopper::run_on($crate::hopper::H100, &[], test, super::$test);
            })+
        }
    };
}
use on_h100;
