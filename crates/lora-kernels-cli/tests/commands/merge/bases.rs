//! Bases as people have them on their disks: the right tensors of the right files are merged.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::TensorFile;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// The size of every weight.
const SIZE: usize = 4;
/// lora_alpha / r.
const SCALING: f32 = 2.0;

/// A weight's values, which differ from seed to seed.
fn weight(seed: usize) -> Vec<f32> {
    let value = |at: usize| ((at * 7 + seed * 3) % 11) as f32 - 5.0;
    (0..SIZE * SIZE).map(value).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Writes a safetensors file with these weights: name and seed.
fn model(path: &Path, weights: &[(&str, usize)]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data: Vec<Vec<u8>> = weights
        .iter()
        .map(|(_, seed)| bytes(&weight(*seed)))
        .collect();
    let shape = vec![SIZE, SIZE];
    let views = weights.iter().zip(&data).map(|((name, _), data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (*name, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn write(path: &Path, json: &serde_json::Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, json.to_string()).unwrap();
}

/// Writes a PEFT folder with an adapter of rank 1 on one module: lora_A is all ones, and row n of
/// lora_B is n.
fn adapter(folder: &Path, path: &str) -> PathBuf {
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": SCALING, "fan_in_fan_out": false,
        "target_modules": [path.rsplit('.').next()]});
    write(&folder.join("adapter_config.json"), &config);
    let ones = bytes(&[1.0; SIZE]);
    let rows = bytes(&std::array::from_fn::<f32, SIZE, _>(|row| row as f32));
    let (a, b) = (vec![1, SIZE], vec![SIZE, 1]);
    let views = [
        (format!("base_model.model.{path}.lora_A.weight"), a, &ones),
        (format!("base_model.model.{path}.lora_B.weight"), b, &rows),
    ]
    .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape, data).unwrap()));
    let file = folder.join("adapter_model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    folder.to_owned()
}

/// What the adapter makes of the weight of a seed.
fn merged(seed: usize) -> Vec<f32> {
    let values = weight(seed).into_iter().enumerate();
    values
        .map(|(at, value)| value + SCALING * (at / SIZE) as f32)
        .collect()
}

/// Runs a merge in this process.
fn merge(base: &Path, adapter: &Path, out: &Path) -> Result<(), (u8, String)> {
    let paths = [base, adapter].map(Path::as_os_str);
    let [base, adapter] = paths;
    let options = ["--device", "cpu", "-o"].map(std::ffi::OsStr::new);
    let program = ["lora-kernels", "merge"].map(std::ffi::OsStr::new);
    let last = [base, adapter];
    let all = program
        .into_iter()
        .chain(last)
        .chain(options)
        .chain([out.as_os_str()]);
    lora_kernels_cli::run(all)
}

#[track_caller]
fn assert_values(file: &Path, name: &str, expected: &[f32]) {
    let file = TensorFile::open(file).unwrap();
    assert_eq!(
        file.tensor(name).unwrap().read().unwrap(),
        bytes(expected),
        "{name}"
    );
}

#[track_caller]
fn assert_refused(result: Result<(), (u8, String)>, out: &Path, fragments: &[&str]) {
    let (status, text) = result.expect_err("refused");
    assert_eq!(status, 2, "{text}");
    assert_eq!(text.lines().count(), 1, "one line, not: {text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "`{fragment}` is not in: {text}");
    }
    assert!(!out.exists(), "{} is there", out.display());
}

/// Savers of several processes write a tensor twice, and readers differ in which they take.
#[test]
fn a_tensor_in_two_shards_is_changed_in_both() {
    let folder = super::folder("two_shards");
    let base = folder.join("base");
    let (first, second) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );
    model(
        &base.join(first),
        &[("model.q.weight", 1), ("model.embed.weight", 2)],
    );
    let all = [
        ("model.q.weight", 1),
        ("model.embed.weight", 2),
        ("head.weight", 3),
    ];
    model(&base.join(second), &all);
    let map = json!({"model.q.weight": first, "model.embed.weight": first, "head.weight": second});
    write(
        &base.join("model.safetensors.index.json"),
        &json!({"weight_map": map}),
    );
    let adapter = adapter(&folder.join("adapter"), "model.q");
    let out = folder.join("out");
    merge(&base, &adapter, &out).unwrap();
    for shard in [first, second] {
        assert_values(&out.join(shard), "model.q.weight", &merged(1));
        assert_values(&out.join(shard), "model.embed.weight", &weight(2));
    }

    // Another value under the same name is another tensor, which the index doesn't mean.
    model(
        &base.join(second),
        &[("model.q.weight", 9), ("head.weight", 3)],
    );
    let out = folder.join("other");
    merge(&base, &adapter, &out).unwrap();
    assert_values(&out.join(first), "model.q.weight", &merged(1));
    assert_values(&out.join(second), "model.q.weight", &weight(9));
}

