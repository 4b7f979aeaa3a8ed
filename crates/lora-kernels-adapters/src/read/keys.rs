//! The meaning of a tensor's name.

use crate::shown::shown;
use crate::{Format, Kind};

/// A tensor's name taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// The adapter's name in it: `default` in `q.lora_A.default.weight`.
    pub adapter: Option<&'a str>,
    pub meaning: Meaning<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A part of a module. `depth` counts the `base_layer` segments at the end of its path.
    Part {
        path: String,
        depth: usize,
        part: Part,
    },
    /// A copy of a module that was trained whole. `tail` may begin with the adapter's name:
    /// `default.weight` in `score.modules_to_save.default.weight`.
    Copied {
        module: &'a str,
        tail: &'a str,
    },
    /// The base's own tensor beside such a copy (`original_module`), by its name in the base.
    Original(String),
    /// The base's own tensor inside an adapted module (`base_layer`), by its name in the base.
    BaseLayer(String),
    /// Rows of the embedding at this path.
    Tokens(String),
    /// A tensor that changes nothing.
    LeftOut(&'static str),
    /// A tensor of the base model, by its name there.
    Saved(String),
    Unknown(String),
    /// A tensor without which B·A isn't the change of the module at this path, and why it isn't
    /// understood.
    Foreign {
        path: String,
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A(Kind),
    B(Kind),
    Bias,
    Magnitude,
    Alpha,
}

/// Segments of other methods' names, and what they are.
const OTHER_METHODS: [(&str, &str); 11] = [
    (
        "lora_mid",
        "a convolution in three factors (LoCon's Tucker decomposition)",
    ),
    ("lora_E", "AdaLoRA"),
    ("ranknum", "AdaLoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("ia3_", "IA3"),
    ("vera_", "VeRA"),
    ("randlora_", "RandLoRA"),
    ("fourierft_", "FourierFT"),
];

/// The same, where the file has no config: with one, they may be the model's own names.
const OTHER_TOOLS: [(&str, &str); 5] = [
    ("prompt_embeddings", "prompt tuning"),
    ("emb_params", "textual inversion"),
    ("bundle_emb", "textual inversion"),
    ("w_norm", "a norm's difference"),
    ("b_norm", "a norm's difference"),
];

/// Reads a name without wrappers and component. `component` is the one that was taken off, and
/// without a config, names of other tools' formats count.
pub(super) fn parse<'a>(
    name: &'a str,
    format: Format,
    component: Option<&str>,
    has_config: bool,
) -> Key<'a> {
    let segments: Vec<&'a str> = name.split('.').collect();
    if format == Format::Loralib {
        return loralib(name, &segments);
    }
    let at = |wanted: &str| segments.iter().position(|segment| *segment == wanted);
    if let Some(wrapper) = at("modules_to_save") {
        let (module, tail) = around(name, &segments, wrapper);
        let meaning = match tail {
            "" => unknown("ends with modules_to_save, without a tensor's name"),
            _ => Meaning::Copied { module, tail },
        };
        return nameless(meaning);
    }
    if let Some(wrapper) = at("original_module") {
        let (module, tail) = around(name, &segments, wrapper);
        return nameless(match tail {
            "" => unknown("ends with original_module, without a tensor's name"),
            _ => Meaning::Original(joined(module, tail)),
        });
    }
    part(&segments, component, has_config)
        .or_else(|| tokens(&segments))
        .or_else(|| other_method(&segments, has_config).map(nameless))
        .unwrap_or_else(|| nameless(whole(name, &segments)))
}

pub(super) fn nameless(meaning: Meaning<'_>) -> Key<'_> {
    Key {
        adapter: None,
        meaning,
    }
}

fn foreign(path: &[&str], reason: String) -> Meaning<'static> {
    Meaning::Foreign {
        path: module_path(&owned(path)).0,
        reason,
    }
}

fn unknown(reason: &str) -> Meaning<'static> {
    Meaning::Unknown(reason.to_owned())
}

pub(super) fn joined(module: &str, tail: &str) -> String {
    match module {
        "" => tail.to_owned(),
        module => format!("{module}.{tail}"),
    }
}

