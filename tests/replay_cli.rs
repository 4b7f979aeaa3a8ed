//! The replay example as its users meet it: exit status, output and messages, on good files and on broken ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::{bf16, f16};
use lora_kernels_emulator::select::{Selection, select};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

const TOKENS: usize = 5;
const IN: usize = 24;
const OUT: usize = 17;
const RANK: usize = 3;

/// A safetensors file to be.
#[derive(Clone)]
struct Case {
    tensors: Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl Case {
    /// A small layer with everything but recorded results.
    fn good() -> Self {
        let metadata = HashMap::from([("scaling".to_owned(), "1.5".to_owned())]);
        Self {
            tensors: Vec::new(),
            metadata,
        }
        .with("x", &[TOKENS, IN])
        .with("weight", &[OUT, IN])
        .with("bias", &[OUT])
        .with("lora_A", &[RANK, IN])
        .with("lora_B", &[OUT, RANK])
        .with("dy", &[TOKENS, OUT])
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(other, ..)| *other != name);
        self
    }

    /// The tensor with this shape and numbers of its own.
    fn with(self, name: &'static str, shape: &[usize]) -> Self {
        let seed = name.bytes().map(usize::from).sum::<usize>();
        let numbers = |i| ((i * 7919 + seed * 977) % 2003) as f32 / 1001.0 - 1.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(numbers).collect();
        self.with_values(name, shape, &values)
    }

    fn with_values(self, name: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.with_bytes(name, Dtype::F32, shape, bytes)
    }

    fn with_bytes(self, name: &'static str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        let mut case = self.without(name);
        case.tensors.push((name, dtype, shape.to_vec(), bytes));
        case
    }

    /// With the first element of a tensor replaced.
    fn with_first(self, name: &'static str, value: f32) -> Self {
        let (_, _, shape, mut bytes) = self.tensors.iter().find(|(other, ..)| *other == name).unwrap().clone();
        bytes[..4].copy_from_slice(&value.to_le_bytes());
        self.with_bytes(name, Dtype::F32, &shape, bytes)
    }

    fn with_scaling(mut self, scaling: &str) -> Self {
        self.metadata.insert("scaling".to_owned(), scaling.to_owned());
        self
    }

    /// All tensors converted from f32.
    fn converted(mut self, to: Dtype) -> Self {
        for (_, dtype, _, bytes) in &mut self.tensors {
            *dtype = to;
            let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            *bytes = values
                .flat_map(|value| match to {
                    Dtype::BF16 => bf16::from_f32(value).to_le_bytes(),
                    _ => f16::from_f32(value).to_le_bytes(),
                })
                .collect();
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let view = |(name, dtype, shape, bytes): &'_ (&'static str, Dtype, Vec<usize>, Vec<u8>)| {
            (*name, *dtype, shape.clone(), bytes.clone())
        };
        let tensors: Vec<_> = self.tensors.iter().map(view).collect();
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }
}

/// An empty folder that belongs to one test.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("replay_cli").join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("case.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn replay(case: &Path, arguments: &[&str]) -> Output {
    // Cargo builds tests into target/<profile>/deps and examples into target/<profile>/examples.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join("replay");
    assert!(
        program.is_file(),
        "{} is missing: build it with `cargo build --example replay`",
        program.display()
    );
    Command::new(program).arg(case).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "stdout:\n{}\nstderr:\n{stderr}",
        stdout(output)
    );
}

/// Exit status 2, and one line on stderr that holds all of `fragments`.
#[track_caller]
fn assert_refused(output: &Output, fragments: &[&str]) {
    assert_status(output, 2);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "`{fragment}` is not in: {stderr}");
    }
}

#[test]
fn a_recorded_layer_is_within_bounds_in_every_type() {
    let case = fixture("encoder.layer.0.attention.self.query.safetensors");
    for arguments in [&[][..], &["--dtype", "bf16"], &["--dtype", "f16"]] {
        let output = replay(&case, arguments);
        assert_status(&output, 0);
        let text = stdout(&output);
        let dtype = arguments.last().unwrap_or(&"f32");
        for fragment in [
            "encoder.layer.0.attention.self.query",
            "5 launches",
            &format!("lora_forward__sm80__{dtype}__"),
        ] {
            assert!(text.contains(fragment), "`{fragment}` is not in:\n{text}");
        }
        let row = |name: &str| {
            text.lines()
                .find(|line| line.split_whitespace().next() == Some(name))
                .unwrap_or_default()
        };
        for recorded in ["y", "d_lora_A", "d_lora_B"] {
            assert!(row(recorded).ends_with("recorded in the file"), "{text}");
        }
        assert!(row("dx").ends_with("f64 reference"), "the file holds no dx:\n{text}");
    }
}

