//! The candle crate: its fine-tune, and a look at the part of it that only a machine with CUDA's libraries can link.

use std::path::Path;

use crate::commands::setup;
use crate::steps::{Failure, Session};

/// Makes empty files where a build script asks nvcc for kernels.
const STAND_IN: &str = "xtask/stand-in/nvcc";
/// The emulator's checks make a step six times as slow, and the tests run every kernel with them.
const CHECKS: (&str, &str) = ("LORA_EMULATOR_CHECKS", "off");

pub fn finetune(session: &mut Session, arguments: &[String]) -> Result<(), Failure> {
    setup(session)?;
    let mut example = session.cargo("run --quiet --package lora-kernels-candle --example finetune_minilm --");
    example.args(arguments);
    if std::env::var_os(CHECKS.0).is_none() {
        example.env(CHECKS.0, CHECKS.1);
    }
    session.run(example)
}

/// Types alone: candle-kernels takes ten minutes to compile, and its kernels are not needed for that.
pub fn check_cuda(session: &mut Session) -> Result<(), Failure> {
    // The setting keeps cargo's results beside those of other builds without kernels.
    let mut check = session.cargo(
        "check --package lora-kernels-candle --features cuda --config profile.dev.package.lora-kernels.codegen-units=14",
    );
    check.env("NVCC", session.root().join(Path::new(STAND_IN)));
    check.envs([("CUDA_COMPUTE_CAP", "80"), ("LORA_KERNELS_STUB", "1")]);
    session.run(check)
}
