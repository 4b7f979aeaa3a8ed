//! Small models and adapters, made on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor};
use safetensors::tensor::TensorView;

use super::numbers::{bytes, made};

/// Tensors of a model: name and shape.
pub type Shapes<'a> = &'a [(&'a str, &'a [usize])];

fn safetensors_type(dtype: DType) -> safetensors::Dtype {
    match dtype {
        DType::F16 => safetensors::Dtype::F16,
        DType::BF16 => safetensors::Dtype::BF16,
        DType::F32 => safetensors::Dtype::F32,
    }
}

/// Writes a file with these tensors, and with metadata that a merge must keep.
pub fn write(path: &Path, dtype: DType, shapes: Shapes<'_>) {
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .enumerate()
        .map(|(seed, (_, shape))| bytes(dtype, &made(seed as u64 + 100, shape.iter().product())))
        .collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        (
            *name,
            TensorView::new(safetensors_type(dtype), shape.to_vec(), data).unwrap(),
        )
    });
    let metadata = [
        ("format".to_owned(), "pt".to_owned()),
        ("kept".to_owned(), "yes".to_owned()),
    ];
    safetensors::serialize_to_file(views, Some(metadata.into_iter().collect()), path).unwrap();
}

/// Writes a model's folder: a shard for each list of tensors, an index, a config and other files.
pub fn sharded(folder: &Path, dtype: DType, shards: &[Shapes<'_>]) {
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    let mut map = BTreeMap::new();
    for (number, shapes) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write(&folder.join(&name), dtype, shapes);
        map.extend(
            shapes
                .iter()
                .map(|(tensor, _)| ((*tensor).to_owned(), name.clone())),
        );
    }
    let index = serde_json::json!({"metadata": {"total_size": 1000}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::write(folder.join("1_Pooling/config.json"), "{}").unwrap();
    std::fs::write(folder.join("1_Pooling/model.safetensors"), "another module").unwrap();
    std::fs::write(folder.join("old.safetensors"), "old").unwrap();
    std::fs::write(folder.join("pytorch_model.bin"), "old").unwrap();
    std::fs::write(folder.join("pytorch_model.bin.index.json"), "old").unwrap();
    std::fs::write(folder.join(".gitattributes"), "x").unwrap();
}

/// Modules of an adapter: (path, rank, in_features, out_features).
pub type Modules<'a> = &'a [(&'a str, usize, usize, usize)];

/// Writes a PEFT folder with numbers that depend on the seed.
pub fn adapter(
    folder: &Path,
    dtype: DType,
    seed: u64,
    config: PeftConfig,
    modules: Modules<'_>,
) -> PathBuf {
    let data: Vec<(Vec<u8>, Vec<u8>)> = modules
        .iter()
        .zip(seed * 1000..)
        .map(|(&(_, r, k, n), seed)| {
            (
                bytes(dtype, &made(2 * seed, r * k)),
                bytes(dtype, &made(2 * seed + 1, n * r)),
            )
        })
        .collect();
    let shapes: Vec<([usize; 2], [usize; 2])> = modules
        .iter()
        .map(|&(_, r, k, n)| ([r, k], [n, r]))
        .collect();
    let mut writer = PeftWriter::new(config);
    for ((&(path, ..), (a, b)), (shape_a, shape_b)) in modules.iter().zip(&data).zip(&shapes) {
        writer
            .module(
                path,
                Tensor::new(dtype, shape_a, a),
                Tensor::new(dtype, shape_b, b),
            )
            .unwrap();
    }
    writer.write(folder, Overwrite::Replace).unwrap();
    folder.to_owned()
}
