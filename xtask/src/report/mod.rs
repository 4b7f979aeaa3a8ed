//! docs/report.md and docs/report.json: what the kernels cost, as far as that is known without a
//! GPU, compared with the goals.

mod bound;
mod chart;
mod cutlass;
mod decode;
mod figures;
mod flow;
mod goals;
mod hopper;
mod hopper_tables;
mod kernels;
mod loops;
mod markdown;
mod peers;
mod resources;
mod sass;
mod store;
mod wgmma;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::steps::{Failure, Session};
use crate::toolchain;
use kernels::Compiled;
use lora_kernels_build::nvcc::Nvcc;
use lora_kernels_build::ptxas::Remark;
use lora_kernels_build::table;
use lora_kernels_report::document::Document;
use store::Report;

const PACKAGE: &str = "lora-kernels-report";
const JSON: &str = "docs/report.json";
const MARKDOWN: &str = "docs/report.md";
const CHART: &str = "docs/report.svg";

/// The quick form looks only at the machine code for these architectures.
const QUICK_ARCHS: [&str; 2] = ["80", "90a"];

pub fn report(session: &mut Session, check: bool) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let built = build(session)?;
    let mut document = measure(session, &built.program, check)?;
    let kernels = disassemble(session, &nvcc, &built.images, check, &document)?;
    let demands = bound::measure(session, &built.program, check)?;
    let mut cutlass = Vec::new();
    if !check {
        let peer = cutlass::measure(session, &nvcc, &built.program)?;
        document.runs.extend(peer.runs);
        cutlass = peer.kernels;
    }
    let mut figures = figures::figures(&document);
    figures.extend(bound::figures(&demands));
    figures.extend(decode::figures(&demands));
    let mut goals = goals::goals(&kernels, &built.units, &built.remarks, &document);
    goals.extend(bound::goals(&demands));
    goals.extend(decode::goals(&demands));
    let report = Report {
        nvcc: version(&nvcc),
        kernels: &kernels,
        cutlass: &cutlass,
        figures: &figures,
        goals: &goals,
    };
    if check {
        return compare(session, &report);
    }
    write(session, JSON, &report.to_json())?;
    let chart = chart::svg(&demands).map_err(|error| format!("can't draw {CHART}: {error}"))?;
    write(session, CHART, &chart)?;
    let text = markdown::markdown(&report, &document, &demands, &stages(session)?);
    write(session, MARKDOWN, &text)
}

/// The number of stages of our kernels, by symbol.
fn stages(session: &Session) -> Result<Vec<(String, u32)>, Failure> {
    let path = session.root().join(table::PATH);
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("can't read {}: {error}", path.display()))?;
    Ok(table::parse(&text)?.stages())
}

fn write(session: &Session, file: &str, text: &str) -> Result<(), Failure> {
    let path = session.root().join(file);
    fs::write(&path, text).map_err(|error| format!("can't write {}: {error}", path.display()))?;
    eprintln!("wrote {file}");
    Ok(())
}

fn compare(session: &Session, report: &Report<'_>) -> Result<(), Failure> {
    let path = session.root().join(JSON);
    let committed = fs::read_to_string(&path)
        .map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let worse = report
        .regressions(&committed, &QUICK_ARCHS)
        .map_err(|error| format!("can't compare with {JSON}: {error}"))?;
    if worse.is_empty() {
        eprintln!("no figure is worse than in {JSON}");
        return Ok(());
    }
    Err(format!(
        "worse than in {JSON}, or not in it; if it has to be, run `cargo xtask report` and commit what it writes:\n  {}",
        worse.join("\n  ")
    )
    .into())
}

struct Built {
    /// The counting program.
    program: PathBuf,
    /// The fatbins of the crate.
    images: Vec<PathBuf>,
    /// The names of the fatbins' units.
    units: Vec<String>,
    /// What nvcc said of them.
    remarks: Vec<Remark>,
}

fn build(session: &mut Session) -> Result<Built, Failure> {
    // The example, like tests, takes what only they depend on, and with it the features that
    // packages have in the tests' build. Alone, the program would compile the emulated GPU and the
    // core once more.
    let mut cargo = session.cargo(
        "build --workspace --example serve_batch --message-format json-render-diagnostics --bin",
    );
    cargo.arg(PACKAGE);
    let messages = session.capture(cargo)?;
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let text = |message: &Value, name: &str| Some(PathBuf::from(message.get(name)?.as_str()?));
    let program = messages
        .iter()
        .filter(|message| message.pointer("/target/name").and_then(Value::as_str) == Some(PACKAGE))
        .find_map(|message| text(message, "executable"))
        .ok_or(format!("cargo built no program {PACKAGE}"))?;
    let list = messages
        .iter()
        .filter_map(|message| text(message, "out_dir"))
        .map(|folder| folder.join("images.rs"))
        .find(|list| list.is_file())
        .ok_or("no build script of this workspace wrote an images.rs".to_owned())?;
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
    };
    let source = read(&list)?;
    let images = embedded(&source);
    let remarks = read(&list.with_file_name("remarks.txt"))?;
    Ok(Built {
        program,
        units: images
            .iter()
            .map(|name| name.trim_end_matches(".fatbin").to_owned())
            .collect(),
        images: images
            .into_iter()
            .map(|name| list.with_file_name(name))
            .collect(),
        remarks: remarks.lines().filter_map(Remark::from_line).collect(),
    })
}

