//! A model of more than 2 GB: the memory that a merge needs doesn't grow with it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use half::bf16;
use lora_kernels_adapters::{Adapter, DType, Dtype, ReadOptions, TensorFile};
use serde_json::json;

use super::numbers::{bytes, made, values};
use super::{command, folder};

const LAYERS: usize = 20;
const LAYERS_IN_SHARD: usize = 4;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 7168;
const VOCABULARY: usize = 56_000;
const ADAPTED: [usize; 3] = [0, 11, 19];
const EMBEDDINGS: &str = "model.embed_tokens.weight";
/// The first element of every tensor, and that of its last row, in the base.
const MARK: f32 = 0.5;
/// The same in the adapter's embeddings.
const TRAINED: f32 = 0.75;

const MIB: usize = 1 << 20;
const LAYER: usize = (HIDDEN + INTERMEDIATE) * HIDDEN * 2;
/// What a merge may need: two layers' worth and 256 MiB. It is less than the embeddings of base and
/// adapter have.
const BOUND: usize = 2 * LAYER + 256 * MIB;

fn query(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.q_proj")
}

/// A tensor of a file: its bytes, or one value that marks the first and the last row.
struct Made {
    name: String,
    dtype: Dtype,
    shape: [usize; 2],
    content: Result<Vec<u8>, f32>,
}

fn marked(name: String, rows: usize, mark: f32) -> Made {
    Made {
        name,
        dtype: Dtype::BF16,
        shape: [rows, HIDDEN],
        content: Err(mark),
    }
}

/// Writes a file with holes, which read as zeros and take no place on the disk.
fn write(path: &Path, tensors: &[Made]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    let mut pieces = Vec::new();
    for Made {
        name,
        dtype,
        shape,
        content,
    } in tensors
    {
        let begin = end;
        end += shape[0] * shape[1] * dtype.bitsize() / 8;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
        match content {
            Ok(bytes) => pieces.push((begin, bytes.clone())),
            Err(mark) => {
                let mark = bf16::from_f32(*mark).to_le_bytes().to_vec();
                pieces.push((begin, mark.clone()));
                pieces.push((end - shape[1] * 2, mark));
            }
        }
    }
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let file = File::create_new(path).unwrap();
    file.write_all_at(&(text.len() as u64).to_le_bytes(), 0)
        .unwrap();
    file.write_all_at(&text, 8).unwrap();
    let data = 8 + text.len();
    file.set_len((data + end) as u64).unwrap();
    for (at, bytes) in pieces {
        file.write_all_at(&bytes, (data + at) as u64).unwrap();
    }
}

/// Writes the model, and returns the names of its files.
fn model(folder: &Path) -> Vec<String> {
    std::fs::create_dir_all(folder).unwrap();
    let layers: Vec<usize> = (0..LAYERS).collect();
    let of_layers = layers.chunks(LAYERS_IN_SHARD).map(|layers| {
        let tensors = layers.iter().flat_map(|layer| {
            let up = format!("model.layers.{layer}.mlp.up_proj.weight");
            [
                (format!("{}.weight", query(*layer)), HIDDEN),
                (up, INTERMEDIATE),
            ]
        });
        tensors
            .map(|(name, rows)| marked(name, rows, MARK))
            .collect()
    });
    let embeddings = vec![marked(EMBEDDINGS.into(), VOCABULARY, MARK)];
    let shards: Vec<Vec<Made>> = std::iter::once(embeddings).chain(of_layers).collect();
    let mut map = serde_json::Map::new();
    let mut names = Vec::new();
    for (number, tensors) in shards.iter().enumerate() {
        let shard = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write(&folder.join(&shard), tensors);
        map.extend(
            tensors
                .iter()
                .map(|made| (made.name.clone(), shard.as_str().into())),
        );
        names.push(shard);
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    std::fs::write(
        folder.join("config.json"),
        r#"{"tie_word_embeddings": false}"#,
    )
    .unwrap();
    names
}

/// Writes an adapter with three modules and the embeddings trained whole.
fn adapter(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let matrices = ADAPTED.iter().zip(0..).flat_map(|(&layer, seed)| {
        let of = |part: &str, shape: [usize; 2], seed| Made {
            name: format!("base_model.model.{}.lora_{part}.weight", query(layer)),
            dtype: Dtype::F32,
            shape,
            content: Ok(bytes(DType::F32, &made(seed, shape[0] * shape[1]))),
        };
        [
            of("A", [2, HIDDEN], 2 * seed + 1),
            of("B", [HIDDEN, 2], 2 * seed + 2),
        ]
    });
    let name = format!("base_model.model.{EMBEDDINGS}");
    let mut tensors = vec![marked(name, VOCABULARY, TRAINED)];
    tensors.extend(matrices);
    write(&folder.join("adapter_model.safetensors"), &tensors);
    let config = json!({
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
    });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
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
    let [base, lora, out] = ["base", "adapter", "out"].map(|name| folder.join(name));
    let shards = model(&base);
    adapter(&lora);
    let sizes = shards
        .iter()
        .map(|shard| base.join(shard).metadata().unwrap().len());
    let total: u64 = sizes.sum();
    assert!(total > 2_000_000_000, "{total}");

    let mut child = command("merge", &base, &[&lora], &out)
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

    let adapter = Adapter::read(&lora, &ReadOptions::default()).unwrap();
    for shard in &shards {
        let open = |folder: &Path| TensorFile::open(&folder.join(shard)).unwrap();
        let (before, after) = (open(&base), open(&out));
        assert_eq!(before.read_header().unwrap(), after.read_header().unwrap());
        for tensor in after.tensors() {
            let path = tensor.name.strip_suffix(".weight").unwrap();
            let module = adapter.module(path);
            let factors =
                module.map(|module| (values(&module.a), values(&module.b), module.scaling));
            let rows = tensor.shape[0];
            let mark = if tensor.name == EMBEDDINGS {
                TRAINED
            } else {
                MARK
            };
            for row in [0, 1, rows / 2, rows - 1] {
                for column in [0, 1, HIDDEN - 1] {
                    let at = (row * HIDDEN + column) * 2;
                    let mut stored = [0; 2];
                    tensor.read_into(at, &mut stored).unwrap();
                    let stored = bf16::from_le_bytes(stored).to_f64();
                    let is_marked = column == 0 && [0, rows - 1].contains(&row);
                    let mut expected = if is_marked { f64::from(mark) } else { 0.0 };
                    if let Some((a, b, scaling)) = &factors {
                        let terms = (0..2).map(|r| b[row * 2 + r] * a[r * HIDDEN + column]);
                        expected += f64::from(*scaling) * terms.sum::<f64>();
                    }
                    assert!(
                        (stored - expected).abs() <= expected.abs() / 256.0 + 1e-6,
                        "{}[{row}, {column}] is {stored}, not {expected}",
                        tensor.name
                    );
                }
            }
        }
    }
    // Two gigabytes needn't stay on the disk.
    std::fs::remove_dir_all(&folder).unwrap();
}
