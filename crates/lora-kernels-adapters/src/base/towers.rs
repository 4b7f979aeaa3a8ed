//! Which parts of a model a name can mean, by its words.

use std::collections::BTreeSet;

use super::nodes::{last, stripped};

/// A part of a model that has layers of its own, beside its trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Vision,
    Audio,
    /// A language model that speaks, beside the one that thinks.
    Talker,
    /// What lies between towers.
    Connector,
    /// Further layers that predict tokens ahead.
    Draft,
    /// What a training run holds beside the model.
    Teacher,
    Student,
    Critic,
    Average,
    Generator,
    Discriminator,
}

const PARTS: [(&str, Part); 34] = [
    ("vision", Part::Vision),
    ("visual", Part::Vision),
    ("image", Part::Vision),
    ("img", Part::Vision),
    ("video", Part::Vision),
    ("vpm", Part::Vision),
    ("audio", Part::Audio),
    ("speech", Part::Audio),
    ("sound", Part::Audio),
    ("voice", Part::Audio),
    ("apm", Part::Audio),
    ("talker", Part::Talker),
    ("token2wav", Part::Audio),
    ("code2wav", Part::Audio),
    ("qformer", Part::Connector),
    ("connector", Part::Connector),
    ("projector", Part::Connector),
    ("projection", Part::Connector),
    ("merger", Part::Connector),
    ("resampler", Part::Connector),
    ("perceiver", Part::Connector),
    ("bridge", Part::Connector),
    ("mtp", Part::Draft),
    ("draft", Part::Draft),
    ("eagle", Part::Draft),
    ("medusa", Part::Draft),
    ("teacher", Part::Teacher),
    ("student", Part::Student),
    ("critic", Part::Critic),
    ("reward", Part::Critic),
    ("ema", Part::Average),
    ("generator", Part::Generator),
    ("discriminator", Part::Discriminator),
    ("nextn", Part::Draft),
];

/// Parts that may be the model itself, in a copy or another role, unlike a tower beside it.
const MODELS: [Part; 7] = [
    Part::Talker,
    Part::Teacher,
    Part::Student,
    Part::Critic,
    Part::Average,
    Part::Generator,
    Part::Discriminator,
];

/// Segments whose words name no part: the trunks of models of one part alone.
const WHOLE: [&str; 3] = [
    "audio_spectrogram_transformer",
    "vision_transformer",
    "image_transformer",
];

/// Words count whatever their case.
fn words(path: &str) -> impl Iterator<Item = &str> {
    path.split('.')
        .filter(|segment| !WHOLE.contains(segment))
        .flat_map(|segment| segment.split('_'))
}

fn part(word: &str) -> Option<Part> {
    let mut parts = PARTS.iter();
    let found = parts.find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, part)| *part)
}

/// The parts that a path names, each once.
pub(super) fn parts(path: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = words(path).filter_map(part).collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// Whether two names can be those of one part of a model: they name the same parts beside the
/// trunk, and not the encoder in one and the decoder in the other.
pub(super) fn same_part(from: &str, to: &str) -> bool {
    let has = |path: &str, names: [&str; 2]| {
        let is = |word: &str| names.iter().any(|name| name.eq_ignore_ascii_case(word));
        words(path).any(is)
    };
    let (encoders, decoders) = (
        [from, to].map(|path| has(path, ["encoder", "enc"])),
        [from, to].map(|path| has(path, ["decoder", "dec"])),
    );
    let crossed = (encoders == [true, false] && decoders == [false, true])
        || (encoders == [false, true] && decoders == [true, false]);
    parts(from) == parts(to) && !crossed
}

/// The parts that each of these heads names, if all name the same ones and at least one.
pub(super) fn lone_parts<'a>(mut heads: impl Iterator<Item = &'a &'a str>) -> Option<Vec<Part>> {
    let lone = parts(heads.next()?);
    (!lone.is_empty() && heads.all(|head| parts(head) == lone)).then_some(lone)
}

