//! Results of good files.

use safetensors::{Dtype, SafeTensors};

use super::layer_file::LayerFile;
use super::{IN, OUT, RANK, TOKENS, assert_status, fixture, folder, replay, stdout, written};

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
        assert!(
            row("dx").ends_with("f64 reference"),
            "the file holds no dx:\n{text}"
        );
    }
}

#[test]
fn the_device_is_named_and_an_emulated_one_is_called_that() {
    let folder = folder("device");
    let output = replay(&written(&folder, &LayerFile::good().bytes()), &[]);
    assert_status(&output, 0);
    let text = stdout(&output);
    let device = text
        .lines()
        .find(|line| line.starts_with("device "))
        .unwrap_or_default();
    assert_eq!(
        device.to_lowercase().contains("emulated"),
        crate::common::emulated(),
        "{text}"
    );
}

#[test]
fn narrow_files_run_in_their_own_type() {
    let folder = folder("narrow");
    for (dtype, name) in [(Dtype::BF16, "bf16"), (Dtype::F16, "f16")] {
        let output = replay(
            &written(&folder, &LayerFile::good().converted(dtype).bytes()),
            &[],
        );
        assert_status(&output, 0);
        assert!(
            stdout(&output).contains(&format!("__{name}__")),
            "{}",
            stdout(&output)
        );
    }
}

#[test]
fn without_dy_and_bias_there_is_a_forward_only() {
    let folder = folder("forward_only");
    let output = replay(
        &written(
            &folder,
            &LayerFile::good().without("dy").without("bias").bytes(),
        ),
        &[],
    );
    assert_status(&output, 0);
    let text = stdout(&output);
    assert!(
        text.contains("2 launches") && !text.contains("d_lora_A"),
        "{text}"
    );
}

#[test]
fn a_wrong_recorded_result_gives_status_1() {
    let folder = folder("wrong_result");
    let output = replay(
        &written(
            &folder,
            &LayerFile::good().with("dx", &[TOKENS, IN]).bytes(),
        ),
        &[],
    );
    assert_status(&output, 1);
    let beyond: Vec<_> = stdout(&output)
        .lines()
        .filter(|line| line.contains("BEYOND"))
        .map(str::to_owned)
        .collect();
    assert!(
        beyond.len() == 1 && beyond[0].starts_with("dx"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn out_holds_the_results_in_the_type_of_the_run() {
    let folder = folder("out");
    let out = folder.join("results.safetensors");
    std::fs::write(&out, "an older file").unwrap();
    let case = written(&folder, &LayerFile::good().bytes());
    for (name, dtype) in [
        ("f32", Dtype::F32),
        ("bf16", Dtype::BF16),
        ("f16", Dtype::F16),
    ] {
        assert_status(
            &replay(&case, &["--dtype", name, "--out", out.to_str().unwrap()]),
            0,
        );
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
            assert_eq!(
                (tensor.dtype(), tensor.shape()),
                (dtype, &shape[..]),
                "{name}"
            );
            assert!(
                tensor.data().iter().any(|&byte| byte != 0),
                "{name} is all zeros"
            );
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
    for case in [
        LayerFile::good(),
        LayerFile::good().times("dy", 2f32.powi(-30)),
    ] {
        for dtype in ["f32", "bf16", "f16"] {
            let arguments = ["--dtype", dtype, "--out", out.to_str().unwrap()];
            assert_status(&replay(&written(&folder, &case.bytes()), &arguments), 0);
            let bytes = std::fs::read(&out).unwrap();
            let results = SafeTensors::deserialize(&bytes).unwrap();
            let names = ["y", "dx", "d_lora_A", "d_lora_B"];
            let recorded = names.into_iter().fold(case.clone(), |case, name| {
                let tensor = results.tensor(name).unwrap();
                case.with_bytes(name, tensor.dtype(), tensor.shape(), tensor.data().to_vec())
            });
            let output = replay(&written(&folder, &recorded.bytes()), &["--dtype", dtype]);
            assert_status(&output, 0);
            let text = stdout(&output);
            assert_eq!(text.matches("recorded in the file").count(), 4, "{text}");
            assert_eq!(
                text.matches(" 0.00e0 ").count(),
                4,
                "the same numbers again:\n{text}"
            );
        }
    }
}