/// The parts of the name before and after a segment.
fn around<'a>(name: &'a str, segments: &[&str], at: usize) -> (&'a str, &'a str) {
    let before: usize = segments[..at].iter().map(|segment| segment.len() + 1).sum();
    let after = before + segments[at].len() + 1;
    (
        name.get(..before.saturating_sub(1)).unwrap_or_default(),
        name.get(after..).unwrap_or_default(),
    )
}

fn loralib<'a>(name: &'a str, segments: &[&'a str]) -> Key<'a> {
    let part = match segments.last() {
        Some(&"lora_A") => Part::A(Kind::Linear),
        Some(&"lora_B") => Part::B(Kind::Linear),
        Some(&"alpha") => Part::Alpha,
        _ if name.contains("lora_") => {
            return nameless(unknown(
                "isn't loralib's, which ends names with lora_A or lora_B",
            ));
        }
        _ => return nameless(Meaning::Saved(name.to_owned())),
    };
    nameless(Meaning::Part {
        path: segments[..segments.len() - 1].join("."),
        depth: 0,
        part,
    })
}

/// A part of a module, if the name has a segment that says so.
fn part<'a>(segments: &[&'a str], component: Option<&str>, has_config: bool) -> Option<Key<'a>> {
    if let [before @ .., "alpha"] = segments {
        let path = match before {
            [path @ .., "lora" | "lora_linear_layer"] => owned(path),
            [.., "to_q_lora" | "to_k_lora" | "to_v_lora" | "to_out_lora"] if !has_config => {
                attention(before, component)
            }
            _ => owned(before),
        };
        return Some(found(&path, Part::Alpha, None));
    }
    let (at, length, part) = (0..segments.len()).rev().find_map(|at| {
        let next = segments.get(at + 1).copied();
        let is_pair = |segment: &str| {
            segment == "lora"
                || segment == "lora_linear_layer"
                || !has_config && segment.ends_with("_lora")
        };
        let (length, part) = match segments[at] {
            "lora_A" | "lora_down" => (1, Part::A(Kind::Linear)),
            "lora_B" | "lora_up" => (1, Part::B(Kind::Linear)),
            "lora_embedding_A" => (1, Part::A(Kind::Embedding)),
            "lora_embedding_B" => (1, Part::B(Kind::Embedding)),
            "lora_magnitude_vector" | "dora_scale" => (1, Part::Magnitude),
            segment if is_pair(segment) && next == Some("down") => (2, Part::A(Kind::Linear)),
            segment if is_pair(segment) && next == Some("up") => (2, Part::B(Kind::Linear)),
            _ => return None,
        };
        Some((at, length, part))
    })?;
    // `to_q_lora.down` is a part of `to_q`. Elsewhere, `_lora` belongs to the model's own name.
    let path = match length {
        2 if segments[at].ends_with("_lora") => attention(&segments[..=at], component),
        _ => owned(&segments[..at]),
    };
    let refuse = |reason: &str| {
        Some(nameless(Meaning::Foreign {
            path: module_path(&path).0,
            reason: reason.to_owned(),
        }))
    };
    if let [.., base_layer, projection] = &path[..]
        && base_layer == "base_layer"
        && projection == "out_proj"
    {
        return refuse(
            "is of the output projection of torch's MultiheadAttention, which PEFT adds twice: \
             merge it with PEFT",
        );
    }
    let (adapter, part) = match (&segments[at + length..], part) {
        ([] | ["weight"], part) => (None, part),
        (["bias"], Part::B(Kind::Linear)) => (None, Part::Bias),
        ([adapter, "bias"], Part::B(Kind::Linear)) => (Some(*adapter), Part::Bias),
        (["bias"] | [_, "bias"], _) => {
            return refuse("is a bias of lora_A or of an embedding, which no LoRA has");
        }
        ([adapter] | [adapter, "weight"], part) => (Some(*adapter), part),
        _ => {
            return refuse(
                "has more segments after lora_A or lora_B than an adapter's name: a name with dots \
                 can't be told from them; rename the adapter",
            );
        }
    };
    Some(found(&path, part, adapter))
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|segment| (*segment).to_owned()).collect()
}