/// The words for the trunk of a model, around its layers and embeddings.
const TRUNKS: [&str; 47] = [
    "model",
    "backbone",
    "transformer",
    "language_model",
    "text_model",
    "llm",
    "lm",
    "base_model",
    "thinker",
    "gpt_neox",
    "rwkv",
    "bert",
    "roberta",
    "xlm_roberta",
    "camembert",
    "distilbert",
    "albert",
    "electra",
    "deberta",
    "mpnet",
    "esm",
    "modernbert",
    "nomic_bert",
    "mobilebert",
    "longformer",
    "big_bird",
    "ernie",
    "nezha",
    "megatron_bert",
    "layoutlm",
    "luke",
    "xlnet",
    "flaubert",
    "funnel",
    "convbert",
    "wavlm",
    "wav2vec2",
    "hubert",
    "vit",
    "deit",
    "beit",
    "dinov2",
    "swin",
    "clip",
    "siglip",
    "whisper",
    "audio_spectrogram_transformer",
];

/// Words for a list of layers.
const LISTS: [&str; 6] = ["layers", "layer", "h", "blocks", "block", "resblocks"];

/// Whether replacing `from` by `to` is only another name for a trunk: each is empty or made of its
/// words.
pub(super) fn renames_trunk(from: &str, to: &str) -> bool {
    let (from, to, _) = stripped(from, to, usize::MAX);
    let is_trunk =
        |path: &str| path.is_empty() || path.split('.').all(|word| TRUNKS.contains(&word));
    let (from, to) = match same_list(from, to) {
        true => (without_list(from), without_list(to)),
        false => (from, to),
    };
    is_trunk(from) && is_trunk(to)
}

/// What two heads share of which one renames the other's trunk ([`renames_trunk`]): what is left
/// without the trunk's words in front, with one word for every usual list of layers.
pub(super) fn trunk_key(head: &str) -> String {
    let segments = head.split('.').skip_while(|word| TRUNKS.contains(word));
    segments.map(one_list).collect::<Vec<_>>().join(".")
}

/// One word for all usual ones for a list of layers; other words stay.
fn one_list(word: &str) -> &str {
    if LISTS.contains(&word) {
        LISTS[0]
    } else {
        word
    }
}

/// What two heads share that end with the same word for the layers' list, or with usual ones
/// ([`same_list`]).
pub(super) fn list_key(head: &str) -> &str {
    one_list(last(head))
}

/// Whether `from` could mean a tree under the head `other`, which is of another part, as well as
/// the one under `to`.
pub(super) fn is_rival(from: &str, to: &str, other: &str) -> bool {
    let ours = parts(from);
    let theirs = parts(other);
    let mut further = theirs.iter().filter(|part| !ours.contains(part));
    let speaks = theirs.contains(&Part::Talker)
        && !words(from).any(|word| word.eq_ignore_ascii_case("thinker"));
    let is_model = further.any(|part| MODELS.contains(part));
    is_model && (speaks || !renames_trunk(from, to))
}

/// Words that say nothing of which of several modules of one kind is meant.
const KINDS: [&str; 6] = [
    "tower",
    "model",
    "encoder",
    "decoder",
    "transformer",
    "backbone",
];

/// Whether each of two heads has words of its own that tell two models apart, such as `policy` and
/// `ref`, `encoder_q` and `encoder_k`, `text_encoder` and `text_encoder_2`.
pub(super) fn tells_apart(from: &str, to: &str) -> bool {
    let (mut from, mut to, _) = stripped(from, to, usize::MAX);
    if same_list(from, to) {
        (from, to) = (without_list(from), without_list(to));
    }
    let own = |path: &str| -> BTreeSet<String> {
        let segments = path.split('.').filter(|segment| !TRUNKS.contains(segment));
        let is_own =
            |word: &String| !word.is_empty() && !KINDS.contains(&&**word) && part(word).is_none();
        let words = segments.flat_map(words).map(str::to_ascii_lowercase);
        words.filter(is_own).collect()
    };
    let (from, to) = (own(from), own(to));
    !from.is_empty() && !to.is_empty() && from != to
}

/// Whether two heads end with the same word for the layers' list, or with usual ones.
pub(super) fn same_list(from: &str, to: &str) -> bool {
    !last(from).is_empty() && list_key(from) == list_key(to)
}

fn without_list(head: &str) -> &str {
    head.rsplit_once('.').map_or("", |(front, _)| front)
}
