//! Compiles the CUDA kernels and embeds them; see CONTRIBUTING.md for the environment variables.
//!
//! Reads `kernels/table.toml`, and writes to `$OUT_DIR`: `kernels.rs`, the table's rows;
//! `kernels/*.cu`, the kernel functions; `images.rs` with `IMAGES`, one (unit, fatbin) each,
//! `ARCHITECTURES`, what they have machine code for, and `TOOLKIT`, the nvcc that made them;
//! `remarks.txt`, what the compiler said of each unit.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lora_kernels_build::table::{self, Table};
use lora_kernels_build::{archs, arguments, flags, nvcc, ptxas, units};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(kernels_stub)");
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
    let text = fs::read_to_string(root.join(table::PATH))
        .map_err(|error| format!("can't read {}: {error}", table::PATH))?;
    let mut table = table::parse(&text)?;
    let rows = out.join("kernels.rs");
    // Without kernels, plans are those of a build with all of them.
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return write_if_changed(&rows, table.rust().as_bytes());
    }
    if stub()? {
        println!("cargo::rustc-cfg=kernels_stub");
        write_if_changed(&rows, table.rust().as_bytes())?;
        return write_images(&out, &[], &[], None);
    }

    let variables = [
        &nvcc::VARIABLES[..],
        &flags::VARIABLES,
        &arguments::VARIABLES,
    ];
    for name in variables.concat() {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = nvcc::find(&nvcc::Here, &root)?;
    println!("cargo::rerun-if-changed={}", nvcc.path.display());
    let devices = devices(&nvcc)?;
    table.keep_those_for(&devices);
    write_if_changed(&rows, table.rust().as_bytes())?;
    let units = units(&table, &root, &out, &devices)?;
    let flags = flags::Flags::find(&nvcc::Here)?;
    let compiler = units::Compiler {
        args: arguments::arguments(&nvcc::Here, nvcc.release, &flags)?,
        flags,
        nvcc: nvcc.path.clone(),
        version: nvcc.version.clone(),
        store: variable("LORA_KERNELS_CACHE").map_or_else(|| out.join("units"), PathBuf::from),
        root,
    };
    let jobs = env::var("NUM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(1);
    let images = compiler.build(&units, jobs)?;
    let fresh = images.iter().filter(|image| image.compiled).count();
    println!(
        "compiled {fresh} of {} units with {}",
        images.len(),
        compiler.nvcc.display()
    );
    let strict = variable("LORA_KERNELS_STRICT").is_some();
    let remarks = images
        .iter()
        .flat_map(|image| ptxas::Remark::all(&image.name, &image.warnings));
    let remarks: Vec<ptxas::Remark> = remarks.collect();
    let lines: String = remarks
        .iter()
        .map(|remark| remark.to_line() + "\n")
        .collect();
    write_if_changed(&out.join("remarks.txt"), lines.as_bytes())?;
    if strict && !remarks.is_empty() {
        let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
        return Err(remarks.join("\n"));
    }
    for remark in &remarks {
        println!("cargo::warning={remark}");
    }
    write_images(&out, &images, &devices, Some(&nvcc))
}

/// The units to compile: the table's kernels, each for the devices that its architecture serves,
/// and the layout check. Every unit has at least PTX, so kernels that serve later devices are there
/// whatever list of devices the build has. Those for one capability are there if it is in the list.
fn units(
    table: &Table,
    root: &Path,
    out: &Path,
    devices: &[archs::Arch],
) -> Result<Vec<units::Unit>, String> {
    let folder = out.join("kernels");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("can't create {}: {error}", folder.display()))?;
    let mut units = Vec::new();
    let mut add = |name: &str, source: PathBuf, architecture: &table::Architecture| {
        units.push(units::Unit {
            name: name.to_owned(),
            source,
            args: archs::gencode(architecture.compute, devices).to_vec(),
        });
    };
    for unit in table.units() {
        let source = folder.join(format!("{}.cu", unit.name));
        write_if_changed(&source, unit.source.as_bytes())?;
        add(&unit.name, source, &table.architectures[unit.architecture]);
    }
    // Layouts don't depend on the architecture.
    if let Some(first) = table.architectures.first() {
        add(
            LAYOUT_CHECK,
            root.join(format!("kernels/{LAYOUT_CHECK}.cu")),
            first,
        );
    }
    Ok(units)
}

