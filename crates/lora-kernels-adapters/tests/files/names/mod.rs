//! Finding an adapter's names in a base model, and refusing where they could be others.

mod components;
mod refusals;

use lora_kernels_adapters::base::{Fits, Mapping, Resolver, Wanted};
use lora_kernels_adapters::{BaseModel, Error};
use serde_json::json;

use crate::assert_refused;
use crate::made::{Tensors, file};

/// A model of these tensors. Those without a shape have [2, 3].
fn base(names: &[&str]) -> BaseModel {
    shaped(
        &names
            .iter()
            .map(|name| (*name, &[2, 3][..]))
            .collect::<Vec<_>>(),
    )
}

fn shaped(tensors: &[(&str, &[usize])]) -> BaseModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let (start, bytes) = (end, 4 * shape.iter().product::<usize>());
        end += bytes;
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
    }
    let file = file(&serde_json::Value::from(header).to_string(), &vec![0; end]);
    std::fs::write(&path, file).unwrap();
    BaseModel::open(&path).unwrap()
}

fn required(name: &str) -> Wanted {
    Wanted {
        name: name.to_owned(),
        component: None,
        flattened: false,
        fits: Fits::Matrix {
            out_features: 2,
            in_features: 3,
        },
        required: true,
    }
}

/// As the tensors beside the modules are wanted: they need not be there.
fn saved(name: &str) -> Wanted {
    Wanted {
        required: false,
        ..required(name)
    }
}

fn of(component: &str, wanted: Wanted) -> Wanted {
    Wanted {
        component: Some(component.to_owned()),
        ..wanted
    }
}

fn all(names: &[&str]) -> Vec<Wanted> {
    names.iter().map(|name| required(name)).collect()
}

fn mapping(replacements: &[&str]) -> Mapping {
    Mapping::new(replacements.iter().map(|text| text.parse().unwrap())).unwrap()
}

fn resolver<'a>(base: &'a BaseModel, wanted: &[Wanted]) -> Resolver<'a> {
    Resolver::new(base, wanted, &Mapping::default(), &[])
}

/// The names in the base model, and the replacements that were found.
#[track_caller]
fn assert_found(base: &BaseModel, wanted: &[Wanted], names: &[&str], replacements: &[&str]) {
    let resolver = resolver(base, wanted);
    let found: Vec<&str> = wanted
        .iter()
        .map(|wanted| {
            let component = wanted.component.as_deref();
            resolver.resolve(component, &wanted.name).unwrap().name
        })
        .collect();
    assert_eq!(found, names);
    let found: Vec<String> = resolver.found().iter().map(ToString::to_string).collect();
    assert_eq!(found, replacements);
    assert!(resolver.fit().is_full());
}

/// No name is found, and the error about the first has these fragments.
#[track_caller]
fn assert_not_found(base: &BaseModel, wanted: &[Wanted], fragments: &[&str]) {
    let resolver = resolver(base, wanted);
    for wanted in wanted {
        let name = wanted.name.as_str();
        assert!(
            resolver.resolve(wanted.component.as_deref(), name).is_err(),
            "{name}"
        );
    }
    let first = &wanted[0];
    assert_refused(
        resolver.resolve(first.component.as_deref(), &first.name),
        fragments,
    );
}

#[test]
fn a_prefix_that_one_of_the_two_lacks_is_found() {
    let bert = base(&[
        "bert.encoder.0.q.weight",
        "bert.encoder.1.q.weight",
        "classifier.weight",
    ]);
    let names = ["bert.encoder.0.q.weight", "bert.encoder.1.q.weight"];
    assert_found(&bert, &all(&names), &names, &[]);
    let without = ["encoder.0.q.weight", "encoder.1.q.weight"];
    assert_found(&bert, &all(&without), &names, &["=bert."]);
    let other = base(&without);
    assert_found(&other, &all(&names), &without, &["bert.="]);

    let resolver = resolver(&bert, &all(&["encoder.0.q.weight", "encoder.2.q.weight"]));
    assert_refused(
        resolver.resolve(None, "encoder.2.q.weight"),
        &["encoder.2.q.weight", "bert.encoder.1.q.weight"],
    );
    assert_not_found(
        &bert,
        &all(&["encoder.0.out.weight"]),
        &["encoder.0.out.weight", "base model?"],
    );
    assert_not_found(&bert, &all(&["er.0.q.weight"]), &["not in the base model"]);
    assert_not_found(
        &base(&["a.0.q.weight", "b.0.q.weight"]),
        &all(&["0.q.weight"]),
        &["a.0.q.weight", "b.0.q.weight"],
    );
}

