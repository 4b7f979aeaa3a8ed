//! Names as trainers and tools write them: wrappers, adapters' names, wholly trained modules.

use lora_kernels_adapters::{Adapter, Kind, ReadOptions, Result};

use crate::made::{CONFIG, Tensors, one_module, peft};
use crate::{assert_refused, read};

const A: &str = "base_model.model.a.q.lora_A.weight";
const B: &str = "base_model.model.a.q.lora_B.weight";

fn adapter(tensors: &Tensors) -> Result<Adapter> {
    of_config(CONFIG, tensors)
}

fn of_config(config: &str, tensors: &Tensors) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    peft(folder.path(), config, &tensors.bytes());
    read(folder.path())
}

fn named(tensors: &Tensors, name: &str) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    peft(folder.path(), CONFIG, &tensors.bytes());
    let options = ReadOptions {
        adapter: Some(name.to_owned()),
        ..ReadOptions::default()
    };
    Adapter::read(folder.path(), &options)
}

fn paths(adapter: &Adapter) -> Vec<&str> {
    adapter.modules().map(|module| module.path).collect()
}

fn saved(adapter: &Adapter) -> Vec<(&str, &str)> {
    adapter
        .saved()
        .map(|saved| (saved.name, saved.tensor.name))
        .collect()
}

fn base_weights(adapter: &Adapter) -> Vec<&str> {
    adapter.base_weights().map(|weight| weight.name).collect()
}

fn reasons(adapter: &Adapter) -> Vec<(&str, &str)> {
    adapter
        .unknown()
        .map(|unknown| (unknown.tensor.name, unknown.reason))
        .collect()
}

/// torch.compile, FSDP, DDP and DeepSpeed put their wrappers' names in front of all names.
#[test]
fn wrappers_in_front_of_every_name_come_off() {
    for prefix in [
        "",
        "base_model.model.",
        "base_model.",
        "_orig_mod.base_model.model.",
        "module.base_model.model.",
        "module._orig_mod.base_model.model.",
        "_fsdp_wrapped_module.base_model.model.",
        "base_model.model._orig_mod.",
        "_orig_mod.module.",
    ] {
        let tensors = Tensors::default().pair(
            &format!("{prefix}a.q.lora_A.weight"),
            &format!("{prefix}a.q.lora_B.weight"),
        );
        let read = adapter(&tensors.with(&format!("{prefix}a.norm.weight"), &[5])).unwrap();
        assert_eq!(paths(&read), ["a.q"], "{prefix}");
        assert_eq!(saved(&read)[0].0, "a.norm.weight", "{prefix}");
    }
    // `module` and `base_model` are the model's own where not every name has them.
    let tensors = Tensors::default()
        .pair("module.q.lora_A.weight", "module.q.lora_B.weight")
        .pair("k.lora_A.weight", "k.lora_B.weight");
    assert_eq!(paths(&adapter(&tensors).unwrap()), ["k", "module.q"]);
}

#[test]
fn wrappers_inside_of_names_are_refused_by_name() {
    for wrapper in [
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
    ] {
        let path = format!("base_model.model.layers.0.{wrapper}.q");
        let tensors = one_module().pair(
            &format!("{path}.lora_A.weight"),
            &format!("{path}.lora_B.weight"),
        );
        assert_refused(adapter(&tensors), &[wrapper, "unwrapped model"]);
    }
}

/// Trainers that save a state dict of their own leave the adapter's name in it.
#[test]
fn one_adapters_name_comes_off() {
    for name in ["default", "default_0", "sft", "weight", "0"] {
        let tensors = Tensors::default()
            .pair(
                &format!("base_model.model.a.q.lora_A.{name}.weight"),
                &format!("base_model.model.a.q.lora_B.{name}.weight"),
            )
            .with(&format!("a.q.lora_B.{name}.bias"), &[5])
            .with(&format!("a.q.lora_magnitude_vector.{name}.weight"), &[5])
            .with(&format!("e.lora_embedding_A.{name}"), &[3, 11])
            .with(&format!("e.lora_embedding_B.{name}"), &[4, 3])
            .with(&format!("score.modules_to_save.{name}.weight"), &[2, 5]);
        let read = adapter(&tensors).unwrap();
        assert_eq!(read.name(), Some(name));
        assert_eq!(paths(&read), ["a.q", "e"]);
        let module = read.module("a.q").unwrap();
        assert!(module.bias.is_some() && module.magnitude.is_some());
        assert_eq!(read.module("e").unwrap().kind, Kind::Embedding);
        assert_eq!(saved(&read)[0].0, "score.weight");
        assert!(reasons(&read).is_empty());
    }
}

