//! Builds the bundle's programs with cargo.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::steps::{Failure, Session};

/// The name of the command line.
pub const PROGRAM: &str = "lora-kernels";

/// The test programs of the bundle.
const TESTS: [&str; 3] = ["integration", "missing_kernels", "commands"];

/// Paths of what was built.
#[derive(Default)]
pub struct Built {
    /// (name, path)
    pub tests: Vec<(String, PathBuf)>,
    /// The command line, which tests start
    pub program: PathBuf,
    pub bench: PathBuf,
    pub suite: PathBuf,
    /// The compiled kernels that the tests, or the bench, carry
    pub images: Vec<PathBuf>,
    /// The emulated driver
    pub emulator: PathBuf,
}

/// Builds everything. With `for_check`, the bench is built like the tests, which avoids a second
/// build of everything.
pub fn build(session: &mut Session, for_check: bool) -> Result<Built, Failure> {
    let mut built = Built::default();
    // The profile of `cargo test`, whose overflow checks are worth having there, too.
    // With the workspace's features, as the tests of a checkout.
    let tests: String = TESTS.map(|name| format!(" --test {name}")).concat();
    for artifact in cargo(session, &format!("test --no-run --workspace{tests}"))? {
        built.add_of_tests(&artifact);
    }
    let bench = if for_check {
        "test --no-run --workspace --bench layer"
    } else {
        "bench --no-run --workspace --bench layer"
    };
    for artifact in cargo(session, bench)? {
        built.add_images(&artifact);
        if is(&artifact, "bench", "layer") {
            built.bench = executable(&artifact);
        }
    }
    for artifact in cargo(session, "build --workspace --bin suite")? {
        if is(&artifact, "bin", "suite") {
            built.suite = executable(&artifact);
        }
    }
    built.tests.sort();
    built.images.sort();
    let missing = [
        ("command line", &built.program),
        ("bench", &built.bench),
        ("suite", &built.suite),
        ("emulator", &built.emulator),
    ];
    if let Some((what, _)) = missing.iter().find(|(_, path)| !path.is_file()) {
        return Err(format!(
            "cargo does not say where it has put the {what}: the bundle is for Linux"
        )
        .into());
    }
    if built.images.is_empty() {
        return Err("this build has no kernels; unset LORA_KERNELS_STUB"
            .to_owned()
            .into());
    }
    Ok(built)
}

fn cargo(session: &mut Session, arguments: &str) -> Result<Vec<Value>, Failure> {
    eprintln!("\n$ cargo {arguments}");
    let command = session.cargo(&format!(
        "{arguments} --message-format json-render-diagnostics"
    ));
    let output = session.capture(command)?;
    let messages = output.lines().filter(|line| line.starts_with('{'));
    let parsed: Result<Vec<Value>, _> = messages.map(serde_json::from_str).collect();
    parsed.map_err(|error| format!("cargo's messages: {error}").into())
}

impl Built {
    fn add_of_tests(&mut self, message: &Value) {
        self.add_images(message);
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if is(message, "test", name) {
            self.tests.push((name.to_owned(), executable(message)));
        } else if is(message, "bin", PROGRAM) && message["profile"]["test"] == false {
            self.program = executable(message);
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let mut libraries = files.filter_map(Value::as_str).map(Path::new);
        if name == "ptx_emulator"
            && let Some(library) =
                libraries.find(|path| path.extension().is_some_and(|extension| extension == "so"))
        {
            self.emulator = library.to_owned();
        }
    }

    /// Every build script reports its output folder; only ours makes images.
    fn add_images(&mut self, message: &Value) {
        let Some(folder) = message["out_dir"].as_str() else {
            return;
        };
        let files = Path::new(folder).read_dir().into_iter().flatten().flatten();
        let paths = files.map(|entry| entry.path());
        let is_image = |path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "fatbin")
        };
        self.images.extend(paths.filter(is_image));
    }
}

fn is(message: &Value, kind: &str, name: &str) -> bool {
    let target = &message["target"];
    target["kind"][0] == kind && target["name"] == name && message["executable"].is_string()
}

fn executable(message: &Value) -> PathBuf {
    PathBuf::from(message["executable"].as_str().unwrap_or_default())
}
