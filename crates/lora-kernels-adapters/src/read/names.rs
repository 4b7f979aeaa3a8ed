//! Names of wrappers, components and adapters that surround a tensor's own name.

use std::collections::BTreeSet;

use crate::Format;
use crate::tensor_file::TensorFile;

/// Wrappers in front of every name.
const LEADING: [&str; 5] = [
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "_module.",
    "module.",
];

/// What PEFT puts before every path.
const PEFT: &str = "base_model.model.";
const PEFT_SHORT: &str = "base_model.";

/// Segments that trainers' wrappers leave inside of names.
const INSIDE: [&str; 7] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_fpw_module",
    "_flat_param",
    "_dp_wrapped_module",
];

/// Components of diffusers' and ComfyUI's names, which stand first in them. Any may have a number:
/// `text_encoder_2`.
const COMPONENTS: [&str; 13] = [
    "transformer",
    "unet",
    "diffusion_model",
    "prior",
    "dit",
    "text_encoder",
    "text_encoders",
    "image_encoder",
    "vae",
    "vocoder",
    "controlnet",
    "connectors",
    "denoiser",
];

fn is_component(segment: &str) -> bool {
    let name = match segment.rsplit_once('_') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => segment,
    };
    COMPONENTS.contains(&name)
}

/// What kohya's and related names begin with, and the component that it means.
const FLATTENED: [(&str, Option<&str>); 9] = [
    ("lora_unet_", Some("unet")),
    ("lora_te_", Some("text_encoder")),
    ("lora_te1_", Some("text_encoder")),
    ("lora_te2_", Some("text_encoder_2")),
    ("lora_te3_", Some("text_encoder_3")),
    ("lora_transformer_", Some("transformer")),
    ("lora_prior_unet_", Some("prior")),
    ("lora_prior_te_", Some("text_encoder")),
    ("lycoris_", None),
];

/// The most turns of taking wrappers off. Real names have three wrappers at most.
const MOST_TURNS: usize = 8;

/// A tensor's name without the wrappers before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unwrapped<'a> {
    pub name: &'a str,
    /// The wrappers between PEFT's first prefix and the name, without the dot at their end. The
    /// model had them when PEFT adapted it, so its config's names and patterns count with them.
    pub inner: &'a str,
}

/// The names of all tensors without the wrappers before them, in the file's order.
pub(super) fn unwrapped(file: &TensorFile) -> Vec<Unwrapped<'_>> {
    without_wrappers(file.tensors().map(|tensor| tensor.name).collect())
}

fn without_wrappers(mut names: Vec<&str>) -> Vec<Unwrapped<'_>> {
    // The names after PEFT's first prefix.
    let mut in_model: Option<Vec<&str>> = None;
    for _ in 0..MOST_TURNS {
        let all_have =
            |start: &str| !names.is_empty() && names.iter().all(|name| name.starts_with(start));
        let (wrapper, is_peft) = match LEADING.iter().find(|wrapper| all_have(wrapper)) {
            Some(wrapper) => (*wrapper, false),
            None if names.iter().any(|name| name.starts_with(PEFT)) => (PEFT, true),
            None if in_model.is_none() && all_have(PEFT_SHORT) => (PEFT_SHORT, true),
            None => break,
        };
        for name in &mut names {
            *name = name.strip_prefix(wrapper).unwrap_or(name);
        }
        if is_peft && in_model.is_none() {
            in_model = Some(names.clone());
        }
    }
    let in_model = in_model.unwrap_or_else(|| names.clone());
    { names.into_iter().zip(in_model) }
        .map(|(name, full)| {
            let inner = full.strip_suffix(name).unwrap_or_default();
            let inner = inner.strip_suffix('.').unwrap_or(inner);
            Unwrapped { name, inner }
        })
        .collect()
}

/// The wrapper's segment inside of a name.
pub(super) fn wrapper_inside(name: &str) -> Option<&str> {
    name.split('.').find(|segment| INSIDE.contains(segment))
}

/// A name's component and the rest of the name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed<'a> {
    pub component: Option<&'a str>,
    pub flattened: bool,
    pub rest: &'a str,
}

/// Takes a name's component off. `more` are components that the file's header names.
pub(super) fn placed<'a>(name: &'a str, more: &BTreeSet<String>) -> Placed<'a> {
    if let Some((component, rest)) = flattened(name) {
        return Placed {
            component,
            flattened: true,
            rest,
        };
    }
    // ComfyUI's checkpoints have `model.diffusion_model.`.
    let from = match name.strip_prefix("model.") {
        Some(rest) if rest.starts_with("diffusion_model.") => rest,
        _ => name,
    };
    let found = from
        .split_once('.')
        .filter(|(first, _)| is_component(first) || more.contains(*first));
    match found {
        Some((component, rest)) => Placed {
            component: Some(component),
            flattened: false,
            rest: rest.strip_prefix(PEFT).unwrap_or(rest),
        },
        None => Placed {
            component: None,
            flattened: false,
            rest: name,
        },
    }
}

