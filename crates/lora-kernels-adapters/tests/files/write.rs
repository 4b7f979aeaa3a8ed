//! Writing PEFT folders.

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor};

use crate::{assert_refused, fixture, read};

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_read_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "patterns",
        "lora_bias",
        "bias_all",
        "dora",
        "embedding",
        "conv",
    ] {
        let adapter = read(&fixture(name)).unwrap();
        let target = folder.path().join(name);
        PeftWriter::from_adapter(&adapter)
            .unwrap()
            .write(&target, Overwrite::Never)
            .unwrap();
        let again = read(&target).unwrap();
        let tensors = |adapter: &lora_kernels_adapters::Adapter| -> Vec<_> {
            let tensors = adapter.file().tensors();
            tensors
                .map(|t| {
                    (
                        t.name.to_owned(),
                        t.dtype,
                        t.shape.to_vec(),
                        t.read().unwrap().to_vec(),
                    )
                })
                .collect()
        };
        assert_eq!(tensors(&again), tensors(&adapter), "{name}");
        assert_eq!(again.file().metadata().get("format"), Some("pt"));
        // Fields that this crate doesn't know are kept too, in their order.
        let text = |folder: &std::path::Path| -> String {
            let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
            text.split_whitespace().collect()
        };
        assert_eq!(text(&target), text(&fixture(name)), "{name}");
    }
}

#[test]
fn a_new_adapter_is_read_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    let (a, b): (Vec<u8>, Vec<u8>) = ((0..84).collect(), (0..60).collect());
    let config = PeftConfig::new(3, 4.5, &["q"])
        .unwrap()
        .with_field("my_field", r#"{"kept": 1.50}"#)
        .unwrap();
    let mut writer = PeftWriter::new(config);
    writer
        .module(
            "a.q",
            Tensor::new(DType::F32, &[3, 7], &a),
            Tensor::new(DType::F32, &[5, 3], &b),
        )
        .unwrap();
    writer.write(&target, Overwrite::Never).unwrap();
    let adapter = read(&target).unwrap();
    let module = adapter.module("a.q").unwrap();
    assert_eq!((module.rank, module.scaling), (3, 1.5));
    assert_eq!(module.a.read().unwrap(), &a[..]);
    assert_eq!(module.b.read().unwrap(), &b[..]);
    assert_eq!(
        adapter.config().unwrap().field("my_field"),
        Some(r#"{"kept": 1.50}"#)
    );

    assert_refused(writer.write(&target, Overwrite::Never), &["exists"]);
    std::fs::write(target.join("old"), "").unwrap();
    writer.write(&target, Overwrite::Replace).unwrap();
    assert_eq!(
        names(&target),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    assert_eq!(names(folder.path()), ["new"]);
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    let data = vec![0; 84];
    let tensor = |shape: &'static [usize]| Tensor::new(DType::F32, shape, &data);
    let refused = |rank, a: &'static [usize], b: &'static [usize], fragment: &str| {
        let mut writer = PeftWriter::new(PeftConfig::new(rank, 4.0, &["q"]).unwrap());
        writer.module("a.q", tensor(a), tensor(b)).unwrap();
        assert_refused(
            writer.write(&target, Overwrite::Never),
            &["can't write", fragment],
        );
    };
    refused(4, &[3, 7], &[7, 3], "rank 3");
    refused(3, &[3, 7], &[3, 7], "[3, 7]");
    refused(3, &[3, 7], &[5, 3], "lora_B.weight");
    assert_refused(
        PeftWriter::new(PeftConfig::new(3, 4.0, &["q"]).unwrap()).write(&target, Overwrite::Never),
        &["no tensor"],
    );
    assert!(names(folder.path()).is_empty());
    assert_refused(PeftConfig::new(0, 4.0, &[]), &["r is 0"]);
    assert_refused(
        PeftConfig::new(3, f64::NAN, &[]),
        &["lora_alpha is", "NaN", "finite"],
    );
}