fn found<'a>(path: &[String], part: Part, adapter: Option<&'a str>) -> Key<'a> {
    let (path, depth) = module_path(path);
    Key {
        adapter,
        meaning: Meaning::Part { path, depth, part },
    }
}

/// Older diffusers' names of attention layers as the model has them: `attn1.processor.to_q_lora` is
/// `attn1.to_q`.
fn attention(path: &[&str], component: Option<&str>) -> Vec<String> {
    let mut path = owned(path);
    let Some(layer) = path
        .last()
        .and_then(|last| last.strip_suffix("_lora"))
        .map(str::to_owned)
    else {
        return path;
    };
    path.pop();
    if path.last().is_some_and(|segment| segment == "processor") {
        path.pop();
    }
    let in_text = component.is_some_and(|component| component.starts_with("text_encoder"));
    match (layer.as_str(), in_text) {
        ("to_out", false) => path.extend(["to_out".to_owned(), "0".to_owned()]),
        ("to_out", true) => path.push("out_proj".to_owned()),
        ("to_q" | "to_k" | "to_v", true) => path.push(format!("{}_proj", &layer[3..])),
        _ => path.push(layer),
    }
    path
}

/// A module's path without PEFT's wrappers, and the number of `base_layer` segments at its end.
fn module_path(segments: &[String]) -> (String, usize) {
    let mut end = segments.len();
    let mut depth = 0;
    while end > 0 && segments[end - 1] == "base_layer" {
        (end, depth) = (end - 1, depth + 1);
    }
    if depth > 0 && end > 0 && segments[end - 1] == "token_adapter" {
        (end, depth) = (end - 1, depth - 1);
    }
    let path: Vec<&str> = segments[..end]
        .iter()
        .map(String::as_str)
        .filter(|segment| *segment != "base_layer")
        .collect();
    (path.join("."), depth)
}

/// PEFT's `trainable_token_indices`.
fn tokens<'a>(segments: &[&'a str]) -> Option<Key<'a>> {
    let named = |wanted: &str| segments.iter().position(|segment| *segment == wanted);
    let path = |at: usize| {
        let before = match segments[..at].split_last() {
            Some((&"token_adapter", before)) => before,
            _ => &segments[..at],
        };
        before.join(".")
    };
    if let Some(at) = named("trainable_tokens_delta") {
        let adapter = match &segments[at + 1..] {
            [] => None,
            [adapter] => Some(*adapter),
            _ => {
                return Some(nameless(unknown(
                    "has more segments than an adapter's name",
                )));
            }
        };
        return Some(Key {
            adapter,
            meaning: Meaning::Tokens(path(at)),
        });
    }
    let at = named("trainable_tokens_original").or_else(|| named("token_indices"))?;
    Some(Key {
        adapter: segments.get(at + 1).copied(),
        meaning: Meaning::LeftOut("is PEFT's own copy of the base's rows, or of their indices"),
    })
}

fn other_method(segments: &[&str], has_config: bool) -> Option<Meaning<'static>> {
    let way_out = "merge it with the tool that made it, or leave its module out (--skip)";
    let of = |methods: &[(&str, &'static str)], segment: &str| {
        let found = methods
            .iter()
            .find(|(start, _)| match start.strip_suffix('_') {
                Some(_) => segment.starts_with(start),
                None => segment == *start,
            });
        found.map(|(_, method)| *method)
    };
    for (at, segment) in segments.iter().enumerate() {
        if ["lora_a", "lora_b"].contains(segment) {
            return Some(unknown(
                "is MLX's, whose lora_a and lora_b are transposed: convert the adapter to PEFT's \
                 format",
            ));
        }
        let path = &segments[..at];
        let other = || of(&OTHER_TOOLS, segment).filter(|_| !has_config);
        if let Some(method) = of(&OTHER_METHODS, segment).or_else(other) {
            let reason = format!("is of another method than LoRA: {method}; {way_out}");
            return Some(foreign(path, reason));
        }
        if segment.starts_with("lora_") || segment.starts_with("trainable_tokens") {
            let reason = format!(
                "is of another method than LoRA ({}); {way_out}",
                shown(segment)
            );
            return Some(foreign(path, reason));
        }
    }
    if has_config {
        return None;
    }
    // XLabs' `proj_lora1.down` and the like. With a config, it may be the model's own name.
    let is_lora = |segment: &&str| segment.to_ascii_lowercase().contains("lora");
    if let Some(at) = segments.iter().position(is_lora) {
        let reason = format!(
            "has {} in its name, which isn't a part of LoRA as known tools name them; {way_out}",
            shown(segments[at])
        );
        return Some(foreign(&segments[..at], reason));
    }
    let (last, path) = segments.split_last()?;
    match *last {
        "diff" | "diff_b" => Some(Meaning::Unknown(format!(
            "is a difference to a whole tensor of the base rather than LoRA; {way_out}"
        ))),
        "scalar" => Some(foreign(
            path,
            format!("is of another method than LoRA: a factor of LyCORIS'; {way_out}"),
        )),
        _ => None,
    }
}

