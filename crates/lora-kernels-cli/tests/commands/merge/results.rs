//! Merged models, compared with a merge in f64.

use std::path::Path;

use lora_kernels_adapters::{Adapter, BaseModel, DType, PeftConfig, ReadOptions};
use serde_json::Value;

use super::model::{adapter, sharded, write};
use super::numbers::{half_ulp, values};
use super::{command, folder, merge, names};
use crate::common::{assert_status, stdout};

/// Odd sizes, a transposed weight, and tensors without an adapter.
const FIRST: &[(&str, &[usize])] = &[
    ("a.q.weight", &[45, 72]),
    ("a.q.bias", &[45]),
    ("a.norm.weight", &[72]),
];
const SECOND: &[(&str, &[usize])] = &[
    ("a.k.weight", &[17, 72]),
    ("a.up.weight", &[72, 131]),
    ("head.weight", &[33, 45]),
];
const MODULES: &[(&str, usize, usize, usize)] =
    &[("a.q", 3, 72, 45), ("a.k", 5, 72, 17), ("a.up", 3, 72, 131)];

fn config(alpha: f64) -> PeftConfig {
    let config = PeftConfig::new(3, alpha, &["q", "k", "up"]).unwrap();
    config.with_field("rank_pattern", r#"{"k": 5}"#).unwrap()
}

/// Compares every element of the result with W + Σ weight·scaling·B·A in f64. It may differ by one
/// rounding of the type and by the rounding of f32 sums.
#[track_caller]
fn check(base: &Path, adapters: &[(&Path, f64)], merged: &Path) {
    let (base, merged) = (
        BaseModel::open(base).unwrap(),
        BaseModel::open(merged).unwrap(),
    );
    let adapters: Vec<(Adapter, f64)> = adapters
        .iter()
        .map(|(path, weight)| {
            (
                Adapter::read(path, &ReadOptions::default()).unwrap(),
                *weight,
            )
        })
        .collect();
    assert_eq!(
        base.names().collect::<Vec<_>>(),
        merged.names().collect::<Vec<_>>()
    );
    for name in base.names() {
        let (before, after) = (base.tensor(name).unwrap().1, merged.tensor(name).unwrap().1);
        assert_eq!(
            (before.shape, before.dtype),
            (after.shape, after.dtype),
            "{name}"
        );
        let path = name.strip_suffix(".weight").unwrap_or_default();
        let modules: Vec<_> = adapters
            .iter()
            .filter_map(|(adapter, weight)| Some((adapter.module(path)?, *weight)))
            .collect();
        if modules.is_empty() {
            assert_eq!(
                before.read().unwrap(),
                after.read().unwrap(),
                "{name} is nobody's"
            );
            continue;
        }
        let (dtype, columns) = (before.element_type().unwrap(), before.shape[1]);
        let matrices: Vec<_> = modules
            .iter()
            .map(|(module, weight)| (module, weight, values(&module.a), values(&module.b)))
            .collect();
        for (at, (old, new)) in values(&before).into_iter().zip(values(&after)).enumerate() {
            let (mut exact, mut magnitude) = (old, old.abs());
            for (module, weight, a, b) in &matrices {
                let (r, k) = (module.rank, module.in_features);
                let transposed = before.shape != [module.out_features, k];
                let (output, input) = if transposed {
                    (at % columns, at / columns)
                } else {
                    (at / columns, at % columns)
                };
                let terms = (0..r).map(|i| b[output * r + i] * a[i * k + input]);
                let scale = f64::from((f64::from(module.scaling) * *weight) as f32);
                exact += scale * terms.clone().sum::<f64>();
                magnitude += scale.abs() * terms.map(f64::abs).sum::<f64>();
            }
            let bound = half_ulp(dtype, exact) * 1.0001 + 16.0 * 2f64.powi(-24) * magnitude;
            assert!(
                (new - exact).abs() <= bound,
                "{name}[{at}] is {new}, not {exact} within {bound:e}"
            );
        }
    }
}

#[test]
fn every_type_is_merged_within_one_rounding() {
    let folder = folder("types");
    for dtype in DType::ALL {
        let base = folder.join(format!("base-{dtype}"));
        sharded(&base, dtype, &[FIRST, SECOND]);
        // One adapter has the weight's type; the other has another type and is converted to f32.
        let other = if dtype == DType::F16 {
            DType::F32
        } else {
            DType::F16
        };
        for adapter_dtype in [dtype, other] {
            let adapter = adapter(
                &folder.join("adapter"),
                adapter_dtype,
                1,
                config(7.0),
                MODULES,
            );
            let (out, cpu) = (folder.join("out"), folder.join("cpu"));
            assert_status(&merge(&base, &[&adapter], &out, &["--force"]), 0);
            check(&base, &[(&adapter, 1.0)], &out);
            assert_status(
                &merge(&base, &[&adapter], &cpu, &["--force", "--device", "cpu"]),
                0,
            );
            for name in [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ] {
                let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
                assert!(
                    read(&out) == read(&cpu),
                    "{dtype}, {adapter_dtype} adapters: the CPU gives other bits"
                );
                let header = 8 + u64::from_le_bytes(read(&base)[..8].try_into().unwrap()) as usize;
                assert!(
                    read(&out)[..header] == read(&base)[..header],
                    "the header stays as it was"
                );
            }
        }
    }
}

#[test]
fn a_folder_comes_with_its_other_files_and_without_old_weights() {
    let folder = folder("files");
    let (base, out) = (folder.join("base"), folder.join("out"));
    sharded(&base, DType::BF16, &[FIRST, SECOND]);
    std::os::unix::fs::symlink("/etc/passwd", base.join("link.json")).unwrap();
    std::fs::write(base.join("adapter_config.json"), "{}").unwrap();
    std::os::unix::fs::symlink("config.json", base.join("also.json")).unwrap();
    let adapter = adapter(&folder.join("adapter"), DType::F32, 1, config(7.0), MODULES);
    let output = merge(&base, &[&adapter], &out, &[]);
    assert_status(&output, 0);
    assert_eq!(
        names(&out),
        [
            "1_Pooling",
            "also.json",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_eq!(
        names(&out.join("1_Pooling")),
        ["config.json", "model.safetensors"]
    );
    assert!(!out.join("also.json").is_symlink());
    let text = stdout(&output);
    for left_out in [
        "link.json (a link",
        ".gitattributes",
        "adapter_config.json",
        "old.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ] {
        assert!(text.contains(left_out), "{text}");
    }
    let same = |name: &str| {
        std::fs::read(base.join(name)).unwrap() == std::fs::read(out.join(name)).unwrap()
    };
    assert!(same("model.safetensors.index.json"));
    assert_eq!(
        names(&folder),
        ["adapter", "base", "out"],
        "nothing temporary is left"
    );
}

#[test]
fn a_file_becomes_a_file() {
    let folder = folder("file");
    let (base, out) = (
        folder.join("base.safetensors"),
        folder.join("out.safetensors"),
    );
    write(&base, DType::F16, &[FIRST, SECOND].concat());
    let adapter = adapter(
        &folder.join("adapter"),
        DType::BF16,
        1,
        config(4.0),
        MODULES,
    );
    assert_status(&merge(&base, &[&adapter], &out, &[]), 0);
    check(&base, &[(&adapter, 1.0)], &out);
}

#[test]
fn several_adapters_are_weighed() {
    let folder = folder("weights");
    let (base, out) = (
        folder.join("base.safetensors"),
        folder.join("out.safetensors"),
    );
    write(&base, DType::F32, &[FIRST, SECOND].concat());
    let first = adapter(&folder.join("one"), DType::F32, 1, config(4.0), MODULES);
    let second = adapter(
        &folder.join("other"),
        DType::BF16,
        2,
        config(9.0),
        &MODULES[..2],
    );
    assert_status(
        &merge(&base, &[&first, &second], &out, &["--weights", "0.75,-1.3"]),
        0,
    );
    check(&base, &[(&first, 0.75), (&second, -1.3)], &out);
    assert_status(&merge(&base, &[&first, &second], &out, &["--force"]), 0);
    check(&base, &[(&first, 1.0), (&second, 1.0)], &out);
}

#[test]
fn unmerging_gives_the_base_again_within_roundings() {
    let folder = folder("unmerge");
    let [base, merged, back] =
        ["base", "merged", "back"].map(|name| folder.join(name).with_extension("safetensors"));
    write(&base, DType::F32, &[FIRST, SECOND].concat());
    let adapter = adapter(&folder.join("adapter"), DType::F32, 1, config(7.0), MODULES);
    assert_status(&merge(&base, &[&adapter], &merged, &[]), 0);
    assert_status(
        &command("unmerge", &merged, &[&adapter], &back)
            .output()
            .unwrap(),
        0,
    );
    check(&merged, &[(&adapter, -1.0)], &back);
    let (base, back) = (
        BaseModel::open(&base).unwrap(),
        BaseModel::open(&back).unwrap(),
    );
    for name in base.names() {
        let of = |model: &BaseModel| values(&model.tensor(name).unwrap().1);
        assert!(
            of(&base)
                .iter()
                .zip(of(&back))
                .all(|(old, new)| (old - new).abs() < 2e-6),
            "{name}"
        );
    }
}

/// bf16 loses a small delta and f32 keeps it, and the report says so.
#[test]
fn the_report_tells_what_storing_loses() {
    let folder = folder("report");
    let small = adapter(&folder.join("small"), DType::F32, 1, config(0.003), MODULES);
    let document = |dtype: DType| -> Value {
        let (base, out) = (
            folder.join(format!("{dtype}.safetensors")),
            folder.join("out.safetensors"),
        );
        write(&base, dtype, &[FIRST, SECOND].concat());
        let output = merge(&base, &[&small], &out, &["--json", "--force"]);
        assert_status(&output, 0);
        let document: Value = serde_json::from_str(&stdout(&output)).unwrap();
        // The report's counts, recounted from the files.
        let (base, out) = (
            BaseModel::open(&base).unwrap(),
            BaseModel::open(&out).unwrap(),
        );
        for figures in document["merged"].as_array().unwrap() {
            let name = figures["tensor"].as_str().unwrap();
            let of = |model: &BaseModel| values(&model.tensor(name).unwrap().1);
            let same = of(&base)
                .iter()
                .zip(of(&out))
                .filter(|(old, new)| *old == new)
                .count() as u64;
            let nonzero = figures["changed_by_adapters"].as_u64().unwrap();
            let elements = figures["elements"].as_u64().unwrap();
            assert_eq!(
                figures["unchanged"].as_u64().unwrap() + (elements - nonzero),
                same,
                "{name}"
            );
        }
        document
    };
    let (narrow, wide) = (document(DType::BF16), document(DType::F32));
    let share = |document: &Value| document["total"]["unchanged_share"].as_f64().unwrap();
    let error = |document: &Value| document["total"]["relative_error"].as_f64().unwrap();
    assert!(
        share(&narrow) > 0.5 && share(&wide) < 0.01,
        "{narrow} {wide}"
    );
    assert!(
        error(&narrow) > 0.3 && error(&wide) < 1e-3,
        "{narrow} {wide}"
    );
    assert_eq!(narrow["merged"].as_array().unwrap().len(), 3);
    assert_eq!(narrow["merged"][0]["tensor"], "a.k.weight");
    assert_eq!(narrow["total"]["elements"], 45 * 72 + 17 * 72 + 72 * 131);
}

#[test]
fn what_is_not_finite_stops_before_anything_is_there() {
    let folder = folder("finite");
    let (base, out) = (
        folder.join("base.safetensors"),
        folder.join("out.safetensors"),
    );
    write(&base, DType::F16, &[FIRST, SECOND].concat());
    // The sum exceeds f16's largest number, 65504.
    let large = adapter(&folder.join("large"), DType::F32, 1, config(1e6), MODULES);
    let output = merge(&base, &[&large], &out, &[]);
    crate::common::assert_refused(
        &output,
        1,
        &["a.k.weight", "NaN or infinite", "--allow-non-finite"],
    );
    assert_eq!(names(&folder), ["base.safetensors", "large"]);
    let output = merge(&base, &[&large], &out, &["--allow-non-finite"]);
    assert_status(&output, 0);
    assert!(
        stdout(&output).contains("NaN or infinite:"),
        "{}",
        stdout(&output)
    );
}
