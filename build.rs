//! Compiles the CUDA kernels and embeds them; see CONTRIBUTING.md for the environment variables.
//!
//! Writes `$OUT_DIR/images.rs` with `IMAGES`, one (name of the .cu file, fatbin) per unit, and
//! `ARCHITECTURES`, what they have machine code for.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lora_kernels_build::{archs, nvcc, units};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(kernels_stub)");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        println!("cargo::rerun-if-changed=build.rs");
        return;
    }
    if let Err(error) = run() {
        for line in error.lines().filter(|line| !line.trim().is_empty()) {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<(), String> {
    let root = PathBuf::from(
        env::var_os("CARGO_MANIFEST_DIR")
            .ok_or("CARGO_MANIFEST_DIR is not set: run through cargo")?,
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run through cargo")?);
    for path in ["build.rs", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if stub()? {
        println!("cargo::rustc-cfg=kernels_stub");
        return write_images(&out, &[], &[]);
    }

    for name in nvcc::VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = nvcc::find(&nvcc::Here, &root)?;
    println!("cargo::rerun-if-changed={}", nvcc.path.display());
    let architectures = architectures(&nvcc)?;
    let compiler = units::Compiler {
        args: arguments(&architectures)?,
        nvcc: nvcc.path,
        version: nvcc.version,
        store: variable("LORA_KERNELS_CACHE").map_or_else(|| out.join("units"), PathBuf::from),
        root,
    };
    let jobs = env::var("NUM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(1);
    let images = compiler.build(&units::list(&compiler.root, "kernels")?, jobs)?;
    let fresh = images.iter().filter(|image| image.compiled).count();
    println!(
        "compiled {fresh} of {} units with {}",
        images.len(),
        compiler.nvcc.display()
    );
    let strict = variable("LORA_KERNELS_STRICT").is_some();
    let mut warnings = Vec::new();
    for image in &images {
        let lines = image
            .warnings
            .lines()
            .filter(|line| !line.trim().is_empty());
        warnings.extend(lines.map(|line| format!("kernels/{}.cu: {line}", image.stem)));
    }
    if strict && !warnings.is_empty() {
        return Err(warnings.join("\n"));
    }
    for warning in &warnings {
        println!("cargo::warning={warning}");
    }
    write_images(&out, &images, &architectures)
}

/// Whether to build without kernels: docs.rs has no nvcc, and `LORA_KERNELS_STUB=1` asks for it.
fn stub() -> Result<bool, String> {
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    match variable("LORA_KERNELS_STUB").as_deref() {
        None | Some("0") => Ok(env::var_os("DOCS_RS").is_some()),
        Some("1") => Ok(true),
        Some(other) => Err(format!(
            "LORA_KERNELS_STUB={other}: set it to 1 to build without kernels, or unset it"
        )),
    }
}

/// An environment variable of this build; empty is unset.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn arguments(architectures: &[archs::Arch]) -> Result<Vec<String>, String> {
    // -fmad=false: a multiply and an add are fused where the source says fmaf() and nowhere else.
    // --no-compress: the emulated GPU reads the PTX out of the image.
    let common =
        "-std=c++17 -O3 -lineinfo -fmad=false --no-compress -Ikernels -Xptxas --warn-on-spills";
    let mut args: Vec<String> = common.split(' ').map(str::to_owned).collect();
    // Line tables in the machine code make the images two and a half times as big. The PTX has its
    // lines always.
    match variable("LORA_KERNELS_LINEINFO").as_deref() {
        None | Some("0") => args.extend(["-Xptxas", "--suppress-debug-info"].map(str::to_owned)),
        Some("1") => {}
        Some(other) => {
            return Err(format!(
                "LORA_KERNELS_LINEINFO={other}: set it to 1 to keep line tables, or unset it"
            ));
        }
    }
    args.extend(archs::gencode(architectures));
    if let Some(host_compiler) = variable("NVCC_CCBIN") {
        args.extend(["-ccbin".to_owned(), host_compiler]);
    }
    if let Some(more) = variable("LORA_KERNELS_NVCC_FLAGS") {
        args.extend(more.split_whitespace().map(str::to_owned));
    }
    Ok(args)
}

/// What to make machine code for. The GPU of the building machine, if it has one, is never asked.
fn architectures(nvcc: &nvcc::Nvcc) -> Result<Vec<archs::Arch>, String> {
    let asked =
        ["LORA_KERNELS_CUDA_ARCHS", "CUDA_COMPUTE_CAP"].map(|name| Some((name, variable(name)?)));
    let asked = asked.into_iter().flatten().next();
    let (name, list) = asked
        .as_ref()
        .map_or(("the default", archs::DEFAULT), |(name, list)| {
            (*name, list.as_str())
        });
    let wanted = archs::parse_list(name, list)?;

    let listing = std::process::Command::new(&nvcc.path)
        .arg("--list-gpu-code")
        .output();
    let listing = listing.map_err(|error| format!("can't run {}: {error}", nvcc.path.display()))?;
    let listing = String::from_utf8_lossy(&listing.stdout);
    let (known, unknown) = archs::known_to(&listing, &wanted);
    match unknown.first() {
        Some(arch) if asked.is_some() => {
            let names = listing.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(format!(
                "{name}={list}: {} can't compile for {arch}; it knows {names}",
                nvcc.path.display()
            ))
        }
        _ => Ok(known),
    }
}

fn write_images(
    out: &Path,
    images: &[units::Image],
    architectures: &[archs::Arch],
) -> Result<(), String> {
    let mut rows = String::new();
    for image in images {
        let name = format!("{}.fatbin", image.stem);
        let bytes = fs::read(&image.fatbin)
            .map_err(|error| format!("can't read {}: {error}", image.fatbin.display()))?;
        write_if_changed(&out.join(&name), &bytes)?;
        let _ = writeln!(rows, "    ({:?}, include_bytes!({name:?})),", image.stem);
    }
    let architectures: Vec<String> = architectures.iter().map(ToString::to_string).collect();
    let source = format!(
        "pub(crate) static IMAGES: &[(&str, &[u8])] = &[\n{rows}];\npub(crate) static ARCHITECTURES: &[&str] = &{architectures:?};\n"
    );
    write_if_changed(&out.join("images.rs"), source.as_bytes())
}

/// An unchanged file keeps its date, and what was made from it stays good.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|error| format!("can't write {}: {error}", path.display()))
}