/// A tensor of the base model.
fn whole<'a>(name: &str, segments: &[&str]) -> Meaning<'a> {
    if !segments.contains(&"base_layer") {
        return Meaning::Saved(name.to_owned());
    }
    let mut kept: Vec<&str> = Vec::with_capacity(segments.len());
    for segment in segments {
        if *segment == "base_layer" {
            if kept.last() == Some(&"token_adapter") {
                kept.pop();
            }
        } else {
            kept.push(segment);
        }
    }
    Meaning::BaseLayer(kept.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part_of(path: &str, part: Part) -> Meaning<'static> {
        Meaning::Part {
            path: path.into(),
            depth: 0,
            part,
        }
    }

    #[test]
    fn names_come_apart() {
        let (a, b) = (Part::A(Kind::Linear), Part::B(Kind::Linear));
        let meaning = |name: &'static str| parse(name, Format::Peft, None, true);
        for (name, adapter, expected) in [
            ("a.q.lora_A.weight", None, part_of("a.q", a)),
            ("a.q.lora_B.bias", None, part_of("a.q", Part::Bias)),
            ("lora_B.weight", None, part_of("", b)),
            ("a.q.lora_A.sft.weight", Some("sft"), part_of("a.q", a)),
            (
                "a.q.lora_A.weight.weight",
                Some("weight"),
                part_of("a.q", a),
            ),
            (
                "a.q.lora_B.sft.bias",
                Some("sft"),
                part_of("a.q", Part::Bias),
            ),
            (
                "a.q.lora_magnitude_vector",
                None,
                part_of("a.q", Part::Magnitude),
            ),
            (
                "a.q.lora_magnitude_vector.sft.weight",
                Some("sft"),
                part_of("a.q", Part::Magnitude),
            ),
            (
                "e.lora_embedding_A",
                None,
                part_of("e", Part::A(Kind::Embedding)),
            ),
            (
                "e.lora_embedding_B.sft",
                Some("sft"),
                part_of("e", Part::B(Kind::Embedding)),
            ),
            ("a.q.alpha", None, part_of("a.q", Part::Alpha)),
            ("a.q.lora_down.weight", None, part_of("a.q", a)),
            ("a.q.lora.up.weight", None, part_of("a.q", b)),
            (
                "a.q_proj.lora_linear_layer.up.weight",
                None,
                part_of("a.q_proj", b),
            ),
            (
                "m.experts.base_layer.gate.lora_A.weight",
                None,
                part_of("m.experts.gate", a),
            ),
            (
                "e.token_adapter.base_layer.lora_embedding_A",
                None,
                part_of("e", Part::A(Kind::Embedding)),
            ),
            (
                "classifier.weight",
                None,
                Meaning::Saved("classifier.weight".into()),
            ),
            (
                "a.q.base_layer.bias",
                None,
                Meaning::BaseLayer("a.q.bias".into()),
            ),
            (
                "e.token_adapter.base_layer.weight",
                None,
                Meaning::BaseLayer("e.weight".into()),
            ),
            (
                "score.original_module.weight",
                None,
                Meaning::Original("score.weight".into()),
            ),
            (
                "score.modules_to_save.default.dense.weight",
                None,
                Meaning::Copied {
                    module: "score",
                    tail: "default.dense.weight",
                },
            ),
            (
                "e.token_adapter.trainable_tokens_delta.sft",
                Some("sft"),
                Meaning::Tokens("e".into()),
            ),
        ] {
            let expected = Key {
                adapter,
                meaning: expected,
            };
            assert_eq!(meaning(name), expected, "{name}");
        }
        let nested = meaning("m.experts.base_layer.base_layer.lora_A.weight").meaning;
        assert!(matches!(nested, Meaning::Part { ref path, depth: 2, .. } if path == "m.experts"));
        let text = "layers.0.self_attn.to_q_lora.down.weight";
        assert_eq!(
            parse(text, Format::Diffusers, Some("text_encoder"), false).meaning,
            part_of("layers.0.self_attn.q_proj", a)
        );
    }

    /// `_lora` is diffusers' in the segment of a pair, and the model's own anywhere else.
    #[test]
    fn only_a_pair_s_segment_loses_lora() {
        let (a, b) = (Part::A(Kind::Linear), Part::B(Kind::Linear));
        for (name, expected) in [
            ("n.processor.to_q_lora.down.weight", part_of("n.to_q", a)),
            (
                "n.processor.to_out_lora.up.weight",
                part_of("n.to_out.0", b),
            ),
            (
                "n.processor.to_q_lora.alpha",
                part_of("n.to_q", Part::Alpha),
            ),
            ("b.q_lora.lora_A.weight", part_of("b.q_lora", a)),
            ("b.q_lora.lora_up.weight", part_of("b.q_lora", b)),
            ("b.q_lora.alpha", part_of("b.q_lora", Part::Alpha)),
        ] {
            let meaning = parse(name, Format::Diffusers, None, false).meaning;
            assert_eq!(meaning, expected, "{name}");
        }
        for (name, expected) in [
            ("b.q_lora.lora_B.weight", part_of("b.q_lora", b)),
            ("b.to_q_lora.alpha", part_of("b.to_q_lora", Part::Alpha)),
            ("b.q_lora.down.w", Meaning::Saved("b.q_lora.down.w".into())),
            ("b.w_norm.w", Meaning::Saved("b.w_norm.w".into())),
        ] {
            assert_eq!(parse(name, Format::Peft, None, true).meaning, expected);
        }
    }

    #[test]
    fn other_methods_are_named() {
        for (name, fragment) in [
            ("a.q.hada_w1_a", "LoHa"),
            ("a.q.lokr_w2", "LoKr"),
            ("a.q.oft_blocks", "OFT"),
            ("a.q.lora_mid.weight", "Tucker"),
            ("a.q.lora_E", "AdaLoRA"),
            ("a.q.lora_a", "MLX"),
            ("attn.base_layer.out_proj.lora_A.weight", "twice"),
            ("a.q.lora_router.weight", "another method"),
            ("a.q.diff", "difference"),
            ("a.q.scalar", "LyCORIS"),
            ("a.w_norm", "norm"),
            ("a.processor.proj_lora1.down.weight", "proj_lora1"),
            ("a.q.lora_A.my.adapter.weight", "dots"),
            ("a.q.lora_A.bias", "bias"),
            ("score.modules_to_save", "without a tensor"),
        ] {
            let (Meaning::Unknown(reason) | Meaning::Foreign { reason, .. }) =
                parse(name, Format::Diffusers, None, false).meaning
            else {
                panic!("{name} is taken for something else");
            };
            assert!(reason.contains(fragment), "{name}: {reason}");
        }
    }

    #[test]
    fn loralib_has_two_endings() {
        let meaning = |name| parse(name, Format::Loralib, None, false).meaning;
        assert_eq!(meaning("a.q.lora_A"), part_of("a.q", Part::A(Kind::Linear)));
        assert_eq!(meaning("a.q.alpha"), part_of("a.q", Part::Alpha));
        assert_eq!(meaning("a.q.bias"), Meaning::Saved("a.q.bias".into()));
        assert!(matches!(meaning("a.q.lora_A.weight"), Meaning::Unknown(_)));
    }
}
