//! The simpler commands.

use std::path::PathBuf;
use std::process::Command;

use crate::program::Program;
use crate::steps::{Failure, Session};
use crate::toolchain;

const FIXTURES: &str = "tests/fixtures";

/// The tests that compare what tensor cores compute with references, by their path.
const LAYERS: &str = "layers::";

/// Those among them that tensor cores other than an A100's would only repeat. f32 kernels use none.
/// Large sizes have more sums, but not longer ones. The others compare one run with another, look
/// at masks or at the host, or run nothing.
const REPEATED: [&str; 11] = [
    "in_f32",
    "every_large_size",
    "layers::far_rows",
    "layers::short_path",
    "mask",
    "the_device_keeps_as_many_as_asked",
    "every_row_and_every_column",
    "neighbours_seeds_and_offsets",
    "placement_does_not_change_the_bits",
    "two_runs",
    "layers::shapes::the_cases",
];

pub fn setup(session: &mut Session) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let (major, minor) = nvcc.release;
    eprintln!("nvcc {major}.{minor}: {}", nvcc.path.display());
    Ok(())
}

pub fn demo(session: &mut Session) -> Result<(), Failure> {
    setup(session)?;
    let program = Program::build(session)?;
    for case in recorded_layers(session)? {
        for dtype in ["f32", "bf16", "f16"] {
            let mut replay = program.command(session);
            replay.arg("replay").arg(&case).args(["--dtype", dtype]);
            session.run(replay)?;
        }
    }
    // The features are those of the whole workspace, as in the tests' build, so that nothing is
    // compiled twice.
    session.run(session.cargo("build --quiet --workspace --example serve_batch"))?;
    let mut serve = Command::new(session.target().join("debug/examples/serve_batch"));
    serve.current_dir(session.root());
    session.run(serve)
}

/// The recorded layers in the repository, relative to it.
fn recorded_layers(session: &Session) -> Result<Vec<PathBuf>, Failure> {
    let folder = session.root().join(FIXTURES);
    let entries = folder
        .read_dir()
        .map_err(|error| format!("can't list {}: {error}", folder.display()))?;
    let mut cases = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|error| format!("can't list {}: {error}", folder.display()))?
            .file_name();
        let case = PathBuf::from(FIXTURES).join(name);
        if case
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            cases.push(case);
        }
    }
    cases.sort();
    if cases.is_empty() {
        return Err(format!("{FIXTURES} holds no recorded layer (*.safetensors)").into());
    }
    Ok(cases)
}

pub fn test(session: &mut Session) -> Result<(), Failure> {
    setup(session)?;
    session.run(session.cargo("test --workspace"))?;

    // The emulated A100 sums like its tensor cores. A test's bound must hold for the other models
    // too. A real GPU has no such choice.
    if std::env::var_os("LORA_KERNELS_DEVICE").is_none_or(|device| device != "real") {
        for numerics in ["hopper", "f32fma"] {
            let mut kernels = session.cargo("test --workspace --test integration --");
            kernels.arg(LAYERS);
            for test in REPEATED {
                kernels.args(["--skip", test]);
            }
            kernels.env("PTX_EMULATOR_NUMERICS", numerics);
            session.run(kernels)?;
        }
    }

    // With a setting of its own, cargo keeps this build of the package beside the other one.
    // Otherwise they would replace each other on every run. With the features of the whole
    // workspace, the other packages are those of the tests above.
    let mut stub = session.cargo(
        "test --workspace --test missing_kernels \
         --config profile.dev.package.lora-kernels.codegen-units=15",
    );
    stub.env("LORA_KERNELS_STUB", "1");
    session.run(stub)?;

    session.run(session.cargo(
        "check --no-default-features --package lora-kernels --package lora-kernels-adapters",
    ))
}

pub fn bench(session: &mut Session, arguments: &[String]) -> Result<(), Failure> {
    setup(session)?;
    // If nothing is timed, the tests' build is good enough.
    let only_once = arguments == ["--test"];
    let mut bench = session.cargo(if only_once {
        "test --workspace --bench *"
    } else {
        "bench --workspace --bench *"
    });
    if !arguments.is_empty() && !only_once {
        bench.arg("--").args(arguments);
    }
    session.run(bench)
}
