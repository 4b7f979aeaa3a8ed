//! Names of heads beside their embeddings.

/// Whether a class of transformers has a head over the vocabulary.
pub fn has_head(class: &str) -> bool {
    [
        "CausalLM",
        "LMHead",
        "ConditionalGeneration",
        "MaskedLM",
        "PreTraining",
    ]
    .iter()
    .any(|part| class.contains(part))
}

/// The name of the head that belongs to an embedding: `lm_head.weight` for
/// `model.embed_tokens.weight`, `language_model.lm_head.weight` for
/// `language_model.model.embed_tokens.weight`. `wanted` is the head's name in the adapter.
pub fn head_name(embedding: &str, wanted: &str) -> String {
    /// Paths of embeddings in the model that has the head.
    const INSIDE: [&str; 15] = [
        "model.language_model.embed_tokens",
        "model.text_model.embed_tokens",
        "model.decoder.embed_tokens",
        "model.embed_tokens",
        "model.shared",
        "transformer.word_embeddings",
        "transformer.wte",
        "embedding.word_embeddings",
        "gpt_neox.embed_in",
        "backbone.embeddings",
        "backbone.embedding",
        "embed_tokens",
        "model.tok_embeddings",
        "tok_embeddings",
        "wte",
    ];
    /// Heads whose paths have two parts.
    const LONG: [&str; 3] = [
        "cls.predictions.decoder",
        "predictions.decoder",
        "lm_head.decoder",
    ];
    let path = wanted.strip_suffix(".weight").unwrap_or(wanted);
    let tail = { LONG.into_iter() }
        .find(|long| ends_with(path, long))
        .unwrap_or_else(|| path.rsplit('.').next().unwrap_or(path));
    let embedding = embedding.strip_suffix(".weight").unwrap_or(embedding);
    let inside = INSIDE
        .into_iter()
        .find(|inside| ends_with(embedding, inside));
    let prefix = match inside {
        Some(inside) => embedding.strip_suffix(inside).unwrap_or_default(),
        None => "",
    };
    format!("{prefix}{tail}.weight")
}