/// The files that `images.rs` embeds. Other files in its folder may be from earlier builds.
fn embedded(source: &str) -> Vec<&str> {
    let names = source.split("include_bytes!(\"").skip(1);
    names
        .filter_map(|rest| Some(rest.split_once('"')?.0))
        .collect()
}

fn measure(session: &mut Session, program: &Path, quick: bool) -> Result<Document, Failure> {
    // This virtual device has the largest limits.
    let mut command = counting(program, "h100");
    if quick {
        command.arg("--quick");
    }
    let text = session.capture(command)?;
    let document = serde_json::from_str(&text);
    document.map_err(|error| format!("can't read what {PACKAGE} printed: {error}").into())
}

/// The counting program on a virtual device. Rounding doesn't matter for counts, and the tests
/// check every launch.
fn counting(program: &Path, device: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PTX_EMULATOR_DEVICE", device);
    command.env("PTX_EMULATOR_NUMERICS", "f32fma");
    command.env("PTX_EMULATOR_CHECKS", "off");
    command
}

/// The version that nvcc prints as `V13.0.88`, without the V.
fn version(nvcc: &Nvcc) -> String {
    let mut words = nvcc.version.split([',', ' ', '\n']);
    let version = words.find_map(|word| {
        word.strip_prefix('V')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    version.map_or_else(
        || format!("{}.{}", nvcc.release.0, nvcc.release.1),
        str::to_owned,
    )
}

fn disassemble(
    session: &mut Session,
    nvcc: &Nvcc,
    images: &[PathBuf],
    quick: bool,
    document: &Document,
) -> Result<Vec<Compiled>, Failure> {
    let mut all = Vec::new();
    for image in images {
        let arch = quick.then(|| quick_arch(image));
        let sass = list(session, nvcc, image, "-sass", arch)?;
        let usage = list(session, nvcc, image, "-res-usage", arch)?;
        all.extend(kernels::compiled(&sass, &usage, &document.variants)?);
    }
    if let Some(missing) = document.variants.iter().find(|variant| {
        !all.iter()
            .any(|kernel| kernel.resources.symbol == variant.symbol)
    }) {
        return Err(format!(
            "no image holds machine code of {}{}: see LORA_KERNELS_CUDA_ARCHS",
            missing.symbol,
            if quick {
                format!(" for any of sm_{}", QUICK_ARCHS.join(", sm_"))
            } else {
                String::new()
            }
        )
        .into());
    }
    all.sort_by_cached_key(|kernel| {
        (
            resources::number(&kernel.resources.arch),
            kernel.resources.symbol.clone(),
        )
    });
    Ok(all)
}

/// What cuobjdump says of an image or a program: of all its code, or of that for one architecture.
fn list(
    session: &mut Session,
    nvcc: &Nvcc,
    image: &Path,
    what: &str,
    arch: Option<&str>,
) -> Result<String, Failure> {
    let cuobjdump = nvcc
        .path
        .with_file_name("cuobjdump")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !cuobjdump.is_file() {
        return Err(format!(
            "there is no {}: install the CUDA toolkit's cuobjdump and nvdisasm, or unset NVCC and CUDA_HOME and run `cargo xtask setup`",
            cuobjdump.display()
        )
        .into());
    }
    let mut command = Command::new(&cuobjdump);
    command.arg(what).arg(image);
    if let Some(arch) = arch {
        command.args(["-arch".to_owned(), format!("sm_{arch}")]);
    }
    session.capture(command)
}

/// The one of [`QUICK_ARCHS`] that an image has machine code for: a unit's name says which
/// architecture its kernels are written for, as in `forward__sm90a__bf16`.
fn quick_arch(image: &Path) -> &'static str {
    let name = image.file_stem().unwrap_or_default().to_string_lossy();
    let of_unit = QUICK_ARCHS
        .into_iter()
        .find(|arch| name.split("__").any(|part| part == format!("sm{arch}")));
    of_unit.unwrap_or(QUICK_ARCHS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_of_an_image() {
        let of = |name: &str| quick_arch(Path::new(name));
        assert_eq!(of("out/forward__sm90a__bf16.fatbin"), "90a");
        assert_eq!(of("out/forward__sm80__bf16.fatbin"), "80");
        assert_eq!(of("out/layout_check.fatbin"), "80");
    }

    #[test]
    fn embedded_images() {
        let source = "IMAGES: &[(&str, &[u8])] = &[\n    (\"a\", include_bytes!(\"a.fatbin\")),\n    (\"b\", include_bytes!(\"b.fatbin\")),\n];\n";
        assert_eq!(embedded(source), ["a.fatbin", "b.fatbin"]);
    }

    #[test]
    fn the_whole_version_of_nvcc() {
        let nvcc = Nvcc {
            path: PathBuf::new(),
            release: (13, 0),
            version:
                "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0"
                    .to_owned(),
        };
        assert_eq!(version(&nvcc), "13.0.88");
    }
}
