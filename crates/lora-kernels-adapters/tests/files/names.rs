//! Finding an adapter's names in a base model, and refusing where they could be others.

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

/// Two modules of the base share these paths, and only one of them has this layer.
#[test]
fn one_list_of_layers_is_not_continued_by_another() {
    let base = base(&["layers.0.q.weight", "vision.layers.1.q.weight"]);
    let wanted = all(&["layers.0.q.weight", "layers.1.q.weight"]);
    let resolver = resolver(&base, &wanted);
    assert_refused(
        resolver.resolve(None, "layers.1.q.weight"),
        &["layers.1.q.weight", "vision.layers.1.q.weight"],
    );
}

#[test]
fn names_without_a_layer_are_not_guessed() {
    assert_not_found(
        &base(&["a.q.weight"]),
        &all(&["b.q.weight"]),
        &["b.q.weight", "a.q.weight"],
    );
    let error = Error::Unresolved {
        wanted: "b".into(),
        mapped: None,
        ambiguous: false,
        candidates: Vec::new(),
        replacements: Vec::new(),
    };
    assert!(error.to_string().contains("base model?"));
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
            "something.layers.0.q.weight",
            "anything.=something.",
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

/// Another layer, another tower, or another list of layers is another module, whatever its shape.
#[test]
fn no_module_lands_on_another_part_of_the_model() {
    for (ours, theirs) in [
        ("model.layers.5.q.weight", "model.layers.0.q.weight"),
        ("model.layers.5.q.weight", "backbone.layers.0.q.weight"),
        ("layers.5.q.weight", "q.weight"),
        ("layers.5.mlp.q.weight", "mlp.q.weight"),
        (
            "model.language_model.layers.0.q.weight",
            "vision_tower.layers.0.q.weight",
        ),
        ("model.layers.0.q.weight", "mtp.layers.0.q.weight"),
        ("model.visual.layers.0.q.weight", "model.layers.0.q.weight"),
        ("visual.layers.0.q.weight", "layers.0.q.weight"),
        (
            "model.audio_tower.layers.0.q.weight",
            "model.language_model.layers.0.q.weight",
        ),
        (
            "model.encoder.layers.0.q.weight",
            "model.decoder.layers.0.q.weight",
        ),
        ("encoder.block.0.q.weight", "decoder.block.0.q.weight"),
        (
            "qformer.encoder.layer.0.q.weight",
            "encoder.layer.0.q.weight",
        ),
        ("teacher.layers.0.q.weight", "student.layers.0.q.weight"),
        (
            "down_blocks.0.attentions.1.q.weight",
            "up_blocks.0.attentions.1.q.weight",
        ),
        ("double_blocks.0.q.weight", "single_blocks.0.q.weight"),
        ("lm_head.weight", "draft.lm_head.weight"),
        ("a.dense.weight", "b.dense.weight"),
    ] {
        // Another tensor keeps the part from being the whole base model.
        let base = base(&[theirs, "trunk.layers.0.other.weight"]);
        assert_not_found(&base, &all(&[ours]), &[ours]);
    }
}

/// Two lists of layers of the adapter are not one of the base model's, whatever their layers.
#[test]
fn two_lists_of_layers_are_not_made_one() {
    let base = base(&["model.layers.0.q.weight", "model.layers.1.q.weight"]);
    let wanted = all(&["a.layers.0.q.weight", "b.layers.1.q.weight"]);
    assert_not_found(&base, &wanted, &["a.layers and b.layers", "model.layers"]);
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

/// A module of this path that holds other modules is not the weight that is wanted.
#[test]
fn a_list_of_layers_is_no_weight() {
    let base = base(&["model.layers.0.q.weight"]);
    assert_not_found(&base, &all(&["layers.0.weight"]), &["layers.0.weight"]);
    let resolver = resolver(&base, &all(&["layers.0.weight"]));
    assert!(resolver.found().is_empty());
}

/// A model that is one tower alone is meant by names without a tower.
#[test]
fn names_of_a_lone_tower_may_lack_its_name() {
    let theirs = "vision_model.encoder.layers.0.q.weight";
    assert_found(
        &base(&[theirs]),
        &all(&["encoder.layers.0.q.weight"]),
        &[theirs],
        &["=vision_model."],
    );
    let both = base(&[theirs, "text_model.encoder.layers.0.q.weight"]);
    let text = "text_model.encoder.layers.0.q.weight";
    assert_found(
        &both,
        &all(&["encoder.layers.0.q.weight"]),
        &[text],
        &["=text_model."],
    );
}

/// Where two trees fit, the shapes may decide, and otherwise nothing does.
#[test]
fn ambiguous_names_are_refused_with_what_would_decide() {
    let (a, b) = ("one.layers.0.q.weight", "two.layers.0.q.weight");
    let wanted = all(&["model.layers.0.q.weight"]);
    assert_not_found(&base(&[a, b]), &wanted, &["more than one", a, b]);
    let both = base(&[a, b]);
    let resolver = resolver(&both, &wanted);
    let Err(Error::Unresolved { replacements, .. }) = resolver.resolve(None, &wanted[0].name)
    else {
        panic!("it is ambiguous");
    };
    let stated: Vec<String> = replacements.iter().map(ToString::to_string).collect();
    assert_eq!(stated, ["model.=one.", "model.=two."]);
    let by_shape = shaped(&[(a, &[3, 4]), (b, &[3, 2])]);
    assert_found(&by_shape, &wanted, &[b], &["model.=two."]);
    // Two names of the adapter can't be one tensor.
    let wanted = all(&["x.layers.0.q.weight", "y.layers.0.q.weight"]);
    assert_not_found(
        &base(&[a]),
        &wanted,
        &["x.layers and y.layers", "both be one.layers"],
    );
    let stated = mapping(&["x=one", "y=one"]);
    let theirs = base(&[a]);
    let resolver = Resolver::new(&theirs, &wanted, &stated, &[]);
    assert_refused(
        resolver.resolve(None, "y.layers.0.q.weight"),
        &["y.layers.0.q.weight and x.layers.0.q.weight", a],
    );
}

/// Exact names go first, also where another tree would fit.
#[test]
fn exact_names_go_first() {
    let names = [
        "model.layers.0.q.weight",
        "language_model.model.layers.0.q.weight",
    ];
    assert_found(&base(&names), &all(&names[..1]), &names[..1], &[]);
    // A shape that doesn't fit is the base's fault, not another tensor's chance.
    let wrong = shaped(&[(names[0], &[9, 9]), (names[1], &[2, 3])]);
    assert_found(&wrong, &all(&names[..1]), &names[..1], &[]);
}

/// A missing layer is named, rather than all of its tree.
#[test]
fn a_missing_layer_is_what_the_error_names() {
    let theirs = base(&["backbone.layers.0.q.weight", "backbone.layers.1.q.weight"]);
    let wanted = all(&[
        "model.layers.0.q.weight",
        "model.layers.1.q.weight",
        "model.layers.2.q.weight",
    ]);
    let resolver = resolver(&theirs, &wanted);
    assert_eq!(resolver.fit().missing, ["model.layers.2.q.weight"]);
    assert!(!resolver.fit().is_full());
    assert_refused(
        resolver.resolve(None, "model.layers.2.q.weight"),
        &[
            "model.layers.2.q.weight",
            "as backbone.layers.2.q.weight",
            "backbone.layers.0.q.weight",
        ],
    );
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

#[test]
fn components_that_are_not_in_the_model_are_left_out() {
    let theirs = base(&["blocks.0.to_q.weight"]);
    let wanted = [
        of("transformer", required("blocks.0.to_q.weight")),
        of(
            "text_encoder",
            required("text_model.encoder.layers.0.q.weight"),
        ),
    ];
    let resolver = resolver(&theirs, &wanted);
    assert_eq!(resolver.left_out(), ["text_encoder"]);
    assert!(resolver.takes(Some("transformer")) && !resolver.takes(Some("text_encoder")));
    assert!(resolver.fit().is_full() && resolver.check().is_ok());
    // A part of a component is no component.
    let torn = [
        of("transformer", required("blocks.0.to_q.weight")),
        of("transformer", required("blocks.1.to_q.weight")),
        of(
            "text_encoder",
            required("text_model.encoder.layers.0.q.weight"),
        ),
    ];
    let resolver = self::resolver(&theirs, &torn);
    assert_refused(
        resolver.check(),
        &["transformer", "in part", "blocks.1.to_q.weight"],
    );
    // Neither is one whose names are there in other shapes.
    let theirs = shaped(&[
        ("layers.0.q.weight", &[2, 3]),
        ("layers.1.q.weight", &[2, 3]),
    ]);
    let larger = |name: &str| Wanted {
        fits: Fits::Exactly(vec![5, 5]),
        ..of("text_encoder_2", required(name))
    };
    let wanted = [
        of("text_encoder", required("layers.0.q.weight")),
        larger("layers.0.q.weight"),
        larger("layers.1.q.weight"),
        larger("layers.2.q.weight"),
    ];
    let resolver = self::resolver(&theirs, &wanted);
    assert_eq!(resolver.left_out(), ["text_encoder_2"]);
    assert!(resolver.check().is_ok());
}

/// GPT-2's names begin with the name of a component of pipelines.
#[test]
fn a_component_may_be_the_first_part_of_a_path() {
    let wanted = [of("transformer", required("h.0.attn.weight"))];
    assert_found(
        &base(&["transformer.h.0.attn.weight"]),
        &wanted,
        &["transformer.h.0.attn.weight"],
        &[],
    );
    assert_found(
        &base(&["h.0.attn.weight"]),
        &wanted,
        &["h.0.attn.weight"],
        &[],
    );
    let wanted = [of("diffusion_model", required("double_blocks.0.q.weight"))];
    let theirs = "model.diffusion_model.double_blocks.0.q.weight";
    assert_found(
        &base(&[theirs]),
        &wanted,
        &[theirs],
        &["=model.diffusion_model."],
    );
}

/// Two text encoders of one pipeline may be of one shape.
#[test]
fn the_name_of_the_base_model_tells_components_apart() {
    let folder = tempfile::tempdir().unwrap();
    let name = "text_model.encoder.layers.0.q.weight";
    let made = Tensors::default().with(name, &[2, 3]);
    let wanted = ["text_encoder", "text_encoder_2"].map(|component| of(component, required(name)));
    for (file, expected) in [("text_encoder_2", Some("text_encoder")), ("other", None)] {
        let path = folder.path().join(file).with_extension("safetensors");
        made.write(&path);
        let base = BaseModel::open(&path).unwrap();
        let resolver = resolver(&base, &wanted);
        match expected {
            Some(left_out) => assert_eq!(resolver.left_out(), [left_out]),
            None => assert_refused(resolver.check(), &["text_encoder ", "text_encoder_2"]),
        }
        let chosen = Resolver::new(
            &base,
            &wanted,
            &Mapping::default(),
            &["text_encoder".into()],
        );
        assert_eq!(chosen.left_out(), ["text_encoder_2"]);
        assert!(chosen.resolve(Some("text_encoder"), name).is_ok());
    }
}

/// One file may hold all models of a pipeline, some under names that no adapter has.
#[test]
fn a_component_is_not_left_out_of_a_file_that_may_hold_it() {
    let [unet, encoder] = [
        "model.diffusion_model.input_blocks.1.q.weight",
        "cond_stage_model.text_model.layers.0.q.weight",
    ];
    let theirs = base(&[unet, encoder]);
    let wanted = [
        of("unet", required("down_blocks.0.q.weight")),
        of("text_encoder", required("text_model.layers.0.q.weight")),
    ];
    let resolver = resolver(&theirs, &wanted);
    assert_refused(
        resolver.check(),
        &["component unet", "more than text_encoder", unet],
    );
    let chosen = Resolver::new(
        &theirs,
        &wanted,
        &Mapping::default(),
        &["text_encoder".into()],
    );
    assert!(chosen.check().is_ok());
    let found = chosen.resolve(Some("text_encoder"), "text_model.layers.0.q.weight");
    assert_eq!(found.unwrap().name, encoder);
}

#[test]
fn names_with_underscores_are_found() {
    let flat = |name: &str| Wanted {
        flattened: true,
        ..of("unet", required(name))
    };
    let name = "down_blocks_0_attentions_1_to_q.weight";
    let theirs = "down_blocks.0.attentions.1.to_q.weight";
    assert_found(&base(&[theirs]), &[flat(name)], &[theirs], &[]);
    let deeper = "model.diffusion_model.down_blocks.0.attentions.1.to_q.weight";
    assert_found(
        &base(&[deeper]),
        &[flat(name)],
        &[deeper],
        &["=model.diffusion_model."],
    );
    assert_found(&base(&[theirs, deeper]), &[flat(name)], &[theirs], &[]);
    // Two modules with one name.
    let twin = "down.blocks.0.attentions.1.to_q.weight";
    assert_not_found(
        &base(&[theirs, twin]),
        &[flat(name)],
        &["more than one", "down_blocks.0.attentions.1.to_q"],
    );
    let by_shape = shaped(&[(theirs, &[2, 3]), (twin, &[9, 9])]);
    assert_found(&by_shape, &[flat(name)], &[theirs], &[]);
    // Neither a layer nor a tower is a prefix.
    for other in ["layers.0.to_q.weight", "vision.to_q.weight", "to_k.weight"] {
        assert_not_found(
            &base(&[other, "x.0.y.weight"]),
            &[flat("to_q.weight")],
            &["to_q.weight"],
        );
    }
    let stated = mapping(&["unet.=embedders.0."]);
    let base = base(&["embedders.0.a.to_q.weight"]);
    let wanted = [flat("a_to_q.weight")];
    let resolver = Resolver::new(&base, &wanted, &stated, &[]);
    assert_eq!(
        resolver
            .resolve(Some("unet"), "a_to_q.weight")
            .unwrap()
            .name,
        "embedders.0.a.to_q.weight"
    );
}

/// Ten thousand modules in a model of a hundred thousand tensors, and names made to be slow.
#[test]
fn large_and_hostile_trees_take_no_time() {
    let names: Vec<String> = (0..100_000)
        .map(|at| {
            format!(
                "language_model.model.layers.{}.experts.{}.w.weight",
                at / 1000,
                at % 1000
            )
        })
        .collect();
    let names: Vec<(&str, &[usize])> = names
        .iter()
        .map(|name| (name.as_str(), &[1usize, 1][..]))
        .collect();
    let large = shaped(&names);
    let wanted: Vec<Wanted> = (0..10_000)
        .map(|at| {
            required(&format!(
                "model.language_model.layers.{}.experts.{}.w.weight",
                at / 1000,
                at % 1000
            ))
        })
        .collect();
    let began = std::time::Instant::now();
    let resolver = self::resolver(&large, &wanted);
    assert!(resolver.fit().is_full());
    println!("large: {:?}", began.elapsed());
    let heads: Vec<String> = (0..20_000).map(|at| format!("h{at}.0.q.weight")).collect();
    let heads: Vec<(&str, &[usize])> = heads
        .iter()
        .map(|name| (name.as_str(), &[1usize, 1][..]))
        .collect();
    let hostile = shaped(&heads);
    let wanted: Vec<Wanted> = (0..10_000)
        .map(|at| required(&format!("w{at}.0.q.weight")))
        .collect();
    let resolver = self::resolver(&hostile, &wanted);
    assert_eq!(resolver.fit().found, 0);
    println!("hostile: {:?}", began.elapsed());
    assert!(began.elapsed().as_secs() < 20);
}