/// The component and the rest of one of kohya's names.
fn flattened(name: &str) -> Option<(Option<&'static str>, &str)> {
    let known = FLATTENED.iter().find_map(|(start, component)| {
        let rest = name.strip_prefix(start)?;
        Some((*component, rest))
    });
    // The module is one segment, and the part comes after it.
    if let Some((_, rest)) = known {
        return rest.contains('.').then_some(known?);
    }
    let rest = name.strip_prefix("lora_")?;
    let (_, part) = rest.split_once('.')?;
    const PARTS: [&str; 6] = ["lora_", "alpha", "dora_scale", "hada_", "lokr_", "oft_"];
    let is_part = PARTS.iter().any(|start| part.starts_with(start));
    is_part.then_some((None, rest))
}

/// The format of a file without a config, by its names without wrappers; `None` if there is no
/// LoRA in it, and an error's reason if it has several.
pub(super) fn format_of(
    file: &TensorFile,
    has_header: bool,
) -> Result<Option<Format>, &'static str> {
    let mut formats = BTreeSet::new();
    let names = unwrapped(file);
    let none = BTreeSet::new();
    for (Unwrapped { name, .. }, tensor) in names.iter().zip(file.tensors()) {
        let place = placed(name, &none);
        let segments: Vec<&str> = place.rest.split('.').collect();
        let is_a = segments
            .iter()
            .any(|segment| ["lora_A", "lora_down", "lora_embedding_A"].contains(segment))
            || segments.windows(2).any(|pair| {
                (pair[0] == "lora_linear_layer" || pair[0] == "lora" || pair[0].ends_with("_lora"))
                    && pair[1] == "down"
            });
        if !is_a {
            continue;
        }
        let in_peft = name.len() < tensor.name.len() && tensor.name.contains(PEFT_SHORT);
        formats.insert(match segments.last() {
            _ if place.flattened => Order::Kohya,
            Some(&"lora_A") => Order::Loralib,
            _ if in_peft || segments.contains(&"lora_embedding_A") => Order::Peft,
            _ if place.component.is_some() || !segments.contains(&"lora_A") => Order::Diffusers,
            _ => Order::Mistral,
        });
    }
    let found: Vec<Order> = formats.into_iter().collect();
    Ok(Some(match found[..] {
        [] => return Ok(None),
        [Order::Mistral] if has_header => Format::Diffusers,
        [Order::Mistral] => Format::Mistral,
        [Order::Kohya] => Format::Kohya,
        [Order::Loralib] => Format::Loralib,
        [Order::Peft] => Format::Peft,
        _ if !found.contains(&Order::Loralib) && !found.contains(&Order::Peft) => Format::Diffusers,
        _ => return Err("its tensors have names of more than one format"),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Mistral,
    Diffusers,
    Kohya,
    Loralib,
    Peft,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_come_off() {
        let more = BTreeSet::from(["brain".to_owned()]);
        for (name, component, flattened, rest) in [
            (
                "transformer.h.0.q.lora_A.weight",
                Some("transformer"),
                false,
                "h.0.q.lora_A.weight",
            ),
            (
                "unet.base_model.model.q.lora_A.weight",
                Some("unet"),
                false,
                "q.lora_A.weight",
            ),
            (
                "model.diffusion_model.q.alpha",
                Some("diffusion_model"),
                false,
                "q.alpha",
            ),
            ("brain.q.alpha", Some("brain"), false, "q.alpha"),
            (
                "text_encoder_4.q.alpha",
                Some("text_encoder_4"),
                false,
                "q.alpha",
            ),
            (
                "text_encoder_x.q.alpha",
                None,
                false,
                "text_encoder_x.q.alpha",
            ),
            (
                "model.layers.0.q.lora_A.weight",
                None,
                false,
                "model.layers.0.q.lora_A.weight",
            ),
            (
                "lora_te2_text_q.alpha",
                Some("text_encoder_2"),
                true,
                "text_q.alpha",
            ),
            (
                "lora_unet_q_k.lora_down.weight",
                Some("unet"),
                true,
                "q_k.lora_down.weight",
            ),
            (
                "lora_llm_q.lora_up.weight",
                None,
                true,
                "llm_q.lora_up.weight",
            ),
            ("lora_unet_q.scalar", Some("unet"), true, "q.scalar"),
            ("lora_llm_q.weight", None, false, "lora_llm_q.weight"),
        ] {
            let expected = Placed {
                component,
                flattened,
                rest,
            };
            assert_eq!(placed(name, &more), expected, "{name}");
        }
    }

    #[test]
    fn what_the_model_had_around_it_is_kept() {
        for (full, name, inner) in [
            ("base_model.model.module.l.q", "l.q", "module"),
            ("module.base_model.model.l.q", "l.q", ""),
            (
                "base_model.model.base_model.model.q",
                "q",
                "base_model.model",
            ),
            (
                "base_model.model._orig_mod.module.q",
                "q",
                "_orig_mod.module",
            ),
            ("base_model.q", "q", ""),
            ("module.q", "q", ""),
        ] {
            assert_eq!(without_wrappers(vec![full]), [Unwrapped { name, inner }]);
        }
        // One name doesn't make all of them cost as much as it has prefixes.
        let long = PEFT.repeat(1000);
        let found = without_wrappers(vec![&long, "q"]);
        assert_eq!(found[0].name.len(), (1000 - MOST_TURNS) * PEFT.len());
    }

    #[test]
    fn wrappers_inside_are_named() {
        assert_eq!(wrapper_inside("a.0._orig_mod.q"), Some("_orig_mod"));
        assert_eq!(wrapper_inside("a.0.my_orig_mod.q"), None);
    }
}
