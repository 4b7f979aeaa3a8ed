//! Finding an adapter's names in a base model, and refusing where they could be others.

use lora_kernels_adapters::base::{Fits, Mapping, Resolver, Wanted};
use lora_kernels_adapters::{BaseModel, Error};

use crate::assert_refused;
use crate::made::Tensors;

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
    let made = tensors
        .iter()
        .fold(Tensors::default(), |made, (name, shape)| {
            made.with(name, shape)
        });
    made.write(&path);
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