#[test]
fn one_of_several_adapters_is_chosen_by_name() {
    let two = Tensors::default()
        .pair("a.q.lora_A.x.weight", "a.q.lora_B.x.weight")
        .with("a.q.lora_A.y.weight", &[3, 9])
        .with("a.q.lora_B.y.weight", &[4, 3])
        .with("score.modules_to_save.x.weight", &[2, 2])
        .with("score.modules_to_save.y.weight", &[2, 3]);
    assert_refused(adapter(&two), &["several adapters", "x, y"]);
    let y = named(&two, "y").unwrap();
    let module = y.module("a.q").unwrap();
    assert_eq!((module.in_features, module.out_features), (9, 4));
    assert_eq!(
        saved(&y),
        [("score.weight", "score.modules_to_save.y.weight")]
    );
    let left_out: Vec<_> = y.left_out().map(|part| part.tensor.name).collect();
    assert_eq!(
        left_out,
        [
            "a.q.lora_A.x.weight",
            "a.q.lora_B.x.weight",
            "score.modules_to_save.x.weight"
        ]
    );
    assert_refused(named(&two, "z"), &["no adapter z", "x, y"]);
    let dots = Tensors::default().pair("q.lora_A.v1.2.weight", "q.lora_B.v1.2.weight");
    assert_refused(adapter(&dots), &["v1.2", "dots"]);
}

/// A state dict that wasn't saved by save_pretrained keeps PEFT's wrapper of a module that was
/// trained whole.
#[test]
fn modules_trained_whole_are_found_under_peft_s_wrapper() {
    let score = "base_model.model.score";
    let one = one_module().with(&format!("{score}.modules_to_save.weight"), &[2, 5]);
    let read = adapter(&one).unwrap();
    assert_eq!(
        saved(&read),
        [(
            "score.weight",
            "base_model.model.score.modules_to_save.weight"
        )]
    );
    let both = one_module()
        .with(&format!("{score}.modules_to_save.default.weight"), &[2, 5])
        .with(&format!("{score}.original_module.weight"), &[2, 5]);
    let read = adapter(&both).unwrap();
    assert_eq!(saved(&read)[0].0, "score.weight");
    assert_eq!(base_weights(&read), ["score.weight"]);
    assert!(reasons(&read).is_empty());

    // A module of several layers, with and without the adapter's name.
    for name in ["default.", ""] {
        let head = one_module()
            .with(
                &format!("classifier.modules_to_save.{name}dense.weight"),
                &[5, 5],
            )
            .with(
                &format!("classifier.modules_to_save.{name}out_proj.weight"),
                &[2, 5],
            );
        let read = adapter(&head).unwrap();
        let names: Vec<_> = saved(&read).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["classifier.dense.weight", "classifier.out_proj.weight"]
        );
    }
}

/// Another name than `default` may be the adapter's or a submodule's, unless something tells.
#[test]
fn the_name_of_an_adapter_is_told_from_a_submodule_s() {
    let doubtful = one_module().with("score.modules_to_save.mine.weight", &[2, 5]);
    let read = adapter(&doubtful).unwrap();
    assert_eq!(saved(&read), []);
    let (name, reason) = reasons(&read)[0];
    assert_eq!(name, "score.modules_to_save.mine.weight");
    assert!(reason.contains("--adapter mine"), "{reason}");
    assert_eq!(
        saved(&named(&doubtful, "mine").unwrap())[0].0,
        "score.weight"
    );
    // The base's own copy tells.
    let original = |name: &str| {
        let read = adapter(&doubtful.clone().with(name, &[2, 5])).unwrap();
        saved(&read)[0].0.to_owned()
    };
    assert_eq!(original("score.original_module.weight"), "score.weight");
    assert_eq!(
        original("score.original_module.mine.weight"),
        "score.mine.weight"
    );
    // Another module with the same name in it doesn't: both may have a submodule of that name.
    let two = doubtful.with("head.modules_to_save.mine.weight", &[3, 5]);
    let read = adapter(&two).unwrap();
    assert_eq!((saved(&read).len(), reasons(&read).len()), (0, 2));
    let read = named(&two, "mine").unwrap();
    let names: Vec<_> = saved(&read).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["head.weight", "score.weight"]);
}

/// Leaving such a tensor out alone would leave B·A, which isn't what was trained.
#[test]
fn what_changes_b_a_makes_its_module_unreadable() {
    for name in ["lora_E", "lora_mid.weight", "lora_A.bias", "ranknum"] {
        let name = format!("base_model.model.a.q.{name}");
        let tensors = one_module()
            .with(&name, &[3, 1])
            .pair("a.k.lora_A.weight", "a.k.lora_B.weight");
        let read = adapter(&tensors).unwrap();
        assert_eq!(paths(&read), ["a.k"]);
        let mut found: Vec<_> = reasons(&read).into_iter().map(|(name, _)| name).collect();
        found.retain(|found| *found != name);
        assert_eq!(found, [A, B]);
    }
}