/// Without an index, nothing says which of the two counts.
#[test]
fn a_tensor_twice_without_an_index_is_refused() {
    let folder = super::folder("twice");
    let base = folder.join("base");
    for shard in ["model-00001-of-00002", "model-00002-of-00002"] {
        model(
            &base.join(format!("{shard}.safetensors")),
            &[("model.q.weight", 1)],
        );
    }
    let out = folder.join("out");
    let result = merge(&base, &adapter(&folder.join("adapter"), "model.q"), &out);
    assert_refused(result, &out, &["model.q.weight", "no index"]);
}

#[test]
fn a_folder_of_links_becomes_a_folder_of_files() {
    let folder = super::folder("links");
    let (real, base) = (folder.join("real"), folder.join("base"));
    model(&real.join("model.safetensors"), &[("model.q.weight", 1)]);
    write(&real.join("config.json"), &json!({"model_type": "llama"}));
    std::fs::create_dir(&base).unwrap();
    for name in ["model.safetensors", "config.json"] {
        symlink(format!("../real/{name}"), base.join(name)).unwrap();
    }
    std::fs::write(folder.join("secret.json"), "{}").unwrap();
    symlink("../secret.json", base.join("tokenizer.json")).unwrap();
    let out = folder.join("out");
    merge(&base, &adapter(&folder.join("adapter"), "model.q"), &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(1));
    // A link to anything else is no part of the model.
    assert_eq!(super::names(&out), ["config.json", "model.safetensors"]);
    assert!(!out.join("config.json").is_symlink());
    // The folder that is linked to is as it was.
    assert_values(
        &real.join("model.safetensors"),
        "model.q.weight",
        &weight(1),
    );
}

#[test]
fn a_folder_of_the_hub_cache_stands_for_its_snapshot() {
    let folder = super::folder("hub");
    let root = folder.join("hub/models--me--model");
    model(&root.join("blobs/1111"), &[("model.q.weight", 1)]);
    let snapshot = root.join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/1111", snapshot.join("model.safetensors")).unwrap();
    let adapter = adapter(&folder.join("adapter"), "model.q");
    let out = folder.join("out");
    merge(&root, &adapter, &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(1));
    model(
        &root.join("snapshots/def/model.safetensors"),
        &[("model.q.weight", 2)],
    );
    let out = folder.join("second");
    assert_refused(
        merge(&root, &adapter, &out),
        &out,
        &["2 snapshots", "abc, def"],
    );
    std::fs::create_dir(root.join("refs")).unwrap();
    std::fs::write(root.join("refs/main"), "def").unwrap();
    merge(&root, &adapter, &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(2));
}

