//! Inputs that are refused before anything is written.

use std::path::Path;

use lora_kernels_adapters::{DType, PeftConfig};

use super::model::{adapter, sharded, write};
use super::{command, fixture, folder, merge, names};
use crate::common::{assert_refused, assert_status, without_driver};

fn prepared(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let base = folder.join("base.safetensors");
    write(
        &base,
        DType::F32,
        &[("a.q.weight", &[5, 7]), ("a.k.weight", &[7, 7])],
    );
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    (
        base,
        adapter(
            &folder.join("adapter"),
            DType::F32,
            1,
            config,
            &[("a.q", 3, 7, 5)],
        ),
    )
}

#[test]
fn what_cannot_be_merged_is_named() {
    let folder = folder("unsupported");
    let (base, out) = (fixture("base"), folder.join("out"));
    let refused = |name: &str, fragments: &[&str]| {
        assert_refused(&merge(&base, &[&fixture(name)], &out, &[]), 2, fragments)
    };
    refused("loralib.safetensors", &["loralib", "--alpha or --scaling"]);
    refused("absent", &["absent"]);
    let unmerge = |name: &str| {
        command("unmerge", &base, &[&fixture(name)], &out)
            .output()
            .unwrap()
    };
    assert_refused(
        &unmerge("dora"),
        2,
        &["can't be unmerged", "DoRA", "blocks.0.attn.q"],
    );
    assert_refused(
        &unmerge("lora_bias"),
        2,
        &["can't be unmerged", "classifier.weight"],
    );
    let weighed = merge(&base, &[&fixture("bias_all")], &out, &["--weights", "0.5"]);
    assert_refused(&weighed, 2, &["trained whole", "0.5"]);
    let adapters = [&*fixture("bias_all"), &fixture("bias_lora_only")];
    let both = merge(&base, &adapters, &out, &["--fan-in-fan-out", "no"]);
    assert_refused(
        &both,
        2,
        &["more than one of the adapters", "blocks.0.attn.q.bias"],
    );
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    for (field, value, fragment) in [
        ("init_lora_weights", "\"pissa_niter_16\"", "pissa"),
        (
            "alora_invocation_tokens",
            "[1, 2]",
            "alora_invocation_tokens",
        ),
        ("layer_replication", "[[0, 2]]", "layer_replication"),
    ] {
        let config = config.with_field(field, value).unwrap();
        let adapter = adapter(
            &folder.join("variant"),
            DType::F32,
            1,
            config,
            &[("blocks.0.attn.q", 3, 12, 10)],
        );
        assert_refused(
            &merge(&base, &[&adapter], &out, &[]),
            2,
            &[fragment, "original model"],
        );
    }
    assert_eq!(names(&folder), ["variant"]);
}

#[test]
fn a_base_that_is_not_the_adapters_is_told() {
    let folder = folder("mismatch");
    let (base, _) = prepared(&folder);
    let out = folder.join("out.safetensors");
    let refused = |modules: &[(&str, usize, usize, usize)], fragments: &[&str]| {
        let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
        let adapter = adapter(&folder.join("other"), DType::F32, 1, config, modules);
        assert_refused(&merge(&base, &[&adapter], &out, &[]), 2, fragments);
    };
    refused(
        &[("b.q", 3, 7, 5)],
        &["b.q.weight is not in the base model", "a.q.weight"],
    );
    refused(
        &[("a.v", 3, 7, 5)],
        &["a.v.weight is not in the base model"],
    );
    refused(
        &[("a.q", 3, 8, 5)],
        &[
            "a.q.weight has shape [5, 7]",
            "5 out_features and 8 in_features",
        ],
    );
    write(&base, DType::F32, &[("a.q.weight", &[5, 7, 1])]);
    refused(&[("a.q", 3, 7, 5)], &["[5, 7, 1]"]);
    // A quantised weight.
    let quantised =
        safetensors::tensor::TensorView::new(safetensors::Dtype::I8, vec![5, 7], &[0; 35]).unwrap();
    safetensors::serialize_to_file([("a.q.weight", quantised)], None, &base).unwrap();
    refused(&[("a.q", 3, 7, 5)], &["a.q.weight", "I8", "quantised"]);
}

