//! Where scalings come from: alpha tensors, headers, kohya's rule, configs.

use std::path::Path;

use lora_kernels_adapters::{Adapter, Format, Kind, ReadOptions, Result, Scaling, ScalingSource};
use serde_json::json;

use crate::made::{CONFIG, Tensors, one_module, peft};
use crate::{assert_refused, read};

/// Reads a file of this name, with a scaling if one is given.
fn file(name: &str, tensors: &Tensors, scaling: Option<Scaling>) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    tensors.write(&path);
    let options = ReadOptions {
        scaling,
        ..ReadOptions::default()
    };
    Adapter::read(&path, &options)
}

fn alone(tensors: &Tensors) -> Result<Adapter> {
    file("lora.safetensors", tensors, None)
}

type Row<'a> = (Option<&'a str>, &'a str, f32, ScalingSource);

fn rows(adapter: &Adapter) -> Vec<Row<'_>> {
    adapter
        .modules()
        .map(|module| {
            (
                module.component,
                module.path,
                module.scaling,
                module.scaled_by,
            )
        })
        .collect()
}

/// ComfyUI's files: diffusion_model.X.lora_A.weight and a scalar X.alpha.
#[test]
fn alpha_tensors_are_the_scaling() {
    let tensors = Tensors::default()
        .pair(
            "diffusion_model.q.lora_A.weight",
            "diffusion_model.q.lora_B.weight",
        )
        .number("diffusion_model.q.alpha", &[], 6.0)
        .pair(
            "diffusion_model.k.lora_down.weight",
            "diffusion_model.k.lora_up.weight",
        )
        .number("diffusion_model.k.alpha", &[1], 1.5);
    let adapter = alone(&tensors).unwrap();
    assert_eq!(adapter.format(), Format::Diffusers);
    let of = Some("diffusion_model");
    assert_eq!(
        rows(&adapter),
        [
            (of, "k", 0.5, ScalingSource::AlphaTensor),
            (of, "q", 2.0, ScalingSource::AlphaTensor)
        ]
    );
    assert_eq!(adapter.saved().count() + adapter.unknown().count(), 0);
    // A scaling beside them would contradict them.
    let given = Some(Scaling::Factor(1.0));
    assert_refused(
        file("lora.safetensors", &tensors, given),
        &["alpha tensors", "contradict"],
    );
    // One that lacks its alpha takes the given one, and needs it.
    let partly = tensors.without("diffusion_model.k.alpha");
    assert_refused(alone(&partly), &["no scaling for k", "give it"]);
    let adapter = file("lora.safetensors", &partly, given).unwrap();
    assert_eq!(
        rows(&adapter),
        [
            (of, "k", 1.0, ScalingSource::Given),
            (of, "q", 2.0, ScalingSource::AlphaTensor)
        ]
    );
}

#[test]
fn alphas_of_loralib_files_are_the_scaling() {
    let tensors = { Tensors::default().pair("q.lora_A", "q.lora_B") }.number("q.alpha", &[], 6.0);
    let adapter = alone(&tensors).unwrap();
    assert_eq!(adapter.format(), Format::Loralib);
    assert_eq!(
        rows(&adapter),
        [(None, "q", 2.0, ScalingSource::AlphaTensor)]
    );
}

#[test]
fn alphas_that_are_no_scaling() {
    let pair = || Tensors::default().pair("unet.q.lora_A.weight", "unet.q.lora_B.weight");
    assert_refused(
        alone(&pair().with("unet.q.alpha", &[2])),
        &["unet.q.alpha", "[2]", "single number"],
    );
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let tensors = pair().number("unet.q.alpha", &[], value);
        assert_refused(alone(&tensors), &["unet.q.alpha", "more than 0"]);
    }
    // An alpha of a module that isn't adapted is no tensor of the model.
    let tensors = pair()
        .number("unet.q.alpha", &[], 3.0)
        .number("unet.k.alpha", &[], 3.0);
    let adapter = alone(&tensors).unwrap();
    assert_eq!(adapter.saved().count(), 0);
    let unknown: Vec<_> = adapter.unknown().map(|part| part.tensor.name).collect();
    assert_eq!(unknown, ["unet.k.alpha"]);
    // A parameter that is called alpha has more than one number.
    let tensors = one_module().with("base_model.model.snake.alpha", &[1, 4, 1]);
    let folder = tempfile::tempdir().unwrap();
    peft(folder.path(), CONFIG, &tensors.bytes());
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.saved().next().unwrap().name, "snake.alpha");
}

