//! Checks which part of the product may know which: kernels know no host, plans and binding know no
//! CUDA, and only `raw` launches. The product doesn't know the emulated GPU, which doesn't know the
//! product.

use std::path::Path;

use super::{Finding, is_below};

/// Words that files in some folders must not contain.
struct Rule {
    folders: &'static [&'static str],
    /// Folders that are exempt.
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

/// The packages that are published, apart from the emulated GPU.
const PRODUCT: &[&str] = &[
    "src",
    "kernels",
    "build",
    "build.rs",
    "crates/lora-kernels-adapters/src",
    "crates/lora-kernels-build/src",
    "crates/lora-kernels-candle/src",
    "crates/lora-kernels-capi/src",
    "crates/lora-kernels-cases/src",
    "crates/lora-kernels-cli/src",
    "python/lora_kernels",
];

const RULES: [Rule; 5] = [
    Rule {
        folders: &["kernels"],
        except: &[],
        words: &[
            "<<<",
            "cudaMalloc",
            "cuda_runtime",
            "<iostream>",
            "<cstdio>",
            "<torch/",
            "<ATen/",
        ],
        why: "kernels/ is device code only: no host code and no framework's headers",
    },
    Rule {
        folders: &[
            "src/bind",
            "src/bind.rs",
            "src/dtype.rs",
            "src/formats.rs",
            "src/plan",
            "src/problem",
            "src/reference",
        ],
        except: &[],
        words: &[
            "cudarc",
            "libloading",
            "crate::raw",
            "crate::typed",
            "crate::layer",
        ],
        why: "problems, plans, binding and the reference know no CUDA and nobody above them",
    },
    Rule {
        folders: &["src/plan", "src/problem", "src/reference"],
        except: &[],
        words: &["crate::bind"],
        why: "binding stands on plans, and plans on problems; none of them looks back",
    },
    Rule {
        folders: PRODUCT,
        except: &["src/raw", "kernels"],
        words: &["cuLaunchKernel(", "cuLaunchKernelEx(", "launch_builder("],
        why: "src/raw is the only place that launches",
    },
    Rule {
        folders: PRODUCT,
        except: &[],
        words: &["ptx_emulator", "ptx-emulator", "PTX_EMULATOR"],
        why: "the product knows nothing of the emulated GPU, which is just another libcuda",
    },
];

/// The emulated GPU could be published tomorrow: its library depends on nothing here.
const EMULATOR: Rule = Rule {
    folders: &["crates/ptx-emulator/src", "crates/ptx-emulator/Cargo.toml"],
    except: &[],
    words: &["lora_kernels::", "lora-kernels = ", "lora-kernels-"],
    why: "the emulated GPU depends on nothing of this project",
};

/// The lines of a file that break a rule.
pub fn findings(file: &Path, text: &str) -> Vec<Finding> {
    let applies = |rule: &&Rule| {
        rule.folders.iter().any(|folder| is_below(file, folder))
            && !rule.except.iter().any(|folder| is_below(file, folder))
    };
    let rules: Vec<&Rule> = RULES.iter().chain([&EMULATOR]).filter(applies).collect();
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") || code.starts_with('#') && !code.starts_with("#include") {
            continue;
        }
        for rule in &rules {
            if let Some(word) = rule.words.iter().find(|word| code.contains(**word)) {
                found.push(Finding {
                    line: number + 1,
                    what: format!("{word}: {}", rule.why),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(file: &str, line: &str) -> bool {
        !findings(Path::new(file), line).is_empty()
    }

    #[test]
    fn each_direction_is_held() {
        for (file, line) in [
            ("kernels/gemm/gemm.cuh", "#include <torch/extension.h>"),
            ("kernels/gemm.cuh", "gemm<<<1, 2>>>();"),
            ("src/plan/gemm.rs", "use cudarc::driver::CudaSlice;"),
            ("src/plan/merge.rs", "use crate::bind::params::MergeTotals;"),
            ("src/bind/forward.rs", "use crate::raw::Pointer;"),
            ("src/reference/mod.rs", "use crate::typed::MatRef;"),
            (
                "src/typed/calls.rs",
                "unsafe { sys::cuLaunchKernel(function, 1) }",
            ),
            (
                "crates/lora-kernels-candle/src/graph.rs",
                "stream.launch_builder(&function)",
            ),
            ("src/layer/mod.rs", "use ptx_emulator::select::select;"),
            (
                "crates/lora-kernels-cli/src/device.rs",
                "env::var(\"PTX_EMULATOR_DEVICE\")",
            ),
            (
                "crates/ptx-emulator/src/lib.rs",
                "use lora_kernels::Problem;",
            ),
            (
                "crates/ptx-emulator/Cargo.toml",
                "lora-kernels = { path = \"../..\" }",
            ),
        ] {
            assert!(breaks(file, line), "{file}: {line}");
        }
    }

    #[test]
    fn the_other_directions_are_free() {
        for (file, line) in [
            (
                "src/raw/launch.rs",
                "unsafe { sys::cuLaunchKernelEx(&config, function) }",
            ),
            ("src/typed/calls.rs", "use crate::raw::ForwardArgs;"),
            ("src/plan/mod.rs", "// cudarc has no part in this"),
            (
                "tests/integration/main.rs",
                "use ptx_emulator::select::select;",
            ),
            (
                "crates/ptx-emulator/README.md",
                "lora-kernels-cli runs on it",
            ),
            ("kernels/dtype.cuh", "#include <cuda_fp16.h>"),
        ] {
            assert!(!breaks(file, line), "{file}: {line}");
        }
    }
}
