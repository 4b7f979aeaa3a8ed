//! What is looked for in a base model in vain, and how many steps that takes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::closest::Closest;
use super::elsewhere::Elsewhere;
use super::nodes::{ends_with, last, split};
use super::towers::{renames_trunk, same_list};
use super::{BaseModel, Fits, Mapping, Resolver, Wanted};
use lora_kernels_fuzz::assert_linear;

/// A base model of these names, whose tensors are empty.
fn base<'n>(names: impl IntoIterator<Item = &'n str>) -> BaseModel {
    let entry = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let header: Map<String, Value> = { names.into_iter() }
        .map(|name| (name.to_owned(), entry.clone()))
        .collect();
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    BaseModel::open(&path).unwrap()
}

fn wanted(name: String) -> Wanted {
    Wanted {
        name,
        component: None,
        flattened: false,
        fits: Fits::Any,
        required: true,
    }
}

/// Names of all shapes: trees, lists and trunks of several words, with numbers and without.
fn made() -> Vec<String> {
    let fronts = [
        "",
        "model.",
        "transformer.",
        "vision.model.",
        "x.",
        "x.y.",
        "base_model.lm.",
    ];
    let lists = [
        "layers.0.",
        "h.0.",
        "blocks.12.",
        "",
        "layers.h.3.",
        "a.layers.",
    ];
    let ends = [
        "q.weight",
        "q.bias",
        "attn.q.weight",
        "norm.weight",
        "0.weight",
        "w",
    ];
    let mut names = Vec::new();
    for front in fronts {
        for list in lists {
            names.extend(ends.map(|end| format!("{front}{list}{end}")));
        }
    }
    names
}

#[test]
fn the_closest_names_share_the_most_last_segments() {
    let names = made();
    let there: BTreeSet<&str> = names.iter().step_by(3).map(String::as_str).collect();
    let base = base(there.iter().copied());
    let closest = Closest::new(&base);
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["", "z", "z.q", "a.b.c.d.e.q.weight"])
    {
        let mut expected: Vec<(usize, &str)> = { there.iter() }
            .map(|other| {
                let parts = name.rsplit('.').zip(other.rsplit('.'));
                (
                    parts.take_while(|(ours, theirs)| ours == theirs).count(),
                    *other,
                )
            })
            .filter(|(shared, _)| *shared > 1)
            .collect();
        expected.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
        let expected: Vec<&str> = expected.into_iter().map(|(_, name)| name).take(6).collect();
        assert_eq!(closest.to(name), expected, "{name}");
    }
}

#[test]
fn names_elsewhere_have_another_trunk_or_more_in_front() {
    let names = made();
    // Many with one inner part, so that what tells of all of them at once is used.
    let more: Vec<String> = (0..9)
        .map(|i| format!("tower{i}.list.0.q.weight"))
        .collect();
    let there: BTreeSet<&str> = { names.iter().step_by(2) }
        .chain(&more)
        .map(String::as_str)
        .collect();
    let base = base(there.iter().copied());
    let elsewhere = Elsewhere::new(&base);
    let taken_apart = |name: &str| -> Option<(String, String, String)> {
        let (node, child) = name.rsplit_once('.')?;
        let (head, tail) = split(node);
        let inner = if tail.is_empty() { last(node) } else { tail };
        let kind = if tail.is_empty() { "plain" } else { "tail" };
        Some((
            format!("{kind} {inner}.{child}"),
            head.to_owned(),
            tail.to_owned(),
        ))
    };
    let more = [
        "z.0.q.weight",
        "z.list.0.q.weight",
        "bert.z.0.q.weight",
        "w",
    ];
    for name in names.iter().map(String::as_str).chain(more) {
        if there.contains(name) {
            continue;
        }
        let expected: Vec<&str> = match taken_apart(name) {
            None => Vec::new(),
            Some((inner, head, tail)) => {
                let is_like = |other: &str| {
                    other != head
                        && (ends_with(other, &head)
                            || ends_with(&head, other)
                            || renames_trunk(&head, other)
                            || (!tail.is_empty() && same_list(&head, other)))
                };
                let like = there.iter().filter(|other| {
                    taken_apart(other).is_some_and(|it| it.0 == inner && is_like(&it.1))
                });
                like.take(6).copied().collect()
            }
        };
        assert_eq!(elsewhere.of(name), expected, "{name}");
    }
}

#[test]
fn names_that_are_missing_take_steps_by_their_number() {
    assert_linear(500, |count| {
        let names: Vec<String> = (0..count)
            .flat_map(|i| {
                [
                    format!("model.layers.{i}.q.weight"),
                    format!("b{i}.norm.weight"),
                ]
            })
            .collect();
        let base = base(names.iter().map(String::as_str));
        let missing: Vec<String> = (0..count)
            .flat_map(|i| [format!("score.m{i}.q.weight"), format!("h{i}.norm.weight")])
            .collect();
        let all: Vec<Wanted> = missing.iter().cloned().map(wanted).collect();
        // Stated for all names, so that no replacement is looked for.
        let stated = Mapping::new(["score=score", "=new"].map(|it| it.parse().unwrap())).unwrap();
        let resolver = Resolver::new(&base, &all, &stated, &[]);
        for name in &missing {
            assert!(resolver.resolve(None, name).is_err());
            assert!(resolver.elsewhere(None, name).is_empty());
        }
    });
}

#[test]
fn modules_under_another_prefix_take_steps_by_their_number() {
    assert_linear(500, |count| {
        let name = |i: usize| format!("layers.{}.m{}.weight", i / 8, i % 8);
        let names: Vec<String> = (0..count).map(|i| format!("model.{}", name(i))).collect();
        let base = base(names.iter().map(String::as_str));
        let all: Vec<Wanted> = (0..count).map(|i| wanted(name(i))).collect();
        let resolver = Resolver::new(&base, &all, &Mapping::default(), &[]);
        for (i, expected) in names.iter().enumerate() {
            assert_eq!(resolver.resolve(None, &name(i)).unwrap().name, expected);
        }
    });
}

/// All of them lie in one tree of the base model, so none is found.
#[test]
fn heads_that_become_one_take_steps_by_their_number() {
    assert_linear(500, |count| {
        let base = base(["model.layers.0.q.weight"]);
        let all = (0..count).map(|i| wanted(format!("a{i}.model.layers.0.q.weight")));
        let all: Vec<Wanted> = all.collect();
        let resolver = Resolver::new(&base, &all, &Mapping::default(), &[]);
        assert!(resolver.resolve(None, &all[count - 1].name).is_err());
    });
}