#[test]
fn alphas_beside_a_config_must_agree_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let with_alpha = |alpha: f32| {
        let tensors = one_module().number("base_model.model.a.q.alpha", &[], alpha);
        peft(folder.path(), CONFIG, &tensors.bytes());
        read(folder.path())
    };
    let adapter = with_alpha(5.0).unwrap();
    let scaling = (5.0f64 / 3.0) as f32;
    assert_eq!(
        rows(&adapter),
        [(None, "a.q", scaling, ScalingSource::Config)]
    );
    assert_refused(
        with_alpha(3.0),
        &["a.q.alpha", "is 3", "lora_alpha for it is 5"],
    );
}

#[test]
fn kohya_s_names_are_flattened_paths_of_components() {
    let tensors = Tensors::default()
        .pair(
            "lora_te1_text_model_q_proj.lora_down.weight",
            "lora_te1_text_model_q_proj.lora_up.weight",
        )
        .number("lora_te1_text_model_q_proj.alpha", &[], 1.5)
        .with("lora_unet_conv_in.lora_down.weight", &[3, 4, 3, 3])
        .with("lora_unet_conv_in.lora_up.weight", &[5, 3, 1, 1])
        .with("lora_unet_conv_in.dora_scale", &[5, 1, 1, 1]);
    let adapter = alone(&tensors).unwrap();
    assert_eq!(adapter.format(), Format::Kohya);
    assert!(adapter.modules().all(|module| module.flattened));
    assert_eq!(
        rows(&adapter),
        [
            // sd-scripts takes alpha = rank where there is no alpha.
            (Some("unet"), "conv_in", 1.0, ScalingSource::Default),
            (
                Some("text_encoder"),
                "text_model_q_proj",
                0.5,
                ScalingSource::AlphaTensor
            ),
        ]
    );
    let conv = adapter.module("conv_in").unwrap();
    assert_eq!(
        (conv.kind, conv.rank, conv.in_features),
        (Kind::Convolution, 3, 4)
    );
    assert!(conv.magnitude.is_some());
    // The header's alpha counts if the tensors lack it: the two contradict each other.
    let stripped = tensors.clone().metadata(json!({"ss_network_alpha": "1.0"}));
    assert_refused(alone(&stripped), &["kohya", "no scaling for conv_in"]);
    // A magnitude for each column is another method.
    let columns = tensors.with("lora_unet_conv_in.dora_scale", &[1, 4, 1, 1]);
    assert_refused(alone(&columns), &["dora_scale", "for each column"]);
    for method in [
        "hada_w1_a",
        "lokr_w1",
        "lora_mid.weight",
        "diff",
        "oft_blocks",
        "scalar",
    ] {
        let name = format!("lora_unet_conv_out.{method}");
        let tensors = Tensors::default()
            .pair("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight")
            .with(&name, &[3, 3]);
        let adapter = alone(&tensors).unwrap();
        let unknown: Vec<_> = adapter.unknown().map(|part| part.tensor.name).collect();
        assert_eq!(unknown, [name]);
    }
}

#[test]
fn older_names_of_diffusers_are_the_model_s() {
    let pair = |tensors: Tensors, path: &str| {
        tensors.pair(&format!("{path}.down.weight"), &format!("{path}.up.weight"))
    };
    let names = [
        "unet.b.attn1.processor.to_q_lora",
        "unet.b.attn1.processor.to_out_lora",
        "unet.b.proj.lora",
        "text_encoder.l.self_attn.to_v_lora",
        "text_encoder.l.self_attn.out_proj.lora_linear_layer",
    ];
    let tensors = names.into_iter().fold(Tensors::default(), pair);
    let adapter = file("x.safetensors", &tensors, Some(Scaling::Factor(1.0))).unwrap();
    let found: Vec<_> = rows(&adapter)
        .into_iter()
        .map(|(component, path, ..)| (component.unwrap(), path))
        .collect();
    assert_eq!(
        found,
        [
            ("unet", "b.attn1.to_out.0"),
            ("unet", "b.attn1.to_q"),
            ("unet", "b.proj"),
            ("text_encoder", "l.self_attn.out_proj"),
            ("text_encoder", "l.self_attn.v_proj"),
        ]
    );
}

