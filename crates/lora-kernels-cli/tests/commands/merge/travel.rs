//! What travels with a merged model: adapters' tokenizers and other files, config.json, the index.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::names;
use crate::common::assert_refused;
use crate::scene::{Numbers, Scene};

/// A model's folder and adapters for its only weight.
fn scene(test: &str, adapters: &[&str]) -> Scene {
    let scene = Scene::new("travel", test);
    let (weight, embed) = (scene.random(&[4, 4]), scene.random(&[6, 4]));
    let tensors = [("q.weight", &weight), ("embed_tokens.weight", &embed)];
    scene.put("base/model.safetensors", &tensors);
    scene.text("base/config.json", r#"{"vocab_size": 6}"#);
    for adapter in adapters {
        scene.adapter_of(adapter, "q", [4, 4]);
    }
    scene
}

fn text(scene: &Scene, path: &str) -> String {
    std::fs::read_to_string(scene.path(path)).unwrap()
}

/// Files that a trainer writes for itself, and the base's own files in another form, stay where
/// they are.
#[test]
fn only_what_belongs_to_a_model_is_taken_from_an_adapter() {
    let scene = scene("taken", &["a"]);
    scene.text("base/tokenizer_config.json", r#"{"a": 1, "b": [2]}"#);
    scene.text("base/merges.txt", "x y");
    for name in [
        "README.md",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
        "trainer_state.json",
        "tokenization_own.py",
    ] {
        scene.text(&format!("a/{name}"), "not a model's");
    }
    scene.text("a/config.json", r#"{"vocab_size": 1}"#);
    scene.text(
        "a/tokenizer_config.json",
        "{\n  \"b\": [2],\n  \"a\": 1\n}\n",
    );
    scene.text("a/merges.txt", "x y");
    let before = scene.json(&["base", "a"], "out", &[]);
    assert_eq!(before["taken_over"], json!([]));
    let warning = before["warnings"][0].as_str().unwrap();
    assert!(warning.contains("tokenization_own.py is code"), "{warning}");
    let all = [
        "generation_config.json",
        "preprocessor_config.json",
        "qwen.tiktoken",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.model.v3",
        "vocab.json",
    ];
    for name in all {
        scene.text(&format!("a/{name}"), "the adapter's");
        assert!(!scene.path("out").join(name).exists());
    }
    scene.text("a/additional_chat_templates/tools.jinja", "the adapter's");
    scene.text("a/additional_chat_templates/notes.txt", "not a model's");
    scene.text("base/vocab.json", "the base's");
    let report = scene.json(&["base", "a"], "out", &[]);
    let taken = report["taken_over"].as_array().unwrap();
    assert_eq!(taken.len(), all.len() + 1, "{report}");
    for name in all
        .into_iter()
        .chain(["additional_chat_templates/tools.jinja"])
    {
        assert_eq!(text(&scene, &format!("out/{name}")), "the adapter's");
        let entry = taken.iter().find(|entry| entry["file"] == name).unwrap();
        assert_eq!(entry["instead_of_the_bases"], json!(name == "vocab.json"));
    }
    let others = [
        "additional_chat_templates",
        "config.json",
        "merges.txt",
        "model.safetensors",
    ];
    let mut expected = [&all[..], &others, &["tokenizer_config.json"]].concat();
    expected.sort_unstable();
    assert_eq!(names(&scene.path("out")), expected);
    assert_eq!(
        names(&scene.path("out/additional_chat_templates")),
        ["tools.jinja"]
    );
    assert_eq!(text(&scene, "out/config.json"), r#"{"vocab_size": 6}"#);
}

/// The tokenizers of two adapters can't both be the model's.
#[test]
fn adapters_that_disagree_need_a_decision() {
    let scene = scene("disagree", &["one", "two", "plain"]);
    scene.text("base/tokenizer.json", r#"{"of": "base"}"#);
    scene.text("one/tokenizer.json", r#"{"of": "one"}"#);
    scene.text("two/tokenizer.json", r#"{"of": "two"}"#);
    scene.text("plain/tokenizer.json", r#"{ "of": "base" }"#);
    let fragments = [
        "adapters 1 and 2",
        "tokenizer.json",
        "--files-from 1, 2 or base",
    ];
    scene.refused(&["base", "one", "two"], &[], &fragments);
    let merged = |inputs: &[&str], from: &[&str]| {
        scene.merge(&[&["base"], inputs].concat(), "out", from);
        text(&scene, "out/tokenizer.json")
    };
    assert_eq!(
        merged(&["one", "two"], &["--files-from", "2"]),
        r#"{"of": "two"}"#
    );
    assert_eq!(
        merged(&["one", "two"], &["--files-from", "base"]),
        r#"{"of": "base"}"#
    );
    // An adapter with the base's own tokenizer has nothing against another one's.
    assert_eq!(merged(&["plain", "two"], &[]), r#"{"of": "two"}"#);
    scene.text("one/tokenizer.json", r#"{ "of": "two" }"#);
    merged(&["one", "two"], &[]);
    std::fs::remove_dir_all(scene.path("out")).unwrap();
    // A tokenizer isn't mixed from two places.
    scene.text("one/added_tokens.json", "{}");
    scene.refused(&["base", "one", "two"], &[], &["added_tokens.json"]);
    for (from, fragment) in [
        ("3", "the number of adapters is 2"),
        ("0", "from 1"),
        ("x", "base"),
    ] {
        let (status, message) =
            { scene.run(&["base", "one", "two"], "out", &["--files-from", from]) }.unwrap_err();
        assert!(status == 2 && message.contains(fragment), "{message}");
    }
    let output = scene.program("unmerge", &["base", "one"], "out", &["--files-from", "1"]);
    assert_refused(&output, 2, &["--files-from is for merge"]);
}

/// transformers prefers chat_template.jinja to the template in tokenizer_config.json, and the maps
/// of special tokens repeat what the tokenizer's main files say.
#[test]
fn files_of_the_base_that_contradict_the_adapters_tokenizer_are_left_out() {
    let scene = scene("contradict", &["a"]);
    let template = r#"{"chat_template": "the adapter's", "eos_token": "<|im_end|>"}"#;
    scene.text("a/tokenizer_config.json", template);
    scene.text("a/tokenizer.json", "{}");
    scene.text("base/chat_template.jinja", "the base's");
    scene.text("base/special_tokens_map.json", r#"{"eos_token": "</s>"}"#);
    scene.text("base/tokenizer_config.json", "{}");
    let report = scene.json(&["base", "a"], "out", &[]);
    for name in ["chat_template.jinja", "special_tokens_map.json"] {
        assert!(!scene.path("out").join(name).exists());
        let left_out = report["left_out"].as_array().unwrap();
        let said = left_out
            .iter()
            .any(|entry| entry.as_str().unwrap().starts_with(name));
        assert!(said, "{report}");
    }
    scene.text("base/chat_template.jinja", "the adapter's");
    scene.merge(&["base", "a"], "out", &[]);
    assert!(scene.path("out/chat_template.jinja").exists());
    // The base's template lies in the config that is replaced by one without.
    std::fs::remove_file(scene.path("base/chat_template.jinja")).unwrap();
    scene.text(
        "base/tokenizer_config.json",
        r#"{"chat_template": "the base's"}"#,
    );
    scene.text("a/tokenizer_config.json", r#"{"eos_token": "x"}"#);
    let report = scene.json(&["base", "a"], "out", &[]);
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(
        warning.contains("has no chat template, which the base's has"),
        "{report}"
    );
}

/// A reader prefers chat_template.jinja and the folder of further templates to every other place.
/// Wherever the adapter has its template, the base's must not win.
#[test]
fn the_bases_chat_templates_give_way_to_the_adapters() {
    let list = r#"{"chat_template": [{"name": "default", "template": "ours"},
        {"name": "tools", "template": "ours too"}]}"#;
    for (name, content, expected) in [
        ("chat_template.json", r#"{"chat_template": "ours"}"#, true),
        (
            "chat_template.json",
            r#"{"chat_template": "theirs"}"#,
            false,
        ),
        (
            "tokenizer_config.json",
            r#"{"chat_template": "ours"}"#,
            true,
        ),
        ("tokenizer_config.json", list, true),
        (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "default", "template": "theirs"}]}"#,
            false,
        ),
        ("tokenizer_config.json", r#"{"eos_token": "x"}"#, false),
    ] {
        let scene = scene("templates", &["a"]);
        scene.text("base/chat_template.jinja", "theirs");
        scene.text("base/additional_chat_templates/tools.jinja", "theirs too");
        scene.text(&format!("a/{name}"), content);
        let report = scene.json(&["base", "a"], "out", &[]);
        for file in [
            "chat_template.jinja",
            "additional_chat_templates/tools.jinja",
        ] {
            let is_left_out = !scene.path("out").join(file).exists();
            assert_eq!(is_left_out, expected, "{content}: {file}");
            let said = { report["left_out"].as_array().unwrap().iter() }
                .any(|entry| entry.as_str().unwrap().starts_with(file));
            assert_eq!(said, expected, "{report}");
        }
        assert_eq!(text(&scene, &format!("out/{name}")), content);
    }
    // The other way round, the older file would say otherwise.
    let scene = scene("templates", &["a"]);
    scene.text("base/chat_template.json", r#"{"chat_template": "theirs"}"#);
    scene.text("a/chat_template.jinja", "ours");
    scene.merge(&["base", "a"], "out", &[]);
    assert!(!scene.path("out/chat_template.json").exists());
    assert_eq!(text(&scene, "out/chat_template.jinja"), "ours");
}

/// A folder from elsewhere must not bring files of this machine into the result.
#[test]
fn links_out_of_an_adapters_folder_are_not_followed() {
    let scene = scene("links", &["a"]);
    scene.text("secret.json", "secret");
    symlink("../secret.json", scene.path("a/tokenizer.json")).unwrap();
    symlink("adapter_config.json", scene.path("a/vocab.json")).unwrap();
    let report = scene.json(&["base", "a"], "out", &[]);
    assert!(!scene.path("out/tokenizer.json").exists());
    assert!(!scene.path("out/vocab.json").is_symlink() && scene.path("out/vocab.json").exists());
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("leads out of the adapter's folder"),
        "{warning}"
    );
}

/// A token without a row makes readers fail on its first use.
#[test]
fn a_tokenizer_with_more_tokens_than_rows_is_warned_of() {
    let scene = scene("rows", &["a"]);
    let warned = |name: &str, tokenizer: &str| {
        scene.text(&format!("a/{name}"), tokenizer);
        let report = scene.json(&["base", "a"], "out", &[]);
        std::fs::remove_file(scene.path("a").join(name)).unwrap();
        let warnings = report["warnings"].as_array().unwrap().clone();
        let of_rows = |warning: &serde_json::Value| {
            let text = warning.as_str().unwrap();
            text.contains("have 6 rows").then(|| text.to_owned())
        };
        warnings.iter().find_map(of_rows)
    };
    for (name, tokenizer, ids) in [
        (
            "tokenizer.json",
            r#"{"model": {"vocab": {"a": 0, "b": 5}}}"#,
            None,
        ),
        (
            "tokenizer.json",
            r#"{"model": {"vocab": {"a": 6, "b": 0}}}"#,
            Some("up to 6"),
        ),
        (
            "tokenizer.json",
            r#"{"model": {"vocab": [["a", 0.5], ["b", 1]]}}"#,
            None,
        ),
        (
            "tokenizer.json",
            r#"{"added_tokens": [{"id": 7, "content": "<x>"}], "model": {"type": "BPE"}}"#,
            Some("up to 7"),
        ),
        ("added_tokens.json", r#"{"<x>": 5}"#, None),
        (
            "added_tokens.json",
            r#"{"<x>": 5, "<y>": 8}"#,
            Some("up to 8"),
        ),
    ] {
        let warning = warned(name, tokenizer);
        assert_eq!(warning.is_some(), ids.is_some(), "{tokenizer}: {warning:?}");
        assert!(
            warning
                .unwrap_or_default()
                .contains(ids.unwrap_or_default())
        );
    }
}

/// A single file has no place for a tokenizer.
#[test]
fn a_file_is_written_alone_and_what_it_lacks_is_said() {
    let scene = scene("file", &["a"]);
    scene.text("a/tokenizer.json", "{}");
    let inputs = ["base/model.safetensors", "a"];
    let printed = scene.printed(&inputs, "out.safetensors", &[]);
    assert!(
        printed.contains("a/tokenizer.json (OUT is a file"),
        "{printed}"
    );
    assert_eq!(names(&scene.folder), ["a", "base", "out.safetensors"]);
}

/// Names without a folder lie in the current one.
#[test]
fn an_adapters_file_may_be_named_from_its_own_folder() {
    let scene = scene("current", &["a"]);
    scene.text("a/tokenizer.json", "{}");
    let inside = |folder: &str, inputs: [&str; 2], out: &str| {
        let mut command = crate::common::lora_kernels();
        command.current_dir(scene.path(folder));
        command
            .arg("merge")
            .args(inputs)
            .args(["-o", out, "--device", "cpu"]);
        crate::common::assert_status(&command.output().unwrap(), 0);
    };
    inside("a", ["../base", "adapter_model.safetensors"], "../out");
    assert_eq!(text(&scene, "out/tokenizer.json"), "{}");
    inside("base", [".", "../a"], "../again");
    assert_eq!(text(&scene, "again/tokenizer.json"), "{}");
    let tensors = scene.get("base/model.safetensors");
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, numbers)| (&**name, numbers))
        .collect();
    scene.shards(
        "sharded/model.safetensors.index.json",
        &[("model-1.safetensors", &tensors)],
    );
    inside(
        "sharded",
        ["model.safetensors.index.json", "../a"],
        "../third",
    );
    assert_eq!(text(&scene, "third/tokenizer.json"), "{}");
}

/// Taking an adapter out gives no other tokenizer than the merged model's.
#[test]
fn unmerging_leaves_files_as_they_are_and_says_so() {
    let scene = scene("unmerge", &["a"]);
    scene.text("a/tokenizer.json", r#"{"of": "the adapter"}"#);
    scene.merge(&["base", "a"], "out", &[]);
    let output = scene.program("unmerge", &["out", "a"], "back", &[]);
    crate::common::assert_status(&output, 0);
    assert_eq!(
        text(&scene, "back/tokenizer.json"),
        r#"{"of": "the adapter"}"#
    );
    let printed = crate::common::stdout(&output);
    assert!(
        printed.contains("warning: BASE's tokenizer.json"),
        "{printed}"
    );
}

/// Trainers' checkpoints below a base are other models, and some formats hold its unmerged weights.
#[test]
fn checkpoints_and_other_formats_below_a_base_are_left_out() {
    let scene = scene("below", &["a"]);
    scene.text("base/checkpoint-500/model.safetensors", "x");
    scene.text("base/onnx/model.onnx_data", "x");
    scene.text("base/onnx/config.json", "kept");
    scene.text("base/rust_model.ot", "x");
    let report = scene.json(&["base", "a"], "out", &[]);
    let left_out = json!(["checkpoint-500", "onnx/model.onnx_data", "rust_model.ot"]);
    assert_eq!(report["left_out"], left_out);
    assert_eq!(
        names(&scene.path("out")),
        ["config.json", "model.safetensors", "onnx"]
    );
    assert_eq!(names(&scene.path("out/onnx")), ["config.json"]);
}

/// Heads whose class config.json doesn't name, of several tasks.
#[test]
fn an_added_head_is_compared_with_config_json() {
    let scene = scene("heads", &[]);
    let (a, b) = scene.pair(4, 4, 2);
    let warning = |config: &str, task: &str, name: &str, head: &Numbers| {
        scene.text("base/config.json", config);
        let key = format!("base_model.model.{name}");
        let tensors = [
            ("base_model.model.q.lora_A.weight", &a),
            ("base_model.model.q.lora_B.weight", &b),
            (&key, head),
        ];
        let module = name.strip_suffix(".weight").unwrap();
        let fields = json!({"task_type": task, "modules_to_save": [module]});
        scene.adapter("a", fields, &tensors);
        let report = scene.json(&["base", "a"], "out", &[]);
        assert_eq!(report["added"], json!([name]));
        let warnings = report["warnings"].as_array().unwrap().clone();
        warnings
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let score = scene.random(&[3, 4]);
    let base = r#"{"architectures": ["QwenForCausalLM"]}"#;
    for (config, task, name, said) in [
        (
            base,
            "SEQ_CLS",
            "score.weight",
            "[\"QwenForSequenceClassification\"] and its num_labels to 3",
        ),
        (
            base,
            "TOKEN_CLS",
            "score.weight",
            "[\"QwenForTokenClassification\"] and its num_labels to 3",
        ),
        (
            base,
            "QUESTION_ANS",
            "qa_outputs.weight",
            "[\"QwenForQuestionAnswering\"]",
        ),
        (
            base,
            "CAUSAL_LM",
            "value_head.weight",
            "must have a module value_head",
        ),
        (
            "{}",
            "SEQ_CLS",
            "classifier.weight",
            "[\"...ForSequenceClassification\"]",
        ),
        (
            r#"{"architectures": ["QwenForSequenceClassification"]}"#,
            "SEQ_CLS",
            "score.weight",
            "its num_labels to 3",
        ),
    ] {
        let warning = warning(config, task, name, &score);
        assert!(
            warning.contains(said) && warning.contains("config.json"),
            "{warning}"
        );
    }
    for fits in [
        r#""id2label": {"0": "a", "1": "b", "2": "c"}"#,
        r#""num_labels": 3"#,
    ] {
        let config = format!("{{\"architectures\": [\"QwenForSequenceClassification\"], {fits}}}");
        assert_eq!(warning(&config, "SEQ_CLS", "score.weight", &score), "");
    }
}

/// OUT must not take the place of a file that is read, wherever links lead and BASE was found.
#[test]
fn outputs_spare_what_is_read_through_links_and_below_base() {
    let scene = scene("spared", &["a"]);
    std::fs::create_dir_all(scene.path("linked")).unwrap();
    for name in ["model.safetensors", "config.json"] {
        symlink(format!("../base/{name}"), scene.path("linked").join(name)).unwrap();
    }
    let tensors = scene.get("base/model.safetensors");
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, numbers)| (&**name, numbers))
        .collect();
    scene.shards(
        "sharded/model.safetensors.index.json",
        &[("model-1.safetensors", &tensors)],
    );
    let refused = |base: &str, out: &str, fragment: &str| {
        let (status, message) = scene.run(&[base, "a"], out, &[]).unwrap_err();
        assert_eq!(status, 2);
        assert!(message.contains(fragment), "{message}");
    };
    refused("linked", "base", "lies there");
    refused(
        "sharded/model.safetensors.index.json",
        "sharded",
        "BASE itself",
    );
    refused(
        "sharded/model.safetensors.index.json",
        "sharded/out",
        "inside of BASE",
    );
    for (folder, other) in [
        ("trained", "checkpoint-5/model.safetensors"),
        ("both", "adapter_config.json"),
        ("repository", ".git/HEAD"),
    ] {
        scene.put(&format!("{folder}/model.safetensors"), &tensors);
        scene.text(&format!("{folder}/config.json"), "{}");
        scene.text(&format!("{folder}/{other}"), "valuable");
        refused("base", folder, "--force replaces none");
        assert_eq!(text(&scene, &format!("{folder}/{other}")), "valuable");
    }
    scene.put("diffusers/diffusion_pytorch_model.safetensors", &tensors);
    scene.text("diffusers/config.json", "{}");
    scene.merge(&["base", "a"], "diffusers", &[]);
    assert_eq!(
        names(&scene.path("diffusers")),
        ["config.json", "model.safetensors"]
    );
}