#[test]
fn stated_replacements_come_first_and_are_counted() {
    let base = base(&["layers.0.q.weight", "deep.layers.0.q.weight"]);
    let wanted = all(&["layers.0.q.weight"]);
    let stated = mapping(&["layers.=deep.layers", "other=x"]);
    let resolver = Resolver::new(&base, &wanted, &stated, &[]);
    let found = resolver.resolve(None, "layers.0.q.weight").unwrap();
    assert_eq!(found.name, "deep.layers.0.q.weight");
    assert_eq!(resolver.used().iter().copied().collect::<Vec<_>>(), [0]);
}

#[test]
fn replacements_are_written_as_they_are_read() {
    for (text, shown) in [
        (
            "model.language_model.=model.",
            "model.language_model.=model.",
        ),
        ("backbone=model", "backbone.=model."),
        ("=bert", "=bert."),
        ("bert.=", "bert.="),
        ("lm_head=lm_head.", "lm_head.=lm_head."),
    ] {
        let replacement: lora_kernels_adapters::base::Replacement = text.parse().unwrap();
        assert_eq!(replacement.to_string(), shown);
    }
    for text in ["model", "a..b=c", ".=", "a=.b"] {
        let parsed = text.parse::<lora_kernels_adapters::base::Replacement>();
        assert!(parsed.is_err(), "{text}");
    }
    let twice = ["a=b", "a.=c"].map(|text| text.parse().unwrap());
    assert!(Mapping::new(twice).unwrap_err().contains("a.=b."));
    let mapping = mapping(&["a=x", "a.b=y", "=z"]);
    for (name, expected) in [
        ("a.b.c", "y.c"),
        ("a.bc", "x.bc"),
        ("a", "x"),
        ("ab.c", "z.ab.c"),
    ] {
        assert_eq!(mapping.apply(name), expected);
    }
}

/// Vision-language models as they are on disk, and as transformers names them since 4.52.
#[test]
fn trees_of_vision_language_models_are_found_in_each_other() {
    const GEMMA: [&str; 5] = [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.model.embed_tokens.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.lm_head.weight",
    ];
    const GEMMA_NOW: [&str; 5] = [
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "model.language_model.embed_tokens.weight",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.multi_modal_projector.linear_1.weight",
        "lm_head.weight",
    ];
    const QWEN: [&str; 5] = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.embed_tokens.weight",
        "visual.blocks.0.attn.qkv.weight",
        "visual.merger.mlp.0.weight",
        "lm_head.weight",
    ];
    const QWEN_NOW: [&str; 5] = [
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "model.language_model.embed_tokens.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "model.visual.merger.mlp.0.weight",
        "lm_head.weight",
    ];
    const MLLAMA: [&str; 5] = [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.model.embed_tokens.weight",
        "vision_model.transformer.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.weight",
        "language_model.lm_head.weight",
    ];
    const MLLAMA_NOW: [&str; 5] = [
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "model.language_model.embed_tokens.weight",
        "model.vision_model.transformer.layers.0.self_attn.q_proj.weight",
        "model.multi_modal_projector.weight",
        "lm_head.weight",
    ];
    let cases = [
        (
            GEMMA_NOW,
            GEMMA,
            vec![
                "lm_head.=language_model.lm_head.",
                "model.=",
                "model.language_model.=language_model.model.",
            ],
        ),
        (
            GEMMA,
            GEMMA_NOW,
            vec![
                "=model.",
                "language_model.lm_head.=lm_head.",
                "language_model.model.=model.language_model.",
            ],
        ),
        (
            QWEN_NOW,
            QWEN,
            vec!["model.=", "model.language_model.=model."],
        ),
        (
            QWEN,
            QWEN_NOW,
            vec![
                "=model.",
                "lm_head.=lm_head.",
                "model.=model.language_model.",
            ],
        ),
        (
            MLLAMA_NOW,
            MLLAMA,
            vec![
                "lm_head.=language_model.lm_head.",
                "model.=",
                "model.language_model.=language_model.model.",
            ],
        ),
        (
            MLLAMA,
            MLLAMA_NOW,
            vec![
                "=model.",
                "language_model.lm_head.=lm_head.",
                "language_model.model.=model.language_model.",
            ],
        ),
    ];
    for (ours, theirs, replacements) in cases {
        let base = base(&theirs);
        assert_found(&base, &all(&ours), &theirs, &replacements);
        // The same as saved tensors beside the language model's layers.
        let mut wanted: Vec<Wanted> = ours.iter().map(|name| saved(name)).collect();
        wanted[0].required = true;
        let resolver = resolver(&base, &wanted);
        for (ours, theirs) in ours.iter().zip(theirs) {
            let found = resolver.find(None, ours).unwrap().map(|found| found.name);
            assert_eq!(found, Some(theirs), "{ours}");
        }
    }
}