/// diffusers writes the LoraConfig of each component into the header.
#[test]
fn the_header_s_config_counts() {
    let names = ["transformer.q", "transformer.k", "text_encoder.v"];
    let tensors = names.into_iter().fold(Tensors::default(), |tensors, path| {
        tensors.pair(
            &format!("{path}.lora_A.weight"),
            &format!("{path}.lora_B.weight"),
        )
    });
    let header = |config: serde_json::Value| json!({"lora_adapter_metadata": config.to_string()});
    let config = json!({
        "transformer.r": 3, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {"k": 12},
        "transformer.peft_type": "LORA", "text_encoder.r": 3, "text_encoder.lora_alpha": 9,
        "text_encoder.use_rslora": true,
    });
    let adapter = alone(&tensors.clone().metadata(header(config))).unwrap();
    let by = ScalingSource::Header;
    assert_eq!(
        rows(&adapter),
        [
            (Some("transformer"), "k", 4.0, by),
            (Some("transformer"), "q", 2.0, by),
            (Some("text_encoder"), "v", (9.0 / 3f64.sqrt()) as f32, by),
        ]
    );
    assert!(adapter.config().is_none() && adapter.folder().is_none());
    assert_eq!(adapter.config_of(Some("transformer")).unwrap().rank(), 3);

    // One config for the whole file, and names without a component.
    let one = Tensors::default().pair("q.lora_A.weight", "q.lora_B.weight");
    let config = json!({"r": 3, "lora_alpha": 6});
    let adapter = alone(&one.metadata(header(config.clone()))).unwrap();
    assert_eq!(rows(&adapter), [(None, "q", 2.0, by)]);
    assert_eq!(adapter.config().unwrap().lora_alpha(), 6.0);

    // A component that it doesn't name has no scaling.
    let partly = json!({"transformer.r": 3, "transformer.lora_alpha": 6});
    assert_refused(
        alone(&tensors.clone().metadata(header(partly))),
        &["no scaling for v"],
    );
    for (config, fragment) in [
        (json!({"transformer.r": 3}), "transformer.lora_alpha"),
        (json!({"r": 4, "lora_alpha": 6}), "gives it 4"),
        (json!({"r": null, "lora_alpha": 6}), "r is null"),
        (json!({"r": 3, "lora_alpha": 0}), "lora_alpha is 0"),
        (json!([1]), "JSON"),
    ] {
        assert_refused(
            alone(&tensors.clone().metadata(header(config))),
            &[fragment],
        );
    }
}

/// PEFT fails on null; it isn't its default of 8.
#[test]
fn null_is_no_number() {
    let folder = tempfile::tempdir().unwrap();
    for field in ["r", "lora_alpha"] {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 8});
        config[field] = serde_json::Value::Null;
        peft(folder.path(), &config.to_string(), &one_module().bytes());
        assert_refused(read(folder.path()), &[&format!("{field} is null")]);
    }
    let config = json!({"r": 3, "alpha_pattern": {"q": null}});
    peft(folder.path(), &config.to_string(), &one_module().bytes());
    assert_refused(read(folder.path()), &["alpha_pattern[q] is null"]);
    // A missing lora_alpha has PEFT's default.
    peft(folder.path(), r#"{"r": 3}"#, &one_module().bytes());
    let adapter = read(Path::new(folder.path())).unwrap();
    assert_eq!(adapter.config().unwrap().lora_alpha(), 8.0);
}

/// mistral-finetune writes its arguments beside lora.safetensors.
#[test]
fn mistral_s_params_hold_the_scaling() {
    let folder = tempfile::tempdir().unwrap();
    let of_params = |text: &str, scaling| {
        let path = folder.path().join("lora.safetensors");
        Tensors::default()
            .pair("layers.0.wq.lora_A.weight", "layers.0.wq.lora_B.weight")
            .write(&path);
        std::fs::write(folder.path().join("params.json"), text).unwrap();
        let options = ReadOptions {
            scaling,
            ..ReadOptions::default()
        };
        Adapter::read(folder.path(), &options)
    };
    let params = r#"{"dim": 4096, "lora": {"enable": true, "rank": 3, "scaling": 2.5}}"#;
    let adapter = of_params(params, None).unwrap();
    assert_eq!(
        rows(&adapter),
        [(None, "layers.0.wq", 2.5, ScalingSource::Params)]
    );
    let given = Some(Scaling::Factor(2.0));
    assert_refused(of_params(params, given), &["params.json", "contradict"]);
    // A base model's has none.
    assert_refused(of_params(r#"{"dim": 4096}"#, None), &["no scaling"]);
    assert!(of_params(r#"{"dim": 4096, "lora": null}"#, given).is_ok());
    assert_refused(
        of_params(r#"{"lora": {"scaling": 0}}"#, None),
        &["params.json 0"],
    );
}
