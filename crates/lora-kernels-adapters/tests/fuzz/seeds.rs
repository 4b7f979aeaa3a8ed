//! Small good files of the formats that have no fixture.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Fields of a model's config that are read, and others.
pub const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 12,
  "tie_word_embeddings": true, "time_step_limit": [0.0, Infinity],
  "text_config": {"model_type": "x", "num_hidden_layers": 2},
  "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "bits": 8}
}"#;

/// Tensors of f32: name and shape.
fn file(tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = { tensors.iter() }
        .map(|(_, shape)| {
            let values = (0..shape.iter().product()).map(|i: usize| i as f32 / 8.0 + 1.0);
            values.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        (*name, view)
    });
    let metadata: HashMap<String, String> = { metadata.iter() }
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

pub fn mistral() -> Vec<u8> {
    file(
        &[
            ("layers.0.attention.wq.lora_A.weight", &[2, 6]),
            ("layers.0.attention.wq.lora_B.weight", &[4, 2]),
            ("layers.1.feed_forward.w1.lora_A.weight", &[2, 6]),
            ("layers.1.feed_forward.w1.lora_B.weight", &[5, 2]),
            ("norm.weight", &[6]),
        ],
        &[],
    )
}

pub fn diffusers() -> Vec<u8> {
    file(
        &[
            ("transformer.blocks.0.attn.to_q.lora_A.weight", &[2, 6]),
            ("transformer.blocks.0.attn.to_q.lora_B.weight", &[4, 2]),
            ("text_encoder.layers.0.q_proj.lora_A.weight", &[3, 6]),
            ("text_encoder.layers.0.q_proj.lora_B.weight", &[6, 3]),
        ],
        &[(
            "lora_adapter_metadata",
            r#"{"transformer.r": 2, "transformer.lora_alpha": 4, "text_encoder.r": 3,
                "text_encoder.lora_alpha": 3}"#,
        )],
    )
}

pub fn kohya() -> Vec<u8> {
    file(
        &[
            ("lora_unet_down_blocks_0_attn_to_q.alpha", &[]),
            (
                "lora_unet_down_blocks_0_attn_to_q.lora_down.weight",
                &[2, 6],
            ),
            ("lora_unet_down_blocks_0_attn_to_q.lora_up.weight", &[4, 2]),
            ("lora_unet_conv_in.alpha", &[]),
            ("lora_unet_conv_in.lora_down.weight", &[2, 3, 3, 3]),
            ("lora_unet_conv_in.lora_up.weight", &[4, 2, 1, 1]),
            ("lora_unet_conv_in.dora_scale", &[4, 1, 1, 1]),
        ],
        &[("ss_network_dim", "2"), ("ss_network_alpha", "1.0")],
    )
}