/// The alpha of a snake activation is a parameter that may have one number.
#[test]
fn parameters_called_alpha_are_saved_once() {
    let config = CONFIG.replace("\"r\"", "\"modules_to_save\": [\"act\"], \"r\"");
    let one = one_module().with("base_model.model.l.act.alpha", &[1]);
    let name = "base_model.model.l.act.alpha";
    let read = of_config(&config, &one).unwrap();
    assert_eq!(saved(&read), [("l.act.alpha", name)]);
    let copy = "base_model.model.l.act.modules_to_save.default.alpha";
    let read = of_config(&config, &one.clone().with(copy, &[1])).unwrap();
    assert_eq!(saved(&read).len(), 1);
    let two = one.number(copy, &[1], 3.0);
    assert_refused(of_config(&config, &two), &["same tensor", name, copy]);
}

#[test]
fn a_base_s_copy_without_the_trained_one_is_not_understood() {
    let lost = one_module().with("score.original_module.weight", &[2, 5]);
    let read = adapter(&lost).unwrap();
    assert!(saved(&read).is_empty() && base_weights(&read).is_empty());
    assert!(reasons(&read)[0].1.contains("isn't in the file"));
}

#[test]
fn base_layers_are_the_base_s() {
    let tensors = one_module()
        .with("base_model.model.a.q.base_layer.weight", &[5, 7])
        .with("base_model.model.a.q.base_layer.bias", &[5]);
    let read = adapter(&tensors).unwrap();
    assert_eq!(base_weights(&read), ["a.q.bias", "a.q.weight"]);
    let trained = CONFIG.replace("\"r\"", "\"bias\": \"lora_only\", \"r\"");
    let read = of_config(&trained, &tensors).unwrap();
    assert_eq!(base_weights(&read), ["a.q.weight"]);
    assert_eq!(saved(&read)[0].0, "a.q.bias");
}

/// DeepSpeed's ZeRO-3 leaves empty tensors where it doesn't gather them.
#[test]
fn empty_tensors_are_not_understood() {
    for name in [
        "base_model.model.score.weight",
        "base_model.model.score.modules_to_save.weight",
        "base_model.model.a.q.base_layer.weight",
        "base_model.model.e.token_adapter.trainable_tokens_delta",
    ] {
        let read = adapter(&one_module().with(name, &[0])).unwrap();
        assert!(saved(&read).is_empty() && base_weights(&read).is_empty());
        let (found, reason) = reasons(&read)[0];
        assert_eq!(found, name);
        assert!(reason.contains("ZeRO-3"), "{reason}");
    }
    for shape in [&[0][..], &[0, 7]] {
        let empty = one_module().with(A, shape).with(B, &[0]);
        assert_refused(adapter(&empty), &[A, "no size may be 0", "ZeRO-3"]);
        // Such a pair can be left out, and so it is only told.
        let folder = tempfile::tempdir().unwrap();
        let two = empty.pair("a.k.lora_A.weight", "a.k.lora_B.weight");
        peft(folder.path(), CONFIG, &two.bytes());
        let options = ReadOptions {
            partial: true,
            ..ReadOptions::default()
        };
        let read = Adapter::read(folder.path(), &options).unwrap();
        assert_eq!(paths(&read), ["a.k"]);
        let found: Vec<_> = reasons(&read).into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, [A, B]);
    }
}

/// PEFT matches patterns with the path in the model that it was given, wrappers and all.
#[test]
fn patterns_match_with_the_model_s_own_wrappers() {
    let config = CONFIG.replace("\"r\"", "\"alpha_pattern\": {\"module.l.0.q\": 9}, \"r\"");
    let pair = |path: &str| {
        Tensors::default().pair(
            &format!("{path}.lora_A.weight"),
            &format!("{path}.lora_B.weight"),
        )
    };
    for (path, scaling) in [
        ("base_model.model.module.l.0.q", 3.0),
        ("module.base_model.model.l.0.q", (5.0f64 / 3.0) as f32),
    ] {
        let read = of_config(&config, &pair(path)).unwrap();
        assert_eq!(read.module("l.0.q").unwrap().scaling, scaling, "{path}");
    }
}

#[test]
fn other_methods_tensors_are_kept_apart() {
    let tensors = one_module()
        .with("a.k.hada_w1_a", &[3, 3])
        .with("a.k.lora_mid.weight", &[3, 3, 3])
        .with("a.v.lora_E", &[3, 1]);
    let read = adapter(&tensors).unwrap();
    let found: Vec<_> = reasons(&read).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        found,
        ["a.k.hada_w1_a", "a.k.lora_mid.weight", "a.v.lora_E"]
    );
    assert!(saved(&read).is_empty());
    assert_refused(
        adapter(&Tensors::default().pair("a.q.lora_a", "a.q.lora_b")),
        &["MLX"],
    );
}

#[test]
fn types_may_differ_within_a_pair() {
    for (a, b) in [("F64", "F64"), ("F32", "BF16"), ("F16", "F32")] {
        let tensors = Tensors::default().typed(A, a, &[3, 7]).typed(B, b, &[5, 3]);
        let read = adapter(&tensors).unwrap();
        let module = read.module("a.q").unwrap();
        assert_eq!(
            (
                format!("{:?}", module.a.dtype),
                format!("{:?}", module.b.dtype)
            ),
            (a.to_owned(), b.to_owned())
        );
    }
}
