//! Components of pipelines, and names with underscores for dots.

use super::*;

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

/// A component that the base model holds in another shape is no other model's.
#[test]
fn a_component_that_is_there_in_another_shape_is_not_left_out() {
    let wanted = [
        of("transformer", required("q.weight")),
        of("text_encoder", required("layers.0.k.weight")),
    ];
    for front in ["text_encoder.", ""] {
        let name = format!("{front}layers.0.k.weight");
        let theirs = shaped(&[("transformer.q.weight", &[2, 3]), (&name, &[8, 8])]);
        let resolver = resolver(&theirs, &wanted);
        assert!(resolver.left_out().is_empty());
        let found = resolver.resolve(Some("text_encoder"), "layers.0.k.weight");
        assert_eq!(found.unwrap().name, name);
    }
    // Nor is one of which the base model holds other layers.
    let theirs = base(&["transformer.q.weight", "text_encoder.layers.1.k.weight"]);
    let resolver = resolver(&theirs, &wanted);
    assert!(resolver.left_out().is_empty());
    assert_refused(
        resolver.resolve(Some("text_encoder"), "layers.0.k.weight"),
        &[
            "layers.0.k.weight is not in",
            "text_encoder.layers.1.k.weight",
        ],
    );
}

/// Modules inside of a module lie between its tensors.
#[test]
fn a_module_with_modules_of_its_own_is_found_once() {
    let theirs = base(&["blk.q.bias", "blk.q.norm.weight", "blk.q.weight"]);
    let wanted = Wanted {
        flattened: true,
        ..of("unet", required("blk_q.weight"))
    };
    assert_found(&theirs, &[wanted], &["blk.q.weight"], &[]);
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