/// diffusers' names, and an index of half-precision shards that must not come along.
#[test]
fn diffusers_folders_are_models() {
    let folder = super::folder("diffusers");
    let base = folder.join("unet");
    let stem = "diffusion_pytorch_model";
    let (first, second) = (
        format!("{stem}-00001-of-00002"),
        format!("{stem}-00002-of-00002"),
    );
    let file = |name: &str| format!("{name}.safetensors");
    model(&base.join(file(&first)), &[("blocks.0.to_q.weight", 1)]);
    model(&base.join(file(&second)), &[("blocks.1.to_q.weight", 2)]);
    let map = json!({"blocks.0.to_q.weight": file(&first), "blocks.1.to_q.weight": file(&second)});
    let index = format!("{stem}.safetensors.index.json");
    write(&base.join(&index), &json!({"weight_map": map}));
    write(
        &base.join("config.json"),
        &json!({"_class_name": "UNet2DConditionModel"}),
    );
    let half = json!({"blocks.0.to_q.weight": "absent.safetensors"});
    let variant = format!("{stem}.safetensors.index.fp16.json");
    write(&base.join(variant), &json!({"weight_map": half}));
    let adapter = adapter(&folder.join("adapter"), "blocks.1.to_q");
    let out = folder.join("out");
    merge(&base, &adapter, &out).unwrap();
    assert_values(&out.join(file(&first)), "blocks.0.to_q.weight", &weight(1));
    assert_values(&out.join(file(&second)), "blocks.1.to_q.weight", &merged(2));
    let expected = [
        "config.json".into(),
        file(&first),
        file(&second),
        index.clone(),
    ];
    assert_eq!(super::names(&out), expected);
    // The index stands for its folder.
    let out = folder.join("by_index");
    merge(&base.join(index), &adapter, &out).unwrap();
    assert_values(&out.join(file(&second)), "blocks.1.to_q.weight", &merged(2));
}

/// Each shard stays open while it is read, and a process may open few files unless it asks for
/// more.
#[test]
fn more_shards_than_files_may_be_open_at_first_are_merged() {
    let folder = super::folder("many_shards");
    let base = folder.join("base");
    let (shards, allowed) = (100, 40);
    let shard = |number: usize| format!("model-{number:05}-of-{shards:05}.safetensors");
    let tensor = |number: usize| format!("model.layers.{number}.q.weight");
    let mut map = serde_json::Map::new();
    for number in 1..=shards {
        model(&base.join(shard(number)), &[(&tensor(number), number)]);
        map.insert(tensor(number), shard(number).into());
    }
    write(
        &base.join("model.safetensors.index.json"),
        &json!({"weight_map": map}),
    );
    let adapter = adapter(&folder.join("adapter"), "model.layers.77.q");
    let out = folder.join("out");
    let command = super::command("merge", &base, &[&adapter], &out);
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -Sn {allowed}; exec \"$0\" \"$@\" --device cpu"),
        ])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap();
    crate::common::assert_status(&output, 0);
    assert_values(&out.join(shard(77)), &tensor(77), &merged(77));
    assert_values(&out.join(shard(78)), &tensor(78), &weight(78));
    assert_eq!(super::names(&out).len(), shards + 1);
}

/// mistralai's repositories hold the model twice, and an adapter's names say which one is meant.
#[test]
fn the_adapters_names_decide_between_two_formats() {
    let folder = super::folder("two_formats");
    let base = folder.join("base");
    model(
        &base.join("consolidated.safetensors"),
        &[("layers.0.attention.wq.weight", 1)],
    );
    let shard = "model-00001-of-00001.safetensors";
    let name = "model.layers.0.self_attn.q_proj.weight";
    model(&base.join(shard), &[(name, 2)]);
    write(
        &base.join("model.safetensors.index.json"),
        &json!({"weight_map": {name: shard}}),
    );
    write(&base.join("config.json"), &json!({"model_type": "mistral"}));
    let of_huggingface = adapter(&folder.join("a"), "model.layers.0.self_attn.q_proj");
    let out = folder.join("out");
    merge(&base, &of_huggingface, &out).unwrap();
    assert_values(&out.join(shard), name, &merged(2));
    // The other format would be the unmerged model.
    assert!(!out.join("consolidated.safetensors").exists());

    let of_mistral = adapter(&folder.join("b"), "layers.0.attention.wq");
    let out = folder.join("mistral");
    merge(&base, &of_mistral, &out).unwrap();
    let file = out.join("consolidated.safetensors");
    assert_values(&file, "layers.0.attention.wq.weight", &merged(1));
    assert!(!out.join(shard).exists());
    assert!(!out.join("model.safetensors.index.json").exists());

    let of_neither = adapter(&folder.join("c"), "encoder.layer.0.attention.self.query");
    let out = folder.join("neither");
    let result = merge(&base, &of_neither, &out);
    let both = ["consolidated.safetensors", "model.safetensors.index.json"];
    assert_refused(result, &out, &both);
}