/// Names from a file are printed, and must not control the terminal.
#[test]
fn control_characters_in_names_are_escaped() {
    let folder = folder("control");
    let (base, _) = prepared(&folder);
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    let modules = [("a.\u{1b}[31m\n\u{7f}q", 3, 7, 5)];
    let adapter = adapter(&folder.join("other"), DType::F32, 1, config, &modules);
    let output = merge(&base, &[&adapter], &folder.join("out"), &[]);
    assert_refused(&output, 2, &["a.\\u{1b}[31m\\n\\u{7f}q.weight"]);
    let output = crate::common::lora_kernels()
        .args(["inspect", "--json"])
        .arg(&adapter)
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["modules"][0]["path"], modules[0].0);
    assert!(!crate::common::stdout(&output).contains('\u{7f}'));
    let output = crate::common::lora_kernels()
        .arg("inspect")
        .arg(&adapter)
        .output()
        .unwrap();
    assert_status(&output, 0);
    assert!(!crate::common::stdout(&output).contains('\u{1b}'));
}

#[test]
fn outputs_that_would_destroy_something_are_refused() {
    let folder = folder("outputs");
    let (base, adapter) = prepared(&folder);
    let model = folder.join("model");
    sharded(&model, DType::F32, &[&[("a.q.weight", &[5, 7])]]);
    let valuable = folder.join("valuable");
    std::fs::create_dir(&valuable).unwrap();
    std::fs::write(valuable.join("thesis.txt"), "").unwrap();
    let mixed = folder.join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    for name in ["thesis.txt", "model.safetensors"] {
        std::fs::write(mixed.join(name), "").unwrap();
    }
    std::os::unix::fs::symlink("model", folder.join("link")).unwrap();
    let existing = folder.join("existing.safetensors");
    std::fs::write(&existing, "").unwrap();
    let before = names(&folder);
    for (base, out, arguments, fragments) in [
        (
            &base,
            existing.clone(),
            &[][..],
            &["it exists", "--force"][..],
        ),
        (&base, base.clone(), &["--force"], &["BASE itself"]),
        (&model, model.clone(), &["--force"], &["BASE itself"]),
        (&model, folder.join("link"), &["--force"], &["a link"]),
        (&model, model.join("merged"), &[], &["inside of BASE"]),
        (&model, folder.clone(), &["--force"], &["lies there"]),
        (&model, adapter.clone(), &["--force"], &["lies there"]),
        (&model, valuable.clone(), &["--force"], &["without a model"]),
        (&model, mixed.clone(), &["--force"], &["without a model"]),
        (&model, existing.clone(), &["--force"], &["it is a file"]),
        (&base, valuable.clone(), &["--force"], &["it is a folder"]),
        (&base, folder.join("absent/out"), &[], &["absent"]),
    ] {
        assert_refused(&merge(base, &[&adapter], &out, arguments), 2, fragments);
    }
    assert_eq!(names(&folder), before);
    assert_eq!(names(&valuable), ["thesis.txt"]);
    assert_status(&merge(&base, &[&adapter], &existing, &["--force"]), 0);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let folder = folder("arguments");
    let (base, adapter) = prepared(&folder);
    let out = folder.join("out");
    for (arguments, fragments) in [
        (
            &["--weights", "1,2"][..],
            &["--weights has 2 numbers and there are 1"][..],
        ),
        (&["--weights", "0"], &["0 is no factor"]),
        (&["--weights", "nan"], &["NaN is no factor"]),
        (&["--weights", "1e300"], &["a.q", "in f32"]),
        (&["--scaling", "2"], &["--scaling and --alpha", "PEFT"]),
    ] {
        assert_refused(&merge(&base, &[&adapter], &out, arguments), 2, fragments);
    }
    for arguments in [
        &["--device", "gpu"][..],
        &["--alpha", "1", "--scaling", "1"],
        &["--weights", "x"],
    ] {
        assert_status(&merge(&base, &[&adapter], &out, arguments), 2);
    }
    assert_refused(
        &merge(&base, &[&adapter], &out, &["--device", "99"]),
        3,
        &["device 99"],
    );
    let nine: Vec<&Path> = vec![&adapter; 9];
    assert_refused(
        &merge(&base, &nine, &out, &[]),
        2,
        &["more than 8 adapters"],
    );
}

/// The CPU computes only when asked to, never as a fallback.
#[test]
fn without_a_driver_nothing_is_computed_unless_the_cpu_is_asked_for() {
    let folder = folder("no_driver");
    let (base, adapter) = prepared(&folder);
    let out = folder.join("out");
    let run = |arguments: &[&str]| {
        let mut command = without_driver();
        command
            .arg("merge")
            .args([&base, &adapter])
            .arg("-o")
            .arg(&out)
            .args(arguments)
            .output()
            .unwrap()
    };
    if std::path::Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists() {
        println!("not tried: a machine with a driver has it on the loader's own path");
        return;
    }
    assert_refused(&run(&[]), 3, &["no CUDA driver", "--device cpu"]);
    assert!(!out.exists());
    assert_status(&run(&["--device", "cpu"]), 0);
}