#[test]
fn renamed_trunks_are_found() {
    for (ours, theirs, replacement) in [
        (
            "model.layers.0.mixer.q.weight",
            "backbone.layers.0.mixer.q.weight",
            "model.=backbone.",
        ),
        (
            "backbone.layers.0.mixer.q.weight",
            "model.layers.0.mixer.q.weight",
            "backbone.=model.",
        ),
        (
            "transformer.h.0.attn.q.weight",
            "model.layers.0.attn.q.weight",
            "transformer.h.=model.layers.",
        ),
        (
            "roberta.encoder.layer.0.q.weight",
            "bert.encoder.layer.0.q.weight",
            "roberta.=bert.",
        ),
        (
            "xlm_roberta.encoder.layer.0.q.weight",
            "roberta.encoder.layer.0.q.weight",
            "xlm_roberta.=roberta.",
        ),
        (
            "thinker.model.layers.0.q.weight",
            "model.layers.0.q.weight",
            "thinker.=",
        ),
        (
            "model.layers.0.q.weight",
            "thinker.model.layers.0.q.weight",
            "=thinker.",
        ),
        (
            "transformer.layers.0.q.weight",
            "gpt_neox.layers.0.q.weight",
            "transformer.=gpt_neox.",
        ),
        (
            "anything.layers.0.q.weight",
            "model.layers.0.q.weight",
            "anything.=model.",
        ),
        (
            "vision_encoder.transformer.layers.0.q.weight",
            "vision_tower.transformer.layers.0.q.weight",
            "vision_encoder.=vision_tower.",
        ),
        (
            "vit.encoder.layer.0.q.weight",
            "encoder.layer.0.q.weight",
            "vit.=",
        ),
        (
            "encoder.layer.0.q.weight",
            "audio_spectrogram_transformer.encoder.layer.0.q.weight",
            "=audio_spectrogram_transformer.",
        ),
        (
            "0.auto_model.encoder.layer.3.q.weight",
            "encoder.layer.3.q.weight",
            "0.auto_model.=",
        ),
        (
            "encoder.layer.3.q.weight",
            "0.auto_model.encoder.layer.3.q.weight",
            "=0.auto_model.",
        ),
    ] {
        assert_found(&base(&[theirs]), &all(&[ours]), &[theirs], &[replacement]);
    }
}

/// What is saved beside a module of the same list of layers is no second list.
#[test]
fn saved_tensors_lie_in_the_list_of_their_modules() {
    let theirs = base(&[
        "model.language_model.layers.0.q.weight",
        "model.language_model.layers.0.norm.weight",
        "lm_head.weight",
    ]);
    let wanted = [
        required("model.layers.0.q.weight"),
        saved("model.layers.0.norm.weight"),
        saved("score.weight"),
    ];
    let resolver = resolver(&theirs, &wanted);
    for wanted in &wanted[..2] {
        assert!(resolver.find(None, &wanted.name).unwrap().is_some());
    }
    assert!(resolver.find(None, "score.weight").unwrap().is_none());
}

