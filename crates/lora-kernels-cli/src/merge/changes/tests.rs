//! Collecting changes takes steps by the number of tensors, not by its square.

use std::path::Path;

use lora_kernels_adapters::base::{Mapping, Resolver};
use lora_kernels_adapters::{Adapter, BaseModel, ReadOptions};
use serde_json::{Map, Value, json};

use super::{Choices, Selected, Skip, Weighted, collect, select};
use crate::merge::Direction;
use crate::merge::change::Changes;
use lora_kernels_fuzz::assert_linear;

/// Writes tensors of F32 that all hold `value`.
fn put(path: &Path, value: f32, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(value.to_le_bytes().iter().cycle().take(end));
    std::fs::write(path, bytes).unwrap();
}

/// The changes that an adapter of `tensors` and one module (2, 3) makes to a base of `base`, which
/// has that module as well.
fn changes_of(
    base: &[(String, Vec<usize>)],
    tensors: &[(String, Vec<usize>)],
    config: Value,
    check: impl FnOnce(&Changes<'_>),
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let module = ("model.layers.0.q.weight".to_owned(), vec![2, 3]);
    put(
        &path.join("model.safetensors"),
        1.0,
        &[base, &[module]].concat(),
    );
    let front = "base_model.model.";
    let mut all = vec![
        (format!("{front}model.layers.0.q.lora_A.weight"), vec![1, 3]),
        (format!("{front}model.layers.0.q.lora_B.weight"), vec![2, 1]),
    ];
    all.extend(
        tensors
            .iter()
            .map(|(name, shape)| (format!("{front}{name}"), shape.clone())),
    );
    put(&path.join("adapter_model.safetensors"), 2.0, &all);
    let mut fields = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1});
    if let (Some(fields), Some(more)) = (fields.as_object_mut(), config.as_object()) {
        fields.extend(more.clone());
    }
    std::fs::write(path.join("adapter_config.json"), fields.to_string()).unwrap();
    let base = BaseModel::open(&path.join("model.safetensors")).unwrap();
    let adapter = Adapter::read(path, &ReadOptions::default()).unwrap();
    let weighted = [Weighted {
        adapter: &adapter,
        path,
        weight: 1.0,
    }];
    let (selected, _) = select(&weighted, &Skip::default()).unwrap();
    let wanted = selected.iter().map(Selected::wanted);
    let resolvers: Vec<Resolver<'_>> = wanted
        .map(|wanted| Resolver::new(&base, &wanted, &Mapping::default(), &[]))
        .collect();
    let choices = Choices {
        direction: Direction::Merge,
        fan_in_fan_out: None,
        experts_transposed: None,
        untie: false,
    };
    check(&collect(&base, &selected, &resolvers, &choices).unwrap());
}

fn named(
    count: usize,
    name: impl Fn(usize) -> String,
    shape: &[usize],
) -> Vec<(String, Vec<usize>)> {
    (0..count).map(|i| (name(i), shape.to_vec())).collect()
}

#[test]
fn added_tensors_take_steps_by_their_number() {
    assert_linear(300, |count| {
        let base = named(count, |i| format!("model.layers.{i}.k.weight"), &[1]);
        let added = named(count, |i| format!("score.m{i}.weight"), &[1]);
        let config = json!({"modules_to_save": ["score"]});
        changes_of(&base, &added, config, |changes| {
            assert_eq!(changes.added.len(), count)
        });
    });
}

/// Each added tensor has a module of its own in modules_to_save, and its original beside it.
#[test]
fn added_modules_and_their_originals_take_steps_by_their_number() {
    assert_linear(300, |count| {
        let base = named(count, |i| format!("model.layers.{i}.k.weight"), &[1]);
        let added = named(count, |i| format!("m{i}.modules_to_save.weight"), &[1]);
        let originals = named(count, |i| format!("m{i}.original_module.weight"), &[1]);
        let modules: Vec<String> = (0..count).map(|i| format!("m{i}")).collect();
        let config = json!({"modules_to_save": modules});
        changes_of(&base, &[added, originals].concat(), config, |changes| {
            assert_eq!(changes.added.len(), count);
        });
    });
}

/// Embeddings of many vocabularies are resized, and the base's own weights come with others.
#[test]
fn resized_vocabularies_take_steps_by_their_number() {
    assert_linear(100, |count| {
        let table = |i: usize| format!("m{i}.embed_tokens.weight");
        let base: Vec<_> = (0..count).map(|i| (table(i), vec![10 + i, 1])).collect();
        let new = named(count, table, &[5, 1]);
        let config = json!({"modules_to_save": ["embed_tokens"]});
        changes_of(&base, &new, config, |changes| {
            assert_eq!(changes.config.len(), count)
        });
    });
}
