//! Adapters on several matrices at once, and on rows of embeddings.

use lora_kernels_adapters::{Adapter, Kind, Result, TrainableTokens};
use serde_json::{Value, json};

use crate::made::{Tensors, one_module, peft};
use crate::{assert_refused, read};

fn adapter(config: &Value, tensors: &Tensors) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    peft(folder.path(), &config.to_string(), &tensors.bytes());
    read(folder.path())
}

/// Two parameters of 4 experts each, as PEFT's nested wrappers save them, beside a linear layer.
fn experts() -> Tensors {
    let path = "base_model.model.l.0.mlp.experts";
    Tensors::default()
        .with(&format!("{path}.base_layer.lora_A.weight"), &[8, 6])
        .with(&format!("{path}.base_layer.lora_B.weight"), &[10, 8])
        .with(&format!("{path}.lora_A.weight"), &[8, 5])
        .with(&format!("{path}.lora_B.weight"), &[6, 8])
        .with("base_model.model.l.0.q_proj.lora_A.weight", &[2, 6])
        .with("base_model.model.l.0.q_proj.lora_B.weight", &[6, 2])
}

#[test]
fn adapters_on_parameters_are_told_by_their_nesting() {
    for targets in [
        json!(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
        json!(["gate_up_proj", "down_proj"]),
    ] {
        let config = json!({
            "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "target_parameters": targets,
        });
        let read = adapter(&config, &experts()).unwrap();
        let found: Vec<_> = read
            .modules()
            .map(|module| {
                (
                    module.path,
                    module.kind,
                    module.nesting,
                    (module.experts, module.rank),
                    (module.in_features, module.out_features),
                    module.scaling,
                )
            })
            .collect();
        let path = "l.0.mlp.experts";
        assert_eq!(
            found,
            [
                (path, Kind::Parameter, 0, (4, 2), (6, 10), 2.0),
                (path, Kind::Parameter, 1, (4, 2), (5, 6), 2.0),
                ("l.0.q_proj", Kind::Linear, 0, (1, 2), (6, 6), 2.0),
            ]
        );
        let config = read.config().unwrap();
        assert_eq!(config.parameters_of(path), ["gate_up_proj", "down_proj"]);
        assert!(config.variants().is_empty());
    }
    let config = json!({"r": 2, "target_modules": ["experts"]});
    assert_refused(
        adapter(&config, &experts()),
        &["experts", "target_parameters"],
    );
    let config =
        json!({"r": 3, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]});
    assert_refused(adapter(&config, &experts()), &["l.0.mlp.experts", "rank 3"]);
    let config = json!({"r": 2, "target_parameters": "experts"});
    assert_refused(
        adapter(&config, &experts()),
        &["target_parameters is", "a list"],
    );
}

/// PEFT matches rank_pattern with the parameter's name, which the file doesn't hold.
#[test]
fn parameters_of_different_ranks_are_told_by_the_number_of_experts() {
    let path = "base_model.model.l.0.mlp.experts";
    let tensors = Tensors::default()
        .with(&format!("{path}.base_layer.lora_A.weight"), &[16, 6])
        .with(&format!("{path}.base_layer.lora_B.weight"), &[10, 16])
        .with(&format!("{path}.lora_A.weight"), &[8, 5])
        .with(&format!("{path}.lora_B.weight"), &[6, 8]);
    let config = json!({
        "r": 2, "lora_alpha": 4, "target_parameters": ["gate_up_proj", "down_proj"],
        "rank_pattern": {".*\\.gate_up_proj": 4}, "alpha_pattern": {".*\\.gate_up_proj": 8},
    });
    let read = adapter(&config, &tensors).unwrap();
    let found: Vec<_> = read
        .modules()
        .map(|module| (module.rank, module.experts, module.scaling))
        .collect();
    assert_eq!(found, [(4, 4, 2.0), (2, 4, 2.0)]);
}

#[test]
fn stacks_of_matrices_are_told_from_convolutions() {
    let tensors = Tensors::default()
        .with("m.experts.w1.lora_A.weight", &[4, 3, 7])
        .with("m.experts.w1.lora_B.weight", &[4, 5, 3])
        .with("m.conv.lora_A.weight", &[3, 7, 2])
        .with("m.conv.lora_B.weight", &[5, 3, 1]);
    let read = adapter(&json!({"r": 3}), &tensors).unwrap();
    let found: Vec<_> = read
        .modules()
        .map(|module| (module.path, module.kind, module.experts, module.rank))
        .collect();
    assert_eq!(
        found,
        [
            ("m.conv", Kind::Convolution, 1, 3),
            ("m.experts.w1", Kind::Stacked, 4, 3)
        ]
    );
}

#[test]
fn rows_of_embeddings_have_their_indices_from_the_config() {
    let name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    let tensors = one_module().with(name, &[2, 4]);
    let of = |indices: Value| {
        adapter(
            &json!({"r": 3, "trainable_token_indices": indices}),
            &tensors,
        )
    };
    for indices in [
        json!([7, 2]),
        json!({"embed_tokens": [7, 2], "lm_head": [1]}),
    ] {
        let read = of(indices).unwrap();
        let tokens: Vec<_> = read
            .tokens()
            .map(|tokens| (tokens.path, tokens.indices, tokens.rows.shape))
            .collect();
        assert_eq!(tokens, [("model.embed_tokens", &[7, 2][..], &[2, 4][..])]);
        assert_eq!(read.unknown().count() + read.saved().count(), 0);
    }
    assert_refused(of(json!([7])), &[name, "names 1 rows"]);
    assert_refused(of(json!([7, 7])), &["token 7 twice"]);
    assert_refused(of(json!([7, -1])), &["trainable_token_indices is"]);
    for indices in [json!(null), json!({"lm_head": [7, 2]})] {
        let read = of(indices).unwrap();
        let unknown: Vec<_> = read.unknown().map(|part| part.tensor.name).collect();
        assert_eq!(unknown, [name]);
        assert_eq!(read.tokens().count(), 0);
    }
    // What PEFT keeps for itself changes nothing.
    let tensors = tensors
        .with(
            "model.embed_tokens.token_adapter.trainable_tokens_original.default",
            &[2, 4],
        )
        .with(
            "model.embed_tokens.token_adapter.base_layer.weight",
            &[9, 4],
        );
    let config = json!({"r": 3, "trainable_token_indices": [7, 2]});
    let read = adapter(&config, &tensors).unwrap();
    assert_eq!(read.left_out().count(), 1);
    assert_eq!(
        read.base_weights().next().unwrap().name,
        "model.embed_tokens.weight"
    );
    assert_eq!(
        *read.config().unwrap().trainable_tokens(),
        TrainableTokens::Input(vec![7, 2])
    );
}
