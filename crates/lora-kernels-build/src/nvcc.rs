//! Finds nvcc.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::flags::Flags;

/// The oldest supported release. Older ones lack `sm_90a` and parts of C++17.
pub const OLDEST: (u32, u32) = (12, 0);

/// The folder in the checkout into which `cargo xtask setup` installs the compiler.
pub const INSTALLED: &str = ".toolchain/nvidia/cu13";

/// The environment variables that choose a compiler. `PATH` is read too, but it isn't listed here:
/// it differs between a shell and an editor, so tracking it would rebuild everything when they
/// alternate.
pub const VARIABLES: [&str; 3] = ["NVCC", "CUDA_HOME", "CUDA_PATH"];

/// (Major version of CUDA, the first driver of that version). An older driver can't load machine
/// code that a newer major version's nvcc made.
const OLDEST_DRIVERS: [(u32, u32); 3] = [(11, 450), (12, 525), (13, 580)];

/// The oldest driver that loads machine code made by an nvcc of this major version; `None` for a
/// version that isn't known here. PTX needs a driver of the minor version, too.
pub fn oldest_driver(major: u32) -> Option<u32> {
    OLDEST_DRIVERS
        .into_iter()
        .find_map(|(cuda, driver)| (cuda == major).then_some(driver))
}

/// A compiler that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvcc {
    pub path: PathBuf,
    pub release: (u32, u32),
    /// All that `nvcc --version` prints.
    pub version: String,
}

/// The parts of the machine that the search looks at. Tests replace them.
pub trait Machine {
    /// An environment variable that is set and not empty.
    fn var(&self, name: &str) -> Option<OsString>;
    /// The output of `path --version`, if it can be run.
    fn version(&self, path: &Path) -> Option<String>;
}

/// The machine that this runs on.
pub struct Here;

impl Machine for Here {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    fn version(&self, path: &Path) -> Option<String> {
        let mut nvcc = Command::new(path);
        // A question has no use for the flags.
        Flags::default().give(&mut nvcc);
        let output = nvcc
            .arg("--version")
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Looks at `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, /usr/local/cuda and what `cargo xtask setup`
/// installed below `checkout`, in this order.
///
/// An `NVCC` that can't be used is an error. The other places are skipped if they hold no nvcc or
/// one that is too old.
pub fn find(machine: &dyn Machine, checkout: &Path) -> Result<Nvcc, String> {
    if let Some(named) = machine.var("NVCC") {
        let path = resolve(machine, Path::new(&named));
        let nvcc = examine(machine, &path).ok_or(format!(
            "NVCC={} can't be run as nvcc; correct it, or unset it to have nvcc looked for",
            named.display()
        ))?;
        return if nvcc.release >= OLDEST {
            Ok(nvcc)
        } else {
            Err(format!("NVCC={}: {}", named.display(), too_old(&nvcc)))
        };
    }

    let mut rejected = Vec::new();
    for path in places(machine, checkout) {
        match examine(machine, &path) {
            Some(nvcc) if nvcc.release >= OLDEST => return Ok(nvcc),
            Some(nvcc) => rejected.push(format!(
                "passed over {}: {}",
                path.display(),
                too_old(&nvcc)
            )),
            None => {}
        }
    }
    let mut message = vec![
        format!(
            "no nvcc {}.{} or newer was found; the kernels are compiled with it (no GPU is needed)",
            OLDEST.0, OLDEST.1
        ),
        "looked at NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda: set one of these to a CUDA toolkit,".to_owned(),
        "or, in a checkout of the repository, run `cargo xtask setup`, which installs nvcc into .toolchain".to_owned(),
    ];
    message.extend(rejected);
    Err(message.join("\n"))
}

fn places(machine: &dyn Machine, checkout: &Path) -> Vec<PathBuf> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(|name| machine.var(name))
        .map(PathBuf::from);
    let mut places: Vec<PathBuf> = toolkits.map(|toolkit| in_toolkit(&toolkit)).collect();
    places.extend(on_path(machine, "nvcc".as_ref()));
    places.push(in_toolkit("/usr/local/cuda".as_ref()));
    places.push(in_toolkit(&checkout.join(INSTALLED)));
    places
}

/// nvcc in a CUDA toolkit.
pub fn in_toolkit(toolkit: &Path) -> PathBuf {
    toolkit
        .join("bin")
        .join("nvcc")
        .with_extension(std::env::consts::EXE_EXTENSION)
}

fn on_path(machine: &dyn Machine, program: &Path) -> Vec<PathBuf> {
    let path = machine.var("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| {
            folder
                .join(program)
                .with_extension(std::env::consts::EXE_EXTENSION)
        })
        .collect()
}

/// Resolves a bare name through `PATH`, as a shell does.
fn resolve(machine: &dyn Machine, named: &Path) -> PathBuf {
    if named.components().count() > 1 {
        return named.to_owned();
    }
    let found = on_path(machine, named)
        .into_iter()
        .find(|path| machine.version(path).is_some());
    found.unwrap_or_else(|| named.to_owned())
}

fn examine(machine: &dyn Machine, path: &Path) -> Option<Nvcc> {
    let version = machine.version(path)?;
    Some(Nvcc {
        path: path.to_owned(),
        release: release(&version)?,
        version,
    })
}

/// `Cuda compilation tools, release 13.0, V13.0.88` is (13, 0).
fn release(version: &str) -> Option<(u32, u32)> {
    let number = version.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = number.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn too_old(nvcc: &Nvcc) -> String {
    let (major, minor) = nvcc.release;
    format!(
        "nvcc {major}.{minor} is older than {}.{}",
        OLDEST.0, OLDEST.1
    )
}
