//! Every defect of a file gives one error that names it.

use lora_kernels_adapters::{Adapter, PeftConfig, ReadOptions, Result, TensorFile};

use crate::made::{CONFIG, Tensors, file, one_module, peft};
use crate::{assert_refused, read};

const A: &str = "base_model.model.a.q.lora_A.weight";
const B: &str = "base_model.model.a.q.lora_B.weight";

fn adapter(config: &str, tensors: &[u8]) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    peft(folder.path(), config, tensors);
    read(folder.path())
}

#[test]
fn the_whole_ones_are_read() {
    assert!(adapter(CONFIG, &one_module().bytes()).is_ok());
}

#[test]
fn impossible_configs() {
    let tensors = one_module().bytes();
    let config = |field: &str, value: &str| format!(r#"{{"r": 3, "{field}": {value}}}"#);
    let alpha: &[&str] = &["lora_alpha is", "a finite number above 0"];
    for value in ["0", "-1", "\"16\"", "[]", "1e999"] {
        assert_refused(adapter(&config("lora_alpha", value), &tensors), alpha);
    }
    for value in ["NaN", "Infinity", "-Infinity"] {
        assert_refused(adapter(&config("lora_alpha", value), &tensors), &["JSON"]);
    }
    for value in [
        "0",
        "-3",
        "3.5",
        "\"3\"",
        "18446744073709551615",
        "99999999999999999999999",
    ] {
        let text = format!(r#"{{"r": {value}, "lora_alpha": 5}}"#);
        assert_refused(
            adapter(&text, &tensors),
            &["r is", value, "a whole number from 1"],
        );
    }
    for (field, value, fragment) in [
        ("bias", "\"some\"", "lora_only"),
        ("bias", "1", "lora_only"),
        ("use_rslora", "\"yes\"", "true or false"),
        ("use_dora", "1", "true or false"),
        ("modules_to_save", "\"classifier\"", "a list of names"),
        ("rank_pattern", "[1]", "an object"),
        ("rank_pattern", r#"{"q": 0}"#, "rank_pattern[q] is 0"),
        ("rank_pattern", r#"{"q(": 2}"#, "a regular expression"),
        ("rank_pattern", r#"{"(?=q)q": 2}"#, "without look-around"),
        (
            "rank_pattern",
            r#"{"(q{1000}){1000}": 2}"#,
            "a regular expression",
        ),
        ("alpha_pattern", r#"{"q": -1}"#, "alpha_pattern[q] is -1"),
        ("peft_type", "\"IA3\"", "IA3"),
    ] {
        assert_refused(
            adapter(&config(field, value), &tensors),
            &["adapter_config.json", fragment],
        );
    }
    assert_refused(
        adapter(&config("r", "3"), &tensors),
        &["field r stands there twice"],
    );
    assert_refused(adapter("[]", &tensors), &["JSON", "an object"]);
    assert_refused(adapter("", &tensors), &["JSON"]);
    let deep = "[".repeat(100_000);
    assert_refused(adapter(&config("x", &deep), &tensors), &["JSON"]);
    assert_refused(
        adapter(&config("target_modules", &deep), &tensors),
        &["JSON"],
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_refused(
        adapter(&config("modules_to_save", &deep), &tensors),
        &["modules_to_save", "..."],
    );
}

#[test]
fn tensors_that_make_no_module() {
    let refused = |tensors: Tensors, fragments: &[&str]| {
        assert_refused(adapter(CONFIG, &tensors.bytes()), fragments)
    };
    refused(one_module().without(A), &[B, "has no lora_A"]);
    refused(one_module().without(B), &[A, "has no lora_B"]);
    refused(
        one_module().with(A, &[4, 7]),
        &["lora_B.weight", "[5, 3]", "[4, 7]"],
    );
    refused(
        one_module().with(A, &[4, 7]).with(B, &[5, 4]),
        &["a.q", "rank 4", "gives it 3"],
    );
    refused(one_module().with(A, &[3]), &["[3]", "matrices"]);
    refused(one_module().with(A, &[3, 7, 1]), &["matrices"]);
    refused(
        one_module().with(A, &[3, 7, 1]).with(B, &[5, 3, 2]),
        &["[5, 3, 2]"],
    );
    refused(one_module().with(A, &[3, 0]), &["[3, 0]", "from 1"]);
    refused(
        one_module().with(A, &[0, 7]).with(B, &[5, 0]),
        &["no size may be 0"],
    );
    refused(
        one_module().typed(A, "I8", &[3, 7]),
        &["is I8", "F64, F32, F16 or BF16"],
    );
    refused(one_module().typed(B, "F8_E4M3", &[5, 3]), &["is F8_E4M3"]);
    refused(
        one_module().with("base_model.model.a.q.lora_B.bias", &[4]),
        &["[4]", "5 out_features"],
    );
    refused(
        one_module().with("base_model.model.a.q.lora_magnitude_vector", &[7]),
        &["[7]", "5 out_features"],
    );
    refused(
        one_module().with("a.q.lora_A.weight", &[3, 7]),
        &["stands beside", "one such"],
    );
    refused(
        one_module().with("base_model.model.b.lora_B.bias", &[5]),
        &["b.lora_B.bias", "without lora_A"],
    );
    refused(
        one_module()
            .without(A)
            .with("base_model.model.a.q.lora_embedding_A", &[3, 7]),
        &["another kind"],
    );
    refused(
        Tensors::default().with("base_model.model.a.q.lora_A.my.name.weight", &[3, 7]),
        &["no tensor has a name", "lora_A.my.name.weight", "dots"],
    );
    let same = one_module()
        .with("base_model.model.c.bias", &[2])
        .with("base_model.model.c.base_layer.bias", &[2]);
    refused(same, &["the same tensor"]);
}

/// A header must agree with the file's bytes.
#[test]
fn damaged_safetensors() {
    let refused = |bytes: &[u8], fragments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        assert_refused(
            TensorFile::open(&path),
            &[&["x.safetensors"], fragments].concat(),
        );
    };
    let good = one_module().bytes();
    refused(b"", &["0 bytes"]);
    refused(b"1234567", &["7 bytes"]);
    refused(&[0xff; 64], &["claims 18446744073709551615 bytes"]);
    refused(
        b"PK\x03\x04 a zip, as torch.save makes it",
        &[".bin or .pt"],
    );
    refused(&(1u64 << 20).to_le_bytes(), &["truncated"]);
    refused(&good[..40], &["truncated"]);
    refused(&good[..good.len() - 1], &["truncated"]);
    refused(&[&good[..], b"x"].concat(), &["appended"]);
    let tensor = |shape: &str, from: &str, to: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    refused(&file("{", b""), &["JSON"]);
    refused(&file("[]", b""), &["JSON"]);
    refused(&file("\u{0}\u{ff}", b""), &["JSON"]);
    refused(
        &file(&tensor("[2]", "0", "4"), &[0; 4]),
        &["type and shape"],
    );
    refused(&file(&tensor("[1]", "4", "8"), &[0; 8]), &["begin"]);
    refused(&file(&tensor("[1]", "4", "0"), &[0; 8]), &["begin"]);
    refused(&file(&tensor("[-1]", "0", "4"), &[0; 4]), &["JSON"]);
    refused(
        &file(&tensor("[4294967296, 4294967296]", "0", "0"), b""),
        &["64 bits"],
    );
    refused(
        &file(&tensor("[18446744073709551615]", "0", "4"), &[0; 4]),
        &["64 bits"],
    );
    refused(
        &file(&tensor("[99999999999999999999]", "0", "4"), &[0; 4]),
        &["JSON"],
    );
    refused(
        &file(&tensor("[1]", "0", "18446744073709551615"), &[0; 4]),
        &["type and shape"],
    );
    refused(
        &file(&tensor("[1]", "0", "4").replace("F32", "F7"), &[0; 4]),
        &["JSON"],
    );
    refused(&file(&"[".repeat(100_000), b""), &["JSON"]);
    refused(
        &file(&format!(r#"{{"a":{}}}"#, "[".repeat(100_000)), b""),
        &["JSON"],
    );
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    refused(&file(twice, &[0; 4]), &["twice"]);
    let overlap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    refused(&file(overlap, &[0; 4]), &["overlap"]);
    // The end of the last of nine tensors plus the header's length overflows 64 bits.
    let eighth = 1u64 << 61;
    let huge: Vec<String> = (0..7u64)
        .map(|i| {
            format!(
                r#""{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}"#,
                eighth - 1,
                i * (eighth - 1),
                (i + 1) * (eighth - 1)
            )
        })
        .collect();
    refused(
        &file(&format!("{{{}}}", huge.join(",")), b""),
        &["truncated"],
    );
}

#[test]
fn what_is_no_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let at = |name: &str| path.join(name);
    assert_refused(read(&at("absent")), &["absent", "read"]);
    assert_refused(
        read(path),
        &["adapter_config.json", "lora.safetensors", "loralib"],
    );
    std::fs::write(at("adapter_config.json"), CONFIG).unwrap();
    assert_refused(read(path), &["without adapter_model.safetensors"]);
    std::fs::write(at("adapter_model.bin"), "pickle").unwrap();
    assert_refused(read(path), &["adapter_model.bin", "pickle", "safetensors"]);
    std::fs::remove_file(at("adapter_config.json")).unwrap();
    one_module().write(&at("adapter_model.safetensors"));
    assert_refused(read(path), &["without adapter_config.json"]);
    assert_refused(
        read(&at("adapter_model.safetensors")),
        &["without adapter_config.json", "none lies beside it"],
    );
    Tensors::default()
        .with("weight", &[2, 2])
        .write(&at("weights.safetensors"));
    assert_refused(read(&at("weights.safetensors")), &["no lora_A"]);
    let mixed = one_module()
        .with("x.lora_A", &[3, 7])
        .with("x.lora_B", &[5, 3]);
    mixed.write(&at("mixed.safetensors"));
    assert_refused(read(&at("mixed.safetensors")), &["more than one format"]);
    std::fs::write(at("adapter_config.json"), vec![b' '; (16 << 20) + 1]).unwrap();
    assert_refused(read(path), &["16777217 bytes", "at most"]);
    std::fs::write(at("adapter_config.json"), b"\xff{}").unwrap();
    assert_refused(read(path), &["UTF-8"]);
}

/// Opening a pipe for reading would block for ever.
#[test]
fn pipes_and_folders_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.safetensors");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_refused(TensorFile::open(&pipe), &["a pipe"]);
    assert_refused(TensorFile::open(folder.path()), &["a folder"]);
    assert_refused(PeftConfig::read(&pipe), &["a pipe"]);
}

#[test]
fn names_are_shown_short_and_without_control_characters() {
    let long = format!(
        "base_model.model.{}\u{1b}[31m.lora_A.weight",
        "x".repeat(100_000)
    );
    let bytes = one_module().with(&long, &[3, 7]).bytes();
    let error = adapter(CONFIG, &bytes).unwrap_err().to_string();
    assert!(
        error.len() < 1000 && !error.contains('\u{1b}') && error.contains("..."),
        "{error}"
    );
}

#[test]
fn a_named_format_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    one_module().write(&path);
    let options = ReadOptions {
        format: Some(lora_kernels_adapters::Format::Loralib),
        scaling: Some(lora_kernels_adapters::Scaling::Factor(1.0)),
        ..ReadOptions::default()
    };
    assert_refused(Adapter::read(&path, &options), &["loralib"]);
}