/// A tied head is in no file. Its name is the one that it would have.
#[test]
fn what_is_missing_has_the_name_that_it_would_have() {
    let theirs = base(&["backbone.layers.0.q.weight", "backbone.embeddings.weight"]);
    let wanted = all(&[
        "model.layers.0.q.weight",
        "model.head.weight",
        "lm_head.weight",
    ]);
    let resolver = resolver(&theirs, &wanted);
    assert_eq!(
        resolver.named(None, "model.head.weight"),
        "backbone.head.weight"
    );
    assert_eq!(resolver.named(None, "lm_head.weight"), "lm_head.weight");
    assert!(resolver.find(None, "lm_head.weight").unwrap().is_none());
}

/// What is saved and isn't in the base model under its name may be elsewhere there: then it must
/// not be added.
#[test]
fn saved_tensors_are_told_where_else_they_could_be() {
    let theirs = base(&[
        "model.layers.0.q.weight",
        "model.embed_tokens.weight",
        "model.layers.0.norm.weight",
        "pooler.dense.weight",
    ]);
    let mut wanted = all(&["model.layers.0.q.weight"]);
    let names = [
        ("embed_tokens.weight", Some("model.embed_tokens.weight")),
        (
            "other.model.embed_tokens.weight",
            Some("model.embed_tokens.weight"),
        ),
        (
            "language_model.embed_tokens.weight",
            Some("model.embed_tokens.weight"),
        ),
        ("x.layers.0.norm.weight", Some("model.layers.0.norm.weight")),
        ("score.weight", None),
        ("classifier.dense.weight", None),
        ("model.layers.1.norm.weight", None),
    ];
    wanted.extend(names.iter().map(|(name, _)| saved(name)));
    let resolver = resolver(&theirs, &wanted);
    for (name, other) in names {
        assert!(resolver.find(None, name).unwrap().is_none(), "{name}");
        let elsewhere = resolver.elsewhere(None, name);
        assert_eq!(elsewhere.first().copied(), other, "{name}");
    }
}

/// A head of the adapter's own keeps its name beside renamed layers.
#[test]
fn saved_tensors_with_their_own_names_keep_them() {
    let theirs = base(&["bert.encoder.0.q.weight", "classifier.weight"]);
    let wanted = [required("encoder.0.q.weight"), saved("classifier.weight")];
    let resolver = resolver(&theirs, &wanted);
    let found = resolver.find(None, "classifier.weight").unwrap().unwrap();
    assert_eq!(found.name, "classifier.weight");
}

#[test]
fn quantised_modules_are_found_without_their_weights() {
    let theirs = base(&[
        "language_model.model.layers.0.q.qweight",
        "language_model.model.layers.0.q.scales",
    ]);
    let wanted = all(&["model.language_model.layers.0.q.weight"]);
    let resolver = resolver(&theirs, &wanted);
    let name = "model.language_model.layers.0.q.weight";
    assert!(resolver.find(None, name).unwrap().is_none());
    assert_eq!(
        resolver.named(None, name),
        "language_model.model.layers.0.q.weight"
    );
    let below = resolver.below(None, "model.language_model.layers.0.q");
    assert_eq!(below.len(), 2);
}

#[test]
fn modules_are_found_by_their_paths() {
    let theirs = base(&["language_model.model.layers.0.mlp.experts.gate_up_proj"]);
    let module = Wanted {
        fits: Fits::Module,
        ..required("model.language_model.layers.0.mlp.experts")
    };
    let resolver = resolver(&theirs, std::slice::from_ref(&module));
    assert!(resolver.fit().is_full());
    assert_eq!(
        resolver.below(None, &module.name),
        ["language_model.model.layers.0.mlp.experts.gate_up_proj"]
    );
}