/// A trainer's folder, and a pipeline's.
#[test]
fn models_below_a_folder_are_found_if_one_fits() {
    let folder = super::folder("below");
    let base = folder.join("base");
    model(
        &base.join("checkpoint-10/model.safetensors"),
        &[("model.q.weight", 1)],
    );
    let adapter = adapter(&folder.join("adapter"), "model.q");
    let out = folder.join("out");
    merge(&base, &adapter, &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(1));
    // Of two, the one that has the adapter's modules.
    model(
        &base.join("checkpoint-9/model.safetensors"),
        &[("model.other.weight", 2)],
    );
    let out = folder.join("second");
    merge(&base, &adapter, &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(1));
    // Where both have them, the user decides.
    model(
        &base.join("checkpoint-9/model.safetensors"),
        &[("model.q.weight", 2)],
    );
    let out = folder.join("third");
    let result = merge(&base, &adapter, &out);
    assert_refused(result, &out, &["checkpoint-10", "checkpoint-9", "name one"]);
    merge(&base.join("checkpoint-9"), &adapter, &out).unwrap();
    assert_values(&out.join("model.safetensors"), "model.q.weight", &merged(2));
}

/// Writes a base file: name, type, shape; its bytes are zeros.
fn zeros(path: &Path, tensors: &[(&str, Dtype, &[usize])]) {
    let bytes = |dtype: Dtype, shape: &[usize]| {
        vec![0; shape.iter().product::<usize>() * dtype.bitsize().div_ceil(8)]
    };
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, shape)| bytes(*dtype, shape))
        .collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, dtype, shape), data)| {
            (
                *name,
                TensorView::new(*dtype, shape.to_vec(), data).unwrap(),
            )
        });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Each is refused with the name of its method, and the weights beside can still be merged.
#[test]
fn a_quantised_weight_is_named_as_what_it_is_and_others_are_merged() {
    type Layer = &'static [(&'static str, Dtype, &'static [usize])];
    let cases: [(&str, Layer); 8] = [
        (
            "bitsandbytes (4 bit)",
            &[
                ("weight", Dtype::U8, &[8, 1]),
                ("weight.absmax", Dtype::F32, &[1]),
            ],
        ),
        // Its shape is that of the weight before.
        (
            "bitsandbytes (8 bit)",
            &[
                ("weight", Dtype::I8, &[SIZE, SIZE]),
                ("SCB", Dtype::F32, &[SIZE]),
            ],
        ),
        (
            "GPTQ",
            &[
                ("qweight", Dtype::I32, &[1, SIZE]),
                ("scales", Dtype::F16, &[1, SIZE]),
            ],
        ),
        (
            "AWQ",
            &[
                ("qweight", Dtype::I32, &[SIZE, 1]),
                ("scales", Dtype::F16, &[1, SIZE]),
            ],
        ),
        (
            "compressed-tensors",
            &[("weight_packed", Dtype::I32, &[SIZE, 1])],
        ),
        (
            "FP8",
            &[
                ("weight", Dtype::F8_E4M3, &[SIZE, SIZE]),
                ("weight_scale_inv", Dtype::F32, &[1, 1]),
            ],
        ),
        (
            "MLX",
            &[
                ("weight", Dtype::U32, &[SIZE, 1]),
                ("scales", Dtype::F16, &[SIZE, 1]),
            ],
        ),
        ("HQQ", &[("W_q", Dtype::U8, &[SIZE / 2, SIZE])]),
    ];
    for (at, (method, layer)) in cases.into_iter().enumerate() {
        let folder = super::folder(&format!("quantised_{at}"));
        let base = folder.join("base.safetensors");
        let named: Vec<_> = layer
            .iter()
            .map(|(ending, dtype, shape)| (format!("model.layers.0.q.{ending}"), *dtype, *shape))
            .collect();
        let mut tensors: Vec<_> = named
            .iter()
            .map(|(name, dtype, shape)| (name.as_str(), *dtype, *shape))
            .collect();
        tensors.push(("lm_head.weight", Dtype::F32, &[SIZE, SIZE]));
        zeros(&base, &tensors);
        let out = folder.join("out.safetensors");
        // Under the base's prefix and without it.
        for path in ["model.layers.0.q", "layers.0.q"] {
            let adapter = adapter(&folder.join(path), path);
            let fragments = [
                "model.layers.0.q.weight",
                "quantised",
                method,
                "unquantised model",
            ];
            assert_refused(merge(&base, &adapter, &out), &out, &fragments);
        }
        let head = adapter(&folder.join("head"), "lm_head");
        merge(&base, &head, &out).unwrap();
        let rows = (0..SIZE * SIZE).map(|at| SCALING * (at / SIZE) as f32);
        assert_values(&out, "lm_head.weight", &rows.collect::<Vec<_>>());
    }
}