const LAYOUT_CHECK: &str = "layout_check";

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

/// The devices to make machine code for. The building machine's GPU is never queried.
fn devices(nvcc: &nvcc::Nvcc) -> Result<Vec<archs::Arch>, String> {
    let asked =
        ["LORA_KERNELS_CUDA_ARCHS", "CUDA_COMPUTE_CAP"].map(|name| Some((name, variable(name)?)));
    let asked = asked.into_iter().flatten().next();
    let (name, list) = asked
        .as_ref()
        .map_or(("the default", archs::DEFAULT), |(name, list)| {
            (*name, list.as_str())
        });
    let wanted = archs::parse_list(name, list)?;

    let listing = output(nvcc, "--list-gpu-code")?;
    let (known, unknown) = archs::known_to(&listing, &wanted);
    let names = |archs: &[archs::Arch]| {
        let names: Vec<String> = archs.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    if unknown.is_empty() {
        return Ok(known);
    }
    let path = nvcc.path.display();
    if asked.is_some() {
        let knows = listing.split_whitespace().collect::<Vec<_>>().join(" ");
        let unknown = names(&unknown);
        return Err(format!(
            "{name}={list}: {path} can't compile for {unknown}; it knows {knows}"
        ));
    }
    println!(
        "cargo::warning={path} is too old to compile for {}: GPUs of that kind compile the PTX when the kernels are loaded. A newer nvcc makes machine code for them; LORA_KERNELS_CUDA_ARCHS={} says that none is wanted",
        names(&unknown),
        names(&known).replace(' ', ""),
    );
    Ok(known)
}

/// The output of nvcc for one argument.
fn output(nvcc: &nvcc::Nvcc, argument: &str) -> Result<String, String> {
    let mut command = std::process::Command::new(&nvcc.path);
    flags::Flags::default().give(&mut command);
    let output = command.arg(argument).output();
    let output = output.map_err(|error| format!("can't run {}: {error}", nvcc.path.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_images(
    out: &Path,
    images: &[units::Image],
    devices: &[archs::Arch],
    nvcc: Option<&nvcc::Nvcc>,
) -> Result<(), String> {
    let mut rows = String::new();
    for image in images {
        let name = format!("{}.fatbin", image.name);
        let bytes = fs::read(&image.fatbin)
            .map_err(|error| format!("can't read {}: {error}", image.fatbin.display()))?;
        write_if_changed(&out.join(&name), &bytes)?;
        let unit = &image.name;
        let _ = writeln!(
            rows,
            "    Image {{ unit: {unit:?}, bytes: include_bytes!({name:?}) }},"
        );
    }
    let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let toolkit = nvcc.map_or_else(
        || "None".to_owned(),
        |nvcc| {
            let driver = nvcc::oldest_driver(nvcc.release.0);
            format!(
                "Some(Toolkit {{ nvcc: {:?}, driver: {driver:?} }})",
                nvcc.release
            )
        },
    );
    let source = format!(
        "pub(crate) static IMAGES: &[Image] = &[\n{rows}];\n\
         pub(crate) static ARCHITECTURES: &[&str] = &{devices:?};\n\
         pub(crate) static TOOLKIT: Option<Toolkit> = {toolkit};\n"
    );
    write_if_changed(&out.join("images.rs"), source.as_bytes())
}

/// An unchanged file keeps its date, so results made from it stay up to date.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|error| format!("can't write {}: {error}", path.display()))
}
