//! Packs the crates as for crates.io, and checks that they are complete and that the core builds
//! from its package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::steps::{Failure, Session};

/// The files that every package must contain.
const FILES: [&str; 3] = ["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// A package that is published, as cargo describes it.
struct Published {
    name: String,
    version: String,
    manifest: Value,
}

impl Published {
    /// A field of its manifest, or the workspace's.
    fn field(&self, name: &str) -> Option<&str> {
        self.manifest[name].as_str().filter(|text| !text.is_empty())
    }

    /// Whether it depends on that package to be built. Dependencies of tests aren't published.
    fn needs(&self, package: &str) -> bool {
        let dependencies = self.manifest["dependencies"].as_array();
        let mut dependencies = dependencies.into_iter().flatten();
        dependencies.any(|needed| needed["name"] == package && needed["kind"] != "dev")
    }
}

pub fn package(session: &mut Session) -> Result<(), Failure> {
    let packages = published(session)?;
    let mut cargo = session.cargo("package --no-verify --allow-dirty --quiet");
    for package in &packages {
        cargo.args(["--package", &package.name]);
    }
    session.run(cargo)?;
    let folder = session.target().join("package");
    for package in &packages {
        unpack(session, &folder, package)?;
    }
    builds_alone(session, &folder, &packages)
}

/// The members of the workspace that may be published, which must have all fields that crates.io
/// shows.
fn published(session: &mut Session) -> Result<Vec<Published>, Failure> {
    let metadata = session.cargo("metadata --no-deps --format-version 1");
    let metadata: Value = serde_json::from_str(&session.capture(metadata)?)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let members = metadata["packages"].as_array().cloned().unwrap_or_default();
    // An empty list of registries means `publish = false`.
    let is_published = |package: &Value| package["publish"].is_null();
    let mut packages = Vec::new();
    for manifest in members.into_iter().filter(is_published) {
        let text = |field: &str| manifest[field].as_str().unwrap_or_default().to_owned();
        let package = Published {
            name: text("name"),
            version: text("version"),
            manifest,
        };
        for field in ["description", "license", "documentation", "readme"] {
            if package.field(field).is_none() {
                return Err(format!("{} has no {field} in its Cargo.toml", package.name).into());
            }
        }
        packages.push(package);
    }
    if packages.is_empty() {
        return Err("no package of this workspace is published"
            .to_owned()
            .into());
    }
    Ok(packages)
}

/// Unpacks a package and checks that it is complete.
fn unpack(session: &mut Session, folder: &Path, package: &Published) -> Result<(), Failure> {
    let name = format!("{}-{}", package.name, package.version);
    let unpacked = folder.join(&name);
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)
            .map_err(|error| format!("can't empty {}: {error}", unpacked.display()))?;
    }
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file");
    tar.arg(folder.join(format!("{name}.crate")))
        .arg("--directory")
        .arg(folder);
    session.run(tar)?;
    match FILES.iter().find(|file| !unpacked.join(file).is_file()) {
        Some(missing) => Err(format!("the package {name} has no {missing}").into()),
        None => Ok(()),
    }
}

/// Builds the core from its package, without kernels, and compiles its documentation's examples:
/// both see no file that isn't in the package. Other packages of ours come from theirs.
fn builds_alone(
    session: &mut Session,
    folder: &Path,
    packages: &[Published],
) -> Result<(), Failure> {
    const CORE: &str = "lora-kernels";
    let path = |package: &Published| -> PathBuf {
        folder.join(format!("{}-{}", package.name, package.version))
    };
    let core = packages.iter().find(|package| package.name == CORE);
    let core = core.ok_or_else(|| format!("{CORE} is not published"))?;
    let mut cargo = session.cargo("test --doc --quiet");
    for package in packages.iter().filter(|package| core.needs(&package.name)) {
        cargo.arg("--config").arg(format!(
            "patch.crates-io.{}.path={:?}",
            package.name,
            path(package)
        ));
    }
    cargo
        .current_dir(path(core))
        .env("LORA_KERNELS_STUB", "1")
        // Little code runs: examples that need a device are only compiled.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
        .env("CARGO_TARGET_DIR", session.target().join("package/target"));
    session.run(cargo)
}