#[test]
fn the_device_is_named_and_an_emulated_one_is_called_that() {
    let folder = folder("device");
    let output = replay(&written(&folder, &Case::good().bytes()), &[]);
    assert_status(&output, 0);
    let text = stdout(&output);
    let device = text
        .lines()
        .find(|line| line.starts_with("device "))
        .unwrap_or_default();
    let emulated = matches!(select().unwrap(), Selection::Emulated { .. });
    assert_eq!(device.to_lowercase().contains("emulated"), emulated, "{text}");
}

#[test]
fn narrow_files_run_in_their_own_type() {
    let folder = folder("narrow");
    for (dtype, name) in [(Dtype::BF16, "bf16"), (Dtype::F16, "f16")] {
        let output = replay(&written(&folder, &Case::good().converted(dtype).bytes()), &[]);
        assert_status(&output, 0);
        assert!(stdout(&output).contains(&format!("__{name}__")), "{}", stdout(&output));
    }
}

#[test]
fn without_dy_and_bias_there_is_a_forward_only() {
    let folder = folder("forward_only");
    let output = replay(
        &written(&folder, &Case::good().without("dy").without("bias").bytes()),
        &[],
    );
    assert_status(&output, 0);
    let text = stdout(&output);
    assert!(text.contains("2 launches") && !text.contains("d_lora_A"), "{text}");
}

#[test]
fn a_wrong_recorded_result_gives_status_1() {
    let folder = folder("wrong_result");
    let output = replay(&written(&folder, &Case::good().with("dx", &[TOKENS, IN]).bytes()), &[]);
    assert_status(&output, 1);
    let beyond: Vec<_> = stdout(&output)
        .lines()
        .filter(|line| line.contains("BEYOND"))
        .map(str::to_owned)
        .collect();
    assert!(beyond.len() == 1 && beyond[0].starts_with("dx"), "{}", stdout(&output));
}

#[test]
fn out_holds_the_results_in_the_type_of_the_run() {
    let folder = folder("out");
    let out = folder.join("results.safetensors");
    std::fs::write(&out, "an older file").unwrap();
    let case = written(&folder, &Case::good().bytes());
    for (name, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::BF16), ("f16", Dtype::F16)] {
        assert_status(&replay(&case, &["--dtype", name, "--out", out.to_str().unwrap()]), 0);
        let bytes = std::fs::read(&out).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let shapes = [
            ("y", [TOKENS, OUT]),
            ("dx", [TOKENS, IN]),
            ("d_lora_A", [RANK, IN]),
            ("d_lora_B", [OUT, RANK]),
        ];
        assert_eq!(tensors.len(), shapes.len());
        for (name, shape) in shapes {
            let tensor = tensors.tensor(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &shape[..]), "{name}");
            assert!(tensor.data().iter().any(|&byte| byte != 0), "{name} is all zeros");
        }
    }
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["case.safetensors", "results.safetensors"],
        "nothing temporary is left"
    );
}

#[test]
fn what_out_holds_replays_as_recorded_results() {
    let folder = folder("round_trip");
    let out = folder.join("results.safetensors");
    let case = Case::good();
    assert_status(
        &replay(&written(&folder, &case.bytes()), &["--out", out.to_str().unwrap()]),
        0,
    );
    let bytes = std::fs::read(&out).unwrap();
    let results = SafeTensors::deserialize(&bytes).unwrap();
    let recorded = ["y", "dx", "d_lora_A", "d_lora_B"]
        .into_iter()
        .fold(case, |case, name| {
            let tensor = results.tensor(name).unwrap();
            case.with_bytes(name, Dtype::F32, tensor.shape(), tensor.data().to_vec())
        });
    let output = replay(&written(&folder, &recorded.bytes()), &[]);
    assert_status(&output, 0);
    assert_eq!(stdout(&output).matches("recorded in the file").count(), 4);
}

