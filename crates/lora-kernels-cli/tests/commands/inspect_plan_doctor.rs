//! Tests of `inspect`, `plan` and `doctor`, and of behaviour that all commands share.

use std::path::Path;
use std::process::Output;

use crate::common::{assert_refused, assert_status, lora_kernels, stdout, without_driver};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    lora_kernels().args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert_status(&output, 0);
    serde_json::from_str(&stdout(&output)).unwrap()
}

const PATTERNS: &str = "../lora-kernels-adapters/tests/fixtures/patterns";

#[test]
fn help_teaches_every_command() {
    let help = stdout(&run(&["--help"]));
    for word in [
        "merge",
        "unmerge",
        "inspect",
        "plan",
        "doctor",
        "replay",
        "Examples:",
        "Exit status:",
        "130",
    ] {
        assert!(help.contains(word), "`{word}` is not in:\n{help}");
    }
    for command in ["merge", "unmerge", "inspect", "plan", "replay"] {
        let help = stdout(&run(&[command, "--help"]));
        assert!(help.contains("Example"), "{help}");
    }
    assert_status(&run(&["--version"]), 0);
    assert_status(&run(&[]), 2);
}

#[test]
fn inspect_shows_what_peft_saved() {
    let document = json(&["inspect", PATTERNS, "--json"]);
    assert_eq!(document["format"], "PEFT");
    assert_eq!(document["config"]["rank_pattern"]["k"], 2);
    let modules = document["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 6);
    assert_eq!(
        (&modules[1]["path"], &modules[1]["rank"]),
        (&"blocks.0.attn.q".into(), &5.into())
    );
    // ‖s·B·A‖, computed from B·A itself.
    let adapter =
        lora_kernels_adapters::Adapter::read(Path::new(PATTERNS), &Default::default()).unwrap();
    for (module, shown) in adapter.modules().zip(modules) {
        let values = |bytes: &[u8]| -> Vec<f64> {
            bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect()
        };
        let (a, b, r, k) = (
            values(&module.a.read().unwrap()),
            values(&module.b.read().unwrap()),
            module.rank,
            module.in_features,
        );
        let mut squares = 0.0;
        for n in 0..module.out_features {
            for k_at in 0..k {
                let delta: f64 = (0..r).map(|i| b[n * r + i] * a[i * k + k_at]).sum();
                squares += (f64::from(module.scaling) * delta).powi(2);
            }
        }
        let norm = shown["norm_delta"].as_f64().unwrap();
        assert!(
            (norm / squares.sqrt() - 1.0).abs() < 1e-10,
            "{norm} {}",
            squares.sqrt()
        );
    }
    let text = stdout(&run(&["inspect", PATTERNS]));
    for word in ["rsLoRA", "blocks.1.attn.v", "|s·B·A|", "6 modules"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn inspect_names_what_is_beside_lora() {
    let dora = stdout(&run(&[
        "inspect",
        "../lora-kernels-adapters/tests/fixtures/dora",
    ]));
    assert!(
        dora.contains("embedding") && dora.contains("DoRA") && !dora.contains("can't be merged"),
        "{dora}"
    );
    let bias = json(&[
        "inspect",
        "../lora-kernels-adapters/tests/fixtures/lora_bias",
        "--json",
        "--no-norms",
    ]);
    assert_eq!(bias["saved"][1]["name"], "classifier.weight");
    assert_eq!(bias["modules"][0]["bias"], true);
    assert!(bias["modules"][0].get("norm_a").is_none());
    let loralib = json(&[
        "inspect",
        "../lora-kernels-adapters/tests/fixtures/loralib.safetensors",
        "--alpha",
        "5",
        "--json",
    ]);
    assert_eq!(
        (&loralib["format"], &loralib["modules"][2]["scaling"]),
        (&"loralib".into(), &2.5.into())
    );
    assert_refused(&run(&["inspect", "absent"]), 2, &["absent"]);
}

#[test]
fn plan_needs_no_device_for_a_named_one() {
    let layer = [
        "plan",
        "-m",
        "192",
        "-k",
        "384",
        "-n",
        "1536,384",
        "-r",
        "8,0",
        "--bias",
        "--dropout",
    ];
    for gpu in [
        "a100", "rtx3090", "rtx4090", "l40s", "h100", "b200", "rtx5090",
    ] {
        let output = without_driver()
            .args(layer)
            .args(["--on", gpu])
            .output()
            .unwrap();
        assert_status(&output, 0);
        let text = stdout(&output);
        for word in [
            gpu,
            "forward of tokens 192",
            "backward of",
            "lora_shrink__",
            "dropout",
        ] {
            assert!(text.contains(word), "`{word}` is not in:\n{text}");
        }
    }
    let document = json(&[
        "plan", "-k", "384", "-n", "1536", "-r", "8,3", "--what", "merge", "--on", "h100", "--json",
    ]);
    assert_eq!(document["device"]["compute_capability"], "9.0");
    assert_eq!(document["plans"][0]["operation"], "merge");
    assert_eq!(
        document["plans"][0]["launches"].as_array().unwrap().len(),
        2
    );
    let inference = json(&[
        "plan",
        "-m",
        "8",
        "-k",
        "384",
        "-n",
        "1536,384",
        "-r",
        "8,0",
        "--inference",
        "--slots",
        "100",
        "--per-row",
        "2",
        "--on",
        "a100",
        "--json",
    ]);
    let plans = inference["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 1, "no backward");
    assert_eq!(plans[0]["launches"].as_array().unwrap().len(), 1);
    assert_eq!(plans[0]["saved_bytes"], 0);
    assert!(plans[0]["flags_bytes"].as_u64().unwrap() > 0, "{inference}");
    let problem = plans[0]["problem"].as_str().unwrap();
    assert!(
        problem.contains("2 of 100 adapters per row, inference"),
        "{problem}"
    );
    assert_refused(
        &run(&[
            "plan",
            "-k",
            "4",
            "-n",
            "4",
            "-r",
            "1",
            "--inference",
            "--slots",
            "9",
            "--per-row",
            "5",
            "--on",
            "h100",
        ]),
        2,
        &["5 adapters per row"],
    );
    assert_status(
        &run(&[
            "plan",
            "-k",
            "4",
            "-n",
            "4",
            "-r",
            "1",
            "--per-row",
            "2",
            "--on",
            "h100",
        ]),
        2,
    );
    assert_refused(
        &run(&["plan", "-k", "4", "-n", "4", "-r", "1", "--on", "tpu"]),
        2,
        &["tpu", "a100", "rtx5090"],
    );
    assert_refused(
        &run(&["plan", "-k", "0", "-n", "4", "-r", "1", "--on", "h100"]),
        2,
        &["in_features is 0"],
    );
    assert_refused(
        &run(&[
            "plan", "-k", "4", "-n", "4,4", "-r", "1,2,3", "--on", "h100",
        ]),
        2,
        &["--rank has 3"],
    );
}

#[test]
fn plan_and_doctor_find_the_device_that_is_there() {
    let document = json(&["plan", "-k", "384", "-n", "1536", "-r", "8", "--json"]);
    let name = document["device"]["name"].as_str().unwrap().to_owned();
    assert_eq!(
        name.to_lowercase().contains("emulated"),
        crate::common::emulated(),
        "{name}"
    );
    let findings = json(&["doctor", "--json"]);
    assert_eq!(
        (&findings["driver"], &findings["usable"]),
        (&true.into(), &true.into())
    );
    assert_eq!(findings["devices"][0]["name"], name.as_str());
    assert!(
        findings["cuda"].as_str().unwrap().contains('.')
            && !findings["architectures"].as_array().unwrap().is_empty()
    );
    let text = stdout(&run(&["doctor"]));
    assert!(
        text.contains("will be used") && text.contains(&name),
        "{text}"
    );
}

#[test]
fn doctor_says_what_is_missing() {
    if !crate::common::emulated() {
        // On a machine with a driver, the loader finds it on its default path.
        return;
    }
    let output = without_driver().arg("doctor").output().unwrap();
    assert_status(&output, 3);
    assert!(
        stdout(&output).contains("install the NVIDIA driver"),
        "{}",
        stdout(&output)
    );
    let output = without_driver()
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    assert_status(&output, 3);
    let findings: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&findings["driver"], &findings["usable"]),
        (&false.into(), &false.into())
    );
    assert_refused(
        &without_driver()
            .args(["plan", "-k", "4", "-n", "4", "-r", "1"])
            .output()
            .unwrap(),
        3,
        &["no CUDA driver", "--on"],
    );
}

/// The commands know the nvcc that made their images, so a driver that is too old for these is told
/// which driver they need.
#[test]
fn an_older_driver_is_told_which_driver_the_kernels_need() {
    if !crate::common::emulated() {
        return;
    }
    let usual = json(&["doctor", "--json"]);
    let nvcc = usual["nvcc"].as_str().unwrap();
    let needed = usual["oldest_driver"].as_u64().unwrap();
    let major: u32 = nvcc.split('.').next().unwrap().parse().unwrap();
    // Two major versions back, the release is too old for every nvcc that can build this.
    let output = lora_kernels()
        .arg("doctor")
        .env("PTX_EMULATOR_DRIVER_VERSION", "11080")
        .output()
        .unwrap();
    assert_status(&output, 3);
    let text = stdout(&output);
    assert!(major > 11, "{nvcc}");
    for part in [
        format!("images built by nvcc {nvcc} need driver {needed} or later"),
        "this driver supports up to CUDA 11.8".to_owned(),
        "update the driver".to_owned(),
    ] {
        assert!(text.contains(&part), "no `{part}` in:\n{text}");
    }
}

/// As in `lora-kernels inspect ... | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = lora_kernels()
        .args(["inspect", PATTERNS])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
