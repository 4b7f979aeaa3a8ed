//! Hugging Face PEFT beside the adapters crate: what one writes, the other reads.

use std::path::Path;

use crate::conformance::install;
use crate::steps::{Failure, Session};

const PACKAGES: &str = "adapters/tests/peft/requirements.txt";

pub fn peft(session: &mut Session) -> Result<(), Failure> {
    let folder = session.target().join("peft");
    if !Path::new(&folder).exists() {
        eprintln!(
            "installing PEFT and PyTorch from PyPI into {}, about 5 GB unpacked",
            folder.display()
        );
    }
    let packages = install(session, PACKAGES, &folder)?;
    let mut cargo = session.cargo("test --package lora-kernels-adapters --test files -- --ignored --show-output peft");
    cargo.env("PYTHONPATH", packages);
    session.run(cargo)
}
