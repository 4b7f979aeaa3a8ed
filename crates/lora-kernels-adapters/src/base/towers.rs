//! Which parts of a model a name can mean, by its words.

use super::nodes::stripped;

/// A part of a model that has layers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tower {
    Vision,
    Audio,
    /// What lies between towers.
    Connector,
    /// Further layers that predict tokens ahead.
    Draft,
    Text,
    Encoder,
    Decoder,
}

const WORDS: [(&str, Tower); 36] = [
    ("vision", Tower::Vision),
    ("visual", Tower::Vision),
    ("image", Tower::Vision),
    ("img", Tower::Vision),
    ("video", Tower::Vision),
    ("vit", Tower::Vision),
    ("siglip", Tower::Vision),
    ("audio", Tower::Audio),
    ("speech", Tower::Audio),
    ("sound", Tower::Audio),
    ("voice", Tower::Audio),
    ("talker", Tower::Audio),
    ("token2wav", Tower::Audio),
    ("code2wav", Tower::Audio),
    ("qformer", Tower::Connector),
    ("connector", Tower::Connector),
    ("projector", Tower::Connector),
    ("projection", Tower::Connector),
    ("merger", Tower::Connector),
    ("resampler", Tower::Connector),
    ("perceiver", Tower::Connector),
    ("bridge", Tower::Connector),
    ("mtp", Tower::Draft),
    ("draft", Tower::Draft),
    ("eagle", Tower::Draft),
    ("medusa", Tower::Draft),
    ("language", Tower::Text),
    ("text", Tower::Text),
    ("txt", Tower::Text),
    ("llm", Tower::Text),
    ("lm", Tower::Text),
    ("encoder", Tower::Encoder),
    ("enc", Tower::Encoder),
    ("decoder", Tower::Decoder),
    ("dec", Tower::Decoder),
    ("generator", Tower::Decoder),
];

fn towers(path: &str) -> Vec<Tower> {
    let words = path.split(['.', '_']).map(str::to_ascii_lowercase);
    let tower = |word: String| {
        let found = WORDS.iter().find(|(name, _)| *name == word);
        found.map(|&(_, tower)| tower)
    };
    words.filter_map(tower).collect()
}

/// Whether a name is of a part beside the main one.
fn sides(towers: &[Tower]) -> [bool; 4] {
    [Tower::Vision, Tower::Audio, Tower::Connector, Tower::Draft].map(|side| towers.contains(&side))
}

/// Whether two names can be those of one part of a model.
pub(super) fn same_part(from: &str, to: &str) -> bool {
    let (from, to) = (towers(from), towers(to));
    let has = |tower| (from.contains(&tower), to.contains(&tower));
    let crossed = matches!(
        (has(Tower::Encoder), has(Tower::Decoder)),
        ((true, false), (false, true)) | ((false, true), (true, false))
    );
    sides(&from) == sides(&to) && !crossed
}

/// Whether `from` names no part beside the main one, and all heads of a base model are of the part
/// that `to` names.
pub(super) fn is_only_part<'a>(
    from: &str,
    to: &str,
    mut heads: impl Iterator<Item = &'a &'a str>,
) -> bool {
    let sides_of = |path: &str| sides(&towers(path));
    let part = sides_of(to);
    sides_of(from) == [false; 4] && part != [false; 4] && heads.all(|head| sides_of(head) == part)
}

/// The words for the trunk of a model, around its layers and embeddings.
const TRUNKS: [&str; 36] = [
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
];

/// Words for a list of layers.
const LISTS: [&str; 6] = ["layers", "layer", "h", "blocks", "block", "resblocks"];

/// Whether replacing `from` by `to` is only another name for a trunk: each is empty or of its words.
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

/// Whether two heads end with the same word for the layers' list, or with usual ones.
pub(super) fn same_list(from: &str, to: &str) -> bool {
    use super::nodes::last;
    let (from, to) = (last(from), last(to));
    !from.is_empty() && (from == to || (LISTS.contains(&from) && LISTS.contains(&to)))
}

fn without_list(head: &str) -> &str {
    head.rsplit_once('.').map_or("", |(front, _)| front)
}