/// A head that lies in another shard must not be added to this one.
#[test]
fn one_shard_is_not_taken_for_the_model() {
    let folder = super::folder("shard");
    let base = folder.join("base");
    let (first, second) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );
    model(&base.join(first), &[("model.q.weight", 1)]);
    model(&base.join(second), &[("lm_head.weight", 2)]);
    let map = json!({"model.q.weight": first, "lm_head.weight": second});
    write(
        &base.join("model.safetensors.index.json"),
        &json!({"weight_map": map}),
    );
    let adapter = adapter(&folder.join("adapter"), "model.q");
    let path = adapter.join("adapter_model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let head = bytes(&weight(5));
    let views: Vec<_> = file
        .tensors()
        .map(|tensor| {
            (
                tensor.name.to_owned(),
                tensor.shape.to_vec(),
                tensor.read().unwrap().to_vec(),
            )
        })
        .chain([(
            "base_model.model.lm_head.weight".into(),
            vec![SIZE, SIZE],
            head,
        )])
        .collect();
    let views = views.iter().map(|(name, shape, data)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    let new = folder.join("new.safetensors");
    safetensors::serialize_to_file(views, None, &new).unwrap();
    std::fs::rename(new, path).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": SCALING,
        "target_modules": ["q"], "modules_to_save": ["lm_head"]});
    write(&adapter.join("adapter_config.json"), &config);
    let out = folder.join("out.safetensors");
    let result = merge(&base.join(first), &adapter, &out);
    assert_refused(
        result,
        &out,
        &["lm_head.weight", "one shard of several", "base"],
    );
    let out = folder.join("out");
    merge(&base, &adapter, &out).unwrap();
    assert_values(&out.join(first), "model.q.weight", &merged(1));
    assert_values(&out.join(second), "lm_head.weight", &weight(5));
}

/// gpt-oss is published in MXFP4, and others' experts are quantised one by one.
#[test]
fn quantised_experts_are_named_as_such() {
    let folder = super::folder("quantised_experts");
    let adapter = folder.join("adapter");
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [],
        "target_parameters": ["mlp.experts.gate_up_proj"]});
    write(&adapter.join("adapter_config.json"), &config);
    // 2 experts, rank 1.
    let module = "base_model.model.model.layers.0.mlp.experts";
    let (a, b) = (
        format!("{module}.lora_A.weight"),
        format!("{module}.lora_B.weight"),
    );
    let tensors: [(&str, Dtype, &[usize]); 2] = [
        (&a, Dtype::F32, &[2, SIZE]),
        (&b, Dtype::F32, &[2 * SIZE, 2]),
    ];
    zeros(&adapter.join("adapter_model.safetensors"), &tensors);
    let experts = "model.layers.0.mlp.experts";
    let named = |endings: &[&'static str]| -> Vec<String> {
        endings
            .iter()
            .map(|ending| format!("{experts}.{ending}"))
            .collect()
    };
    let out = folder.join("out.safetensors");
    for (method, names) in [
        (
            "MXFP4",
            named(&["gate_up_proj_blocks", "gate_up_proj_scales"]),
        ),
        (
            "GPTQ",
            named(&[
                "0.gate_proj.qweight",
                "0.gate_proj.g_idx",
                "0.up_proj.qweight",
            ]),
        ),
    ] {
        let base = folder.join(format!("{method}.safetensors"));
        let tensors: Vec<(&str, Dtype, &[usize])> = { names.iter() }
            .map(|name| (name.as_str(), Dtype::U8, &[2, 8, 1, 16][..]))
            .collect();
        zeros(&base, &tensors);
        let result = merge(&base, &adapter, &out);
        assert_refused(
            result,
            &out,
            &[experts, "quantised", method, "unquantised model"],
        );
    }
}