#[test]
fn each_defect_of_a_file_is_named_in_one_line() {
    let folder = folder("defects");
    let good = Case::good;
    let mut no_metadata = good();
    no_metadata.metadata.clear();
    let cases: Vec<(Case, &[&str])> = vec![
        (good().without("x"), &["tensor x is missing"]),
        (good().without("weight"), &["tensor weight is missing"]),
        (good().without("lora_A"), &["tensor lora_A is missing"]),
        (good().without("lora_B"), &["tensor lora_B is missing"]),
        (
            good().with("weight", &[OUT, IN + 1]),
            &["tensor weight is 17 x 25", "17 x 24"],
        ),
        (
            good().with("lora_A", &[RANK, IN - 1]),
            &["tensor lora_A is 3 x 23", "3 x 24"],
        ),
        (
            good().with("lora_B", &[OUT, RANK + 1]),
            &["tensor lora_B is 17 x 4", "17 x 3"],
        ),
        (
            good().with("lora_B", &[OUT + 1, RANK]),
            &["tensor lora_B is 18 x 3", "17 x 3"],
        ),
        (good().with("bias", &[OUT - 1]), &["tensor bias is 1 x 16", "1 x 17"]),
        (
            good().with("bias", &[1, OUT]),
            &["tensor bias has shape [1, 17]", "one dimension"],
        ),
        (good().with("dy", &[TOKENS, IN]), &["tensor dy is 5 x 24", "5 x 17"]),
        (good().with("y", &[TOKENS + 1, OUT]), &["tensor y is 6 x 17", "5 x 17"]),
        (good().with("dx", &[TOKENS, OUT]), &["tensor dx is 5 x 17", "5 x 24"]),
        (
            good().with("d_lora_A", &[IN, RANK]),
            &["tensor d_lora_A is 24 x 3", "3 x 24"],
        ),
        (
            good().with("d_lora_B", &[RANK, OUT]),
            &["tensor d_lora_B is 3 x 17", "17 x 3"],
        ),
        (
            good().with("x", &[1, TOKENS, IN]),
            &["tensor x has shape [1, 5, 24]", "two dimensions"],
        ),
        (
            good().with("x", &[0, IN]).with("dy", &[0, OUT]),
            &["tensor x has shape [0, 24]", "empty"],
        ),
        (
            good().with_bytes("weight", Dtype::F64, &[OUT, IN], vec![0; 8 * OUT * IN]),
            &["tensor weight is F64", "F32, F16 or BF16"],
        ),
        (
            good().with_bytes("y", Dtype::I32, &[TOKENS, OUT], vec![0; 4 * TOKENS * OUT]),
            &["tensor y is I32"],
        ),
        (good().with_first("x", f32::NAN), &["tensor x holds NaN at (0, 0)"]),
        (
            good().with_first("dy", f32::INFINITY),
            &["tensor dy holds inf at (0, 0)"],
        ),
        (no_metadata, &["no scaling"]),
        (good().with_scaling("NaN"), &["scaling is \"NaN\""]),
        (good().with_scaling("-inf"), &["scaling is \"-inf\""]),
        (good().with_scaling("1e39"), &["scaling is \"1e39\""]),
        (good().with_scaling("two"), &["scaling is \"two\""]),
        (good().with_scaling(""), &["scaling is \"\""]),
    ];
    for (case, fragments) in cases {
        let path = written(&folder, &case.bytes());
        let output = replay(&path, &[]);
        assert_refused(&output, fragments);
        assert_refused(&output, &[path.to_str().unwrap()]);
    }
}

#[test]
fn a_number_too_large_for_the_type_is_refused() {
    let folder = folder("too_large");
    let path = written(&folder, &Case::good().with_first("weight", 65520.0).bytes());
    assert_refused(
        &replay(&path, &["--dtype", "f16"]),
        &["tensor weight holds 65520 at (0, 0)", "too large for f16"],
    );
}

#[test]
fn what_is_no_safetensors_file_is_refused() {
    let folder = folder("no_safetensors");
    let good = Case::good().bytes();
    let garbage: Vec<u8> = (0..4096u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for bytes in [&b""[..], b"{}", &garbage, &good[..good.len() - 1], &good[..40]] {
        assert_refused(&replay(&written(&folder, bytes), &[]), &["is not a safetensors file"]);
    }
    assert_refused(
        &replay(&folder.join("absent.safetensors"), &[]),
        &["cannot read", "absent.safetensors"],
    );
    assert_refused(&replay(&folder, &[]), &["cannot read"]);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = folder("bad_out");
    let case = written(&folder, &Case::good().bytes());
    let before = std::fs::read(&case).unwrap();
    for out in [folder.join("absent/out.safetensors"), folder.clone(), case.clone()] {
        assert_refused(&replay(&case, &["--out", out.to_str().unwrap()]), &["cannot write"]);
    }
    assert_eq!(std::fs::read(&case).unwrap(), before);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn unknown_arguments_are_refused() {
    let folder = folder("arguments");
    let case = written(&folder, &Case::good().bytes());
    assert_status(&replay(&case, &["--dtype", "f64"]), 2);
    assert_status(&replay(&case, &["--output", "here"]), 2);
}