/// Whether a path ends with these parts.
pub fn ends_with(path: &str, parts: &str) -> bool {
    { path.strip_suffix(parts) }.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The name under which a model reads a head apart from this embedding, if its classes and the
/// embedding's path leave no doubt. Encoders with a decoder and masked models have more that
/// follows the tie, and many of them have heads of other names.
pub fn known_head(embedding: &str, classes: &[&str]) -> Option<String> {
    /// Embeddings' paths in models that generate text, and the heads beside them.
    const KNOWN: [(&str, &str); 11] = [
        ("model.language_model.embed_tokens", "lm_head"),
        ("model.text_model.embed_tokens", "lm_head"),
        ("model.embed_tokens", "lm_head"),
        ("transformer.wte", "lm_head"),
        (
            "transformer.embedding.word_embeddings",
            "transformer.output_layer",
        ),
        ("transformer.word_embeddings", "lm_head"),
        ("gpt_neox.embed_in", "embed_out"),
        ("backbone.embeddings", "lm_head"),
        ("backbone.embedding", "lm_head"),
        ("model.tok_embeddings", "output"),
        ("tok_embeddings", "output"),
    ];
    /// The names of language models within others.
    const WITHIN: [&str; 4] = ["", "language_model.", "llm.", "thinker."];
    let path = embedding.strip_suffix(".weight")?;
    let is_other = |class: &&str| {
        let generates = [
            "CausalLM",
            "LMHeadModel",
            "ConditionalGeneration",
            "ImageTextToText",
        ]
        .iter()
        .any(|end| class.ends_with(end));
        let is_named_otherwise = class.starts_with("ChatGLM") || class.ends_with("ChatModel");
        let has_none = class.contains("For") || class.ends_with("Model");
        // MosaicML's own class has no head beside its embedding; transformers' is MptForCausalLM.
        (has_none && !generates && !is_named_otherwise) || *class == "MPTForCausalLM"
    };
    if classes.iter().any(is_other) {
        return None;
    }
    if path == "model.decoder.embed_tokens" {
        let is_opt = !classes.is_empty() && classes.iter().all(|class| class.starts_with("OPTFor"));
        return is_opt.then(|| "lm_head.weight".to_owned());
    }
    KNOWN.iter().find_map(|(known, head)| {
        let within = path.strip_suffix(known)?;
        WITHIN
            .contains(&within)
            .then(|| format!("{within}{head}.weight"))
    })
}

#[cfg(test)]
mod tests {
    use super::{head_name, known_head};

    #[test]
    fn heads_are_named_as_their_models_name_them() {
        for (embedding, wanted, head) in [
            ("model.embed_tokens", "lm_head", "lm_head"),
            ("model.embed_tokens", "model.lm_head", "lm_head"),
            (
                "language_model.model.embed_tokens",
                "lm_head",
                "language_model.lm_head",
            ),
            ("model.language_model.embed_tokens", "lm_head", "lm_head"),
            (
                "model.language_model.embed_tokens",
                "language_model.lm_head",
                "lm_head",
            ),
            ("transformer.wte", "lm_head", "lm_head"),
            ("wte", "lm_head", "lm_head"),
            ("tok_embeddings", "output", "output"),
            ("llm.model.embed_tokens", "llm.lm_head", "llm.lm_head"),
            ("shared", "lm_head", "lm_head"),
            ("model.tok_embeddings", "output", "output"),
            (
                "transformer.embedding.word_embeddings",
                "transformer.output_layer",
                "transformer.output_layer",
            ),
            (
                "bert.embeddings.word_embeddings",
                "cls.predictions.decoder",
                "cls.predictions.decoder",
            ),
        ] {
            let named = head_name(&format!("{embedding}.weight"), &format!("{wanted}.weight"));
            assert_eq!(
                named,
                format!("{head}.weight"),
                "{wanted} beside {embedding}"
            );
        }
    }

    /// A head under a name that the model doesn't read would be lost, and another made at random.
    #[test]
    fn a_head_is_named_only_where_its_name_is_known() {
        for (embedding, class, head) in [
            ("model.embed_tokens", "Qwen2ForCausalLM", Some("lm_head")),
            ("model.embed_tokens", "", Some("lm_head")),
            ("transformer.wte", "GPT2LMHeadModel", Some("lm_head")),
            ("gpt_neox.embed_in", "GPTNeoXForCausalLM", Some("embed_out")),
            ("tok_embeddings", "", Some("output")),
            (
                "model.tok_embeddings",
                "InternLM2ForCausalLM",
                Some("output"),
            ),
            (
                "language_model.model.embed_tokens",
                "LlavaForConditionalGeneration",
                Some("language_model.lm_head"),
            ),
            (
                "transformer.embedding.word_embeddings",
                "ChatGLMModel",
                Some("transformer.output_layer"),
            ),
            (
                "model.decoder.embed_tokens",
                "OPTForCausalLM",
                Some("lm_head"),
            ),
            (
                "model.decoder.embed_tokens",
                "WhisperForConditionalGeneration",
                None,
            ),
            ("model.decoder.embed_tokens", "", None),
            (
                "roberta.embeddings.word_embeddings",
                "RobertaForMaskedLM",
                None,
            ),
            (
                "distilbert.embeddings.word_embeddings",
                "DistilBertForMaskedLM",
                None,
            ),
            (
                "albert.embeddings.word_embeddings",
                "AlbertForMaskedLM",
                None,
            ),
            (
                "electra.embeddings.word_embeddings",
                "ElectraForMaskedLM",
                None,
            ),
            ("bert.embeddings.word_embeddings", "", None),
            ("shared", "T5ForConditionalGeneration", None),
            ("model.shared", "BartForConditionalGeneration", None),
            ("transformer.wte", "MPTForCausalLM", None),
            ("model.embed_tokens", "LlamaForSequenceClassification", None),
            ("model.embed_tokens", "LlamaModel", None),
            ("wte", "GPT2LMHeadModel", None),
        ] {
            let classes: Vec<&str> = [class]
                .into_iter()
                .filter(|class| !class.is_empty())
                .collect();
            assert_eq!(
                known_head(&format!("{embedding}.weight"), &classes),
                head.map(|head| format!("{head}.weight")),
                "{class}, {embedding}"
            );
        }
    }
}
