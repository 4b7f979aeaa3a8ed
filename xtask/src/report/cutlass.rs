//! CUTLASS's GEMM for sm_90, compiled with our compiler and counted beside our kernels. Its headers
//! come from PyPI, so only the full form of the report has it: the committed figures stand for the
//! quick one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernels::{self, Compiled};
use super::{counting, list};
use crate::conformance::{self, CUTLASS_INCLUDES};
use crate::steps::{Failure, Session, describe};
use lora_kernels_build::nvcc::Nvcc;
use lora_kernels_report::document::{Cutlass, Kernel, PeerKernel, Run};

const SOURCE: &str = "crates/lora-kernels-baselines/kernels/cutlass/layer.cu";

/// What was found out about CUTLASS's kernels.
pub struct Peer {
    pub kernels: Vec<(Compiled, PeerKernel)>,
    pub runs: Vec<Run>,
}

/// Compiles the program, counts what it does with the counting program, and reads its code.
pub fn measure(session: &mut Session, nvcc: &Nvcc, counter: &Path) -> Result<Peer, Failure> {
    let program = compile(session, nvcc)?;
    let mut count = counting(counter, "h100");
    count.arg("--cutlass").arg(&program);
    let text = session.capture(count)?;
    let counted: Cutlass = serde_json::from_str(&text)
        .map_err(|error| format!("can't read what was counted of CUTLASS: {error}"))?;
    let hosts: Vec<Kernel> = counted.kernels.iter().map(host).collect();
    let sass = list(session, nvcc, &program, "-sass", None)?;
    let usage = list(session, nvcc, &program, "-res-usage", None)?;
    let compiled = kernels::compiled(&sass, &usage, &hosts)?;
    let kernels = compiled.into_iter().filter_map(|kernel| {
        let peer = counted
            .kernels
            .iter()
            .find(|peer| peer.symbol == kernel.resources.symbol)?;
        Some((kernel, peer.clone()))
    });
    Ok(Peer {
        kernels: kernels.collect(),
        runs: counted.runs,
    })
}

fn host(kernel: &PeerKernel) -> Kernel {
    Kernel {
        symbol: kernel.symbol.clone(),
        threads: kernel.threads,
        dynamic_shared: kernel.dynamic_shared,
    }
}

/// Compiles the program, unless the one that is there is of the same source, compiler and
/// arguments.
fn compile(session: &mut Session, nvcc: &Nvcc) -> Result<PathBuf, Failure> {
    let packages = conformance::folder(session);
    let source = conformance::cutlass_source(session, &packages)?;
    let folder = session.target().join("report");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("can't make {}: {error}", folder.display()))?;
    let program = folder.join("cutlass_layer");
    let mut compiler = Command::new(&nvcc.path);
    // With CUTLASS's assertions, which call a function, ptxas would serialise its wgmma (C7510).
    compiler.args("-O3 -DNDEBUG -std=c++17 --expt-relaxed-constexpr --disable-warnings".split(' '));
    compiler.args("-gencode arch=compute_90a,code=[sm_90a,compute_90a] --cudart none".split(' '));
    for include in CUTLASS_INCLUDES {
        compiler.arg("-I").arg(source.join(include));
    }
    compiler.arg("-o").arg(&program).arg(SOURCE);
    compiler
        .args(conformance::runtime_sources(session)?)
        .arg("-ldl");
    compiler.current_dir(session.root());

    let text = fs::read_to_string(session.root().join(SOURCE))
        .map_err(|error| format!("can't read {SOURCE}: {error}"))?;
    let made_from = format!("{}\n{}\n{text}", nvcc.version, describe(&compiler));
    let stamp = program.with_extension("made-from");
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == made_from) {
        return Ok(program);
    }
    session.run(compiler)?;
    fs::write(&stamp, made_from)
        .map_err(|error| format!("can't write {}: {error}", stamp.display()))?;
    Ok(program)
}
