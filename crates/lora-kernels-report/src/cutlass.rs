//! Counts the launches of CUTLASS's GEMM for sm_90. It is a program with a CUDA runtime in it
//! (`crates/lora-kernels-baselines/kernels/cutlass/layer.cu`), which `cargo xtask report` compiles.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lora_kernels::DType;
use ptx_emulator::counters::Counters;
use ptx_emulator::select::{Selection, emulated};

use crate::Outcome;
use crate::gpu::counted;
use crate::sizes::Sizes;
use lora_kernels_baselines::{LayerWork, PassWork};
use lora_kernels_report::document::{CUTLASS, CUTLASS_PLAIN, Counted, PeerKernel, Run};

pub struct Program<'a> {
    path: &'a Path,
    folder: tempfile::TempDir,
}

impl<'a> Program<'a> {
    /// A program that finds the emulated driver under the name that it looks for.
    pub fn new(path: &'a Path) -> Outcome<Self> {
        let Selection::Emulated { path: driver } = emulated()? else {
            return Err("the driver is not the emulated one".into());
        };
        let folder = tempfile::tempdir()?;
        std::fs::copy(driver, folder.path().join("libcuda.so.1"))?;
        Ok(Self { path, folder })
    }

    fn run(&self, words: &[String]) -> Outcome<Output> {
        let mut command = Command::new(self.path);
        command
            .args(words)
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("PTX_EMULATOR_COUNTERS", self.counters());
        let output = command.output()?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {}: {said}", self.path.display(), words.join(" ")).into())
    }

    fn counters(&self) -> PathBuf {
        self.folder.path().join("counters.json")
    }

    /// The program's kernels.
    pub fn kernels(&self) -> Outcome<Vec<PeerKernel>> {
        let text = String::from_utf8(self.run(&[])?.stdout)?;
        let kernels = text.lines().map(|line| -> Outcome<PeerKernel> {
            let words: Vec<&str> = line.split(' ').collect();
            let [symbol, threads, dynamic_shared, stages] = words.as_slice() else {
                return Err(format!("{line:?} is no kernel").into());
            };
            Ok(PeerKernel {
                symbol: (*symbol).to_owned(),
                threads: threads.parse()?,
                dynamic_shared: dynamic_shared.parse()?,
                stages: stages.parse()?,
            })
        });
        kernels.collect()
    }

    /// The product with the weight alone, and forward and backward in launches of their own for the
    /// adapter, without dropout, by grids for so many multiprocessors. All numbers are zero.
    pub fn runs(&self, sizes: Sizes, multiprocessors: u32) -> Outcome<Vec<Run>> {
        let dtype = DType::BF16;
        let work = LayerWork::of(&sizes.problem(dtype)?);
        let (m, n, k) = (sizes.tokens, sizes.out_features, sizes.in_features);
        let plain_bytes = (dtype.size() * (m * k + n * k + m * n)) as u64;
        let mut runs = Vec::new();
        let plain = PassWork {
            flops: work.base_flops,
            bytes: plain_bytes,
        };
        for (who, word, pass, asked) in [
            (CUTLASS_PLAIN, "plain", "forward", plain),
            (CUTLASS, "forward", "forward", work.forward),
            (CUTLASS, "backward", "backward", work.backward),
        ] {
            let numbers = [
                sizes.tokens,
                sizes.in_features,
                sizes.out_features,
                sizes.rank,
                multiprocessors as usize,
            ];
            let mut words = vec![word.to_owned()];
            words.extend(numbers.map(|number| number.to_string()));
            runs.push(Run {
                who: who.to_owned(),
                shape: sizes.shape(dtype),
                multiprocessors: Some(multiprocessors),
                pass: pass.to_owned(),
                launches: self.count(&words)?,
                algorithm_flops: asked.flops,
                base_flops: work.base_flops,
                compulsory_bytes: asked.bytes,
            });
        }
        Ok(runs)
    }

    fn count(&self, words: &[String]) -> Outcome<Vec<Counted>> {
        self.run(words)?;
        let counters: Counters = serde_json::from_slice(&std::fs::read(self.counters())?)?;
        Ok(counters.kernels.iter().map(counted).collect())
    }
}
