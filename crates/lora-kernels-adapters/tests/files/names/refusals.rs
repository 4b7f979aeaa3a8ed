//! Names that could be others', which are refused rather than guessed.

use super::*;

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
        &base(&["model.layers.0.q.weight"]),
        &wanted,
        &["x.layers and y.layers", "both be model.layers"],
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

/// Whether a model is one tower alone is looked at once, not for each module that could be meant.
#[test]
fn many_towers_take_no_time() {
    let names: Vec<String> = (0..4000)
        .map(|at| format!("vision.a{at}.layers.0.q.weight"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let theirs = base(&names);
    let wanted = all(&["layers.0.q.weight"]);
    let began = std::time::Instant::now();
    let found = resolver(&theirs, &wanted).resolve(None, "layers.0.q.weight");
    assert_refused(found, &["layers.0.q.weight", "vision.a"]);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

/// Two models that stand beside each other are no two names of one.
#[test]
fn a_model_is_not_taken_for_its_neighbour() {
    for (ours, theirs) in [
        ("question_encoder.bert_model", "ctx_encoder.bert_model"),
        ("encoder_q", "encoder_k"),
        ("policy", "ref"),
        ("model.policy", "model.ref"),
        ("net_g", "net_d"),
        ("text_encoder.text_model", "text_encoder_2.text_model"),
        ("vision_tower_high", "vision_tower_low"),
        ("anything", "something"),
    ] {
        let name = |front: &str| format!("{front}.layers.0.q.weight");
        let base = base(&[&name(theirs)]);
        let wanted = all(&[&name(ours)]);
        assert_not_found(&base, &wanted, &[&name(ours), &name(theirs)]);
        let resolver = resolver(&base, &wanted);
        let Err(Error::Unresolved { replacements, .. }) = resolver.resolve(None, &name(ours))
        else {
            panic!("{ours} is {theirs}");
        };
        // The replacement that the error shows does find it.
        let stated = Mapping::new(replacements).unwrap();
        let resolver = Resolver::new(&base, &wanted, &stated, &[]);
        let found = resolver.resolve(None, &name(ours)).unwrap();
        assert_eq!(found.name, name(theirs));
    }
}

/// Of two models that fit, none is picked because the other's name says what it is for.
#[test]
fn a_name_of_neither_of_two_models_is_refused() {
    for theirs in [
        ["thinker.model", "talker.model"],
        ["actor.model", "critic.model"],
    ] {
        for end in ["layers.0.q.weight", "embed_tokens.weight"] {
            let names = theirs.map(|front| format!("{front}.{end}"));
            let ours = format!("model.{end}");
            let both = base(&[&names[0], &names[1]]);
            let wanted = all(&[&ours]);
            let resolver = resolver(&both, &wanted);
            let Err(Error::Unresolved { replacements, .. }) = resolver.resolve(None, &ours) else {
                panic!("{ours} could be either of {names:?}");
            };
            let mut found: Vec<String> = Vec::new();
            for replacement in replacements {
                let stated = Mapping::new([replacement]).unwrap();
                let resolver = Resolver::new(&both, &wanted, &stated, &[]);
                found.push(resolver.resolve(None, &ours).unwrap().name.to_owned());
            }
            found.sort_unstable();
            let mut names = names.clone();
            names.sort_unstable();
            assert_eq!(found, names);
        }
    }
    // A tower beside the language model is no rival, and neither is a speaker of another shape.
    let [thinker, talker, tower] = [
        "thinker.model.layers.0.q.weight",
        "talker.model.layers.0.q.weight",
        "thinker.audio_tower.layers.0.q.weight",
    ];
    let wanted = all(&["model.layers.0.q.weight"]);
    let theirs = shaped(&[(thinker, &[2, 3]), (talker, &[2, 2]), (tower, &[2, 3])]);
    assert_found(&theirs, &wanted, &[thinker], &["=thinker."]);
    let both = base(&[thinker, talker]);
    assert_found(&both, &all(&[thinker, talker]), &[thinker, talker], &[]);
}
