//! A model of more than 2 GB: the memory that a merge needs doesn't grow with it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use half::bf16;
use lora_kernels_adapters::{Adapter, DType, MappedFile, PeftConfig, ReadOptions};
use serde_json::json;

use super::model::adapter;
use super::numbers::values;
use super::{command, folder};

const LAYERS: usize = 24;
const LAYERS_IN_SHARD: usize = 4;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 7168;
const ADAPTED: [usize; 3] = [0, 11, 23];
/// The first element of every tensor, and that of its last row.
const MARK: f32 = 0.5;

const MIB: usize = 1 << 20;
const LAYER: usize = (HIDDEN + INTERMEDIATE) * HIDDEN * 2;
/// What a merge may need: two layers' worth and 256 MiB.
const BOUND: usize = 2 * LAYER + 256 * MIB;

fn query(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.q_proj")
}

fn shard(number: usize) -> String {
    let shards = LAYERS / LAYERS_IN_SHARD;
    format!("model-{:05}-of-{shards:05}.safetensors", number + 1)
}

/// Writes the model. Its files have holes, which read as zeros and take no place on the disk.
fn model(folder: &Path) -> usize {
    std::fs::create_dir_all(folder).unwrap();
    let mut map = serde_json::Map::new();
    let mut total = 0;
    for number in 0..LAYERS / LAYERS_IN_SHARD {
        let mut header = serde_json::Map::new();
        let (mut end, mut marks) = (0, Vec::new());
        for layer in number * LAYERS_IN_SHARD..(number + 1) * LAYERS_IN_SHARD {
            let up = format!("model.layers.{layer}.mlp.up_proj");
            for (path, rows) in [(query(layer), HIDDEN), (up, INTERMEDIATE)] {
                let (begin, name) = (end, format!("{path}.weight"));
                end += rows * HIDDEN * 2;
                marks.extend([begin, end - HIDDEN * 2]);
                let entry =
                    json!({"dtype": "BF16", "shape": [rows, HIDDEN], "data_offsets": [begin, end]});
                header.insert(name.clone(), entry);
                map.insert(name, shard(number).into());
            }
        }
        let mut text = serde_json::to_vec(&header).unwrap();
        text.resize(text.len().next_multiple_of(8), b' ');
        let file = File::create_new(folder.join(shard(number))).unwrap();
        file.write_all_at(&(text.len() as u64).to_le_bytes(), 0)
            .unwrap();
        file.write_all_at(&text, 8).unwrap();
        let data = 8 + text.len();
        file.set_len((data + end) as u64).unwrap();
        for mark in marks {
            let mark = (data + mark) as u64;
            file.write_all_at(&bf16::from_f32(MARK).to_le_bytes(), mark)
                .unwrap();
        }
        total += end;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    total
}

/// The most memory that the process has had so far, in bytes, while it runs.
fn peak(process: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}

#[test]
fn a_merge_needs_two_layers_worth_of_memory_and_256_mib_at_most() {
    let folder = folder("scale");
    let (base, out) = (folder.join("base"), folder.join("out"));
    let total = model(&base);
    assert!(total > 2_000_000_000, "{total}");
    let paths = ADAPTED.map(query);
    let modules = [0, 1, 2].map(|at| (paths[at].as_str(), 2, HIDDEN, HIDDEN));
    let config = PeftConfig::new(2, 4.0, &["q_proj"]).unwrap();
    let adapter = adapter(&folder.join("adapter"), DType::F32, 1, config, &modules);

    let mut child = command("merge", &base, &[&adapter], &out)
        .args(["--device", "cpu"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    let status = loop {
        most = most.max(peak(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success());
    assert!(
        0 < most && most <= BOUND,
        "{} MiB, and {} are allowed",
        most / MIB,
        BOUND / MIB
    );

    let adapter = Adapter::read(&adapter, &ReadOptions::default()).unwrap();
    for number in 0..LAYERS / LAYERS_IN_SHARD {
        let [before, after] =
            [&base, &out].map(|folder| MappedFile::open(&folder.join(shard(number))).unwrap());
        assert_eq!(before.header(), after.header());
        for tensor in after.tensors() {
            let path = tensor.name.strip_suffix(".weight").unwrap();
            let factors = adapter
                .module(path)
                .map(|module| (values(&module.a), values(&module.b), module.scaling));
            let rows = tensor.shape[0];
            for (row, column) in [
                (0, 0),
                (0, 1),
                (1, HIDDEN - 1),
                (rows / 2, 0),
                (rows - 1, 0),
                (rows - 1, HIDDEN - 1),
            ] {
                let at = (row * HIDDEN + column) * 2;
                let stored = bf16::from_le_bytes([tensor.data[at], tensor.data[at + 1]]).to_f64();
                let is_marked = column == 0 && [0, rows - 1].contains(&row);
                let mut expected = if is_marked { f64::from(MARK) } else { 0.0 };
                if let Some((a, b, scaling)) = &factors {
                    let terms = (0..2).map(|rank| b[row * 2 + rank] * a[rank * HIDDEN + column]);
                    expected += f64::from(*scaling) * terms.sum::<f64>();
                }
                assert!(
                    (stored - expected).abs() <= expected.abs() / 256.0 + 1e-6,
                    "{}[{row}, {column}]: {stored}, not {expected}",
                    tensor.name
                );
            }
        }
    }
    // Two gigabytes needn't stay on the disk.
    std::fs::remove_dir_all(&folder).unwrap();
}
