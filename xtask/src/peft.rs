//! Compares with Hugging Face PEFT: each reads what the other writes, and both merge to the same
//! weights.

use crate::pip;
use crate::steps::{Failure, Session};

const PACKAGES: &str = "crates/lora-kernels-adapters/tests/peft/requirements.txt";

pub fn peft(session: &mut Session) -> Result<(), Failure> {
    let folder = session.target().join("peft");
    if !folder.exists() {
        eprintln!(
            "installing PEFT and PyTorch from PyPI into {}, about 5 GB unpacked",
            folder.display()
        );
    }
    pip::ensure(session, PACKAGES, &folder)?;
    for tests in [
        "--package lora-kernels-adapters --test files",
        "--package lora-kernels-cli --test commands",
    ] {
        let mut cargo = session.cargo(&format!("test {tests} -- --ignored --show-output peft"));
        cargo.env("PYTHONPATH", &folder);
        session.run(cargo)?;
    }
    Ok(())
}
