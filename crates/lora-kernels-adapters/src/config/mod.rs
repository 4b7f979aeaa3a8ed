//! `adapter_config.json`.

mod fields;
mod parts;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use fields::Fields;
use parts::Parts;
pub(crate) use parts::ends;
use pattern::Patterns;

use crate::regular::read_text;
use crate::shown::shown;
use crate::steps::step;
use crate::{Error, Result};

/// In bytes. Real configs have a few kilobytes; one that gives thousands of experts a rank each has
/// a few hundred.
pub(crate) const LARGEST: u64 = 16 << 20;

/// The largest number of names in a field. Real configs have a handful.
const MOST_NAMES: usize = 4096;

/// The biases of the base model that were trained with the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of the adapted modules.
    LoraOnly,
}

/// A PEFT config of type LORA: `adapter_config.json`. Fields that this crate knows are checked; all
/// others are kept unchanged.
///
/// A missing field has PEFT's default.
#[derive(Debug, Clone)]
pub struct PeftConfig {
    fields: Fields,
    rank: usize,
    lora_alpha: f64,
    use_rslora: bool,
    use_dora: bool,
    lora_bias: bool,
    fan_in_fan_out: bool,
    bias: Bias,
    modules_to_save: Vec<String>,
    saved: Parts,
    /// `None` if it is an expression.
    target_modules: Option<BTreeSet<String>>,
    target_parameters: Vec<String>,
    /// The places of those that name a parameter alone, each name once.
    bare_parameters: Vec<usize>,
    bare_names: BTreeSet<String>,
    /// The modules of the others.
    parameters_modules: Parts,
    trainable_tokens: TrainableTokens,
    /// The lengths of the names of modules in `trainable_tokens`, the longest first.
    token_lengths: Vec<usize>,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

/// The field `trainable_token_indices`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TrainableTokens {
    /// No rows are trained.
    #[default]
    None,
    /// Rows of the input embedding.
    Input(Vec<usize>),
    /// Rows of each module, by the end of its path.
    Modules(BTreeMap<String, Vec<usize>>),
}

impl PeftConfig {
    /// A config for a new adapter: PEFT's defaults, with `target_modules` as suffixes of the
    /// modules' paths, which is how PEFT matches them.
    ///
    /// # Errors
    /// [`Error::Field`] if the rank is 0, or `lora_alpha` is not a finite number above 0.
    pub fn new(rank: usize, lora_alpha: f64, target_modules: &[&str]) -> Result<Self> {
        let mut config = Self::parse(r#"{"peft_type": "LORA"}"#, Path::new("adapter_config.json"))?;
        let text = |value: Value| value.to_string();
        let alpha = match lora_alpha {
            whole if whole.fract() == 0.0 && whole.abs() < 1e15 => text((whole as i64).into()),
            // JSON can't express NaN and infinity; the reader refuses this text and quotes it.
            other if !other.is_finite() => text(other.to_string().into()),
            other => text(other.into()),
        };
        for (field, value) in [
            ("r", text(rank.into())),
            ("lora_alpha", alpha),
            ("target_modules", text(target_modules.into())),
            ("lora_dropout", "0.0".into()),
            ("bias", "\"none\"".into()),
            ("fan_in_fan_out", "false".into()),
            ("use_rslora", "false".into()),
            ("use_dora", "false".into()),
            ("inference_mode", "true".into()),
        ] {
            config = config.with_field(field, &value)?;
        }
        Ok(config)
    }

    /// Reads a config from a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotAFile`], [`Error::TooLarge`], [`Error::Json`],
    /// [`Error::NoAdapter`] if it isn't a LoRA config, [`Error::Field`] if a field has an
    /// impossible value.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path, LARGEST)?, path)
    }

    /// Reads a config from its text. Errors name `path`.
    ///
    /// # Errors
    /// As [`PeftConfig::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let fields = Fields::parse(text, path)?;
        let reader = Reader {
            fields: &fields,
            path,
        };
        let peft_type: Option<String> = reader.field("peft_type", "text")?;
        if let Some(other) = peft_type.filter(|kind| kind != "LORA") {
            return Err(Error::NoAdapter {
                path: path.into(),
                reason: format!(
                    "its peft_type is {}, and LORA alone is supported",
                    shown(&other)
                ),
            });
        }
        let flag = |name| Ok::<bool, Error>(reader.field(name, "true or false")?.unwrap_or(false));
        const POSITIVE: &str = "a finite number above 0";
        let lora_alpha: f64 = reader.number("lora_alpha", POSITIVE)?.unwrap_or(8.0);
        reader.check(
            "lora_alpha",
            lora_alpha > 0.0 && lora_alpha.is_finite(),
            POSITIVE,
        )?;
        const RANK: &str = "a whole number from 1 to 2147418112";
        let rank: u64 = reader.number("r", RANK)?.unwrap_or(8);
        let is_rank = |rank: u64| rank > 0 && rank <= lora_kernels::Problem::MAX_DIMENSION as u64;
        reader.check("r", is_rank(rank), RANK)?;
        const BIAS: &str = "\"none\", \"all\" or \"lora_only\"";
        let bias: Option<String> = reader.field("bias", BIAS)?;
        let bias = match bias.as_deref() {
            None | Some("none") => Bias::None,
            Some("all") => Bias::All,
            Some("lora_only") => Bias::LoraOnly,
            Some(_) => return Err(reader.refused("bias", BIAS)),
        };
        let ranks = reader.patterns("rank_pattern", |&rank: &u64| is_rank(rank), RANK)?;
        let alphas = reader.patterns(
            "alpha_pattern",
            |alpha: &f64| *alpha > 0.0 && alpha.is_finite(),
            POSITIVE,
        )?;
        let modules_to_save: Option<Vec<String>> =
            reader.field("modules_to_save", "a list of names")?;
        let modules_to_save = modules_to_save.unwrap_or_default();
        let saved = { modules_to_save.iter().enumerate() }.filter(|(_, name)| !name.is_empty());
        let target_modules = match fields.get("target_modules") {
            None | Some("null") => Some(BTreeSet::new()),
            Some(json) => serde_json::from_str(json).ok(),
        };
        const PARAMETERS: &str = "null or a list of at most 4096 parameters' names";
        let target_parameters: Option<Vec<String>> =
            reader.field("target_parameters", PARAMETERS)?;
        let few = |list: &Vec<String>| list.len() <= MOST_NAMES;
        reader.check(
            "target_parameters",
            target_parameters.as_ref().is_none_or(few),
            PARAMETERS,
        )?;
        const TOKENS: &str =
            "null, a list of token indices, or an object of such lists for at most 4096 modules";
        let trainable_tokens = match reader.field("trainable_token_indices", TOKENS)? {
            None => TrainableTokens::None,
            Some(Indices::Input(indices)) => TrainableTokens::Input(indices),
            Some(Indices::Modules(modules)) if modules.len() <= MOST_NAMES => {
                TrainableTokens::Modules(modules)
            }
            Some(Indices::Modules(_)) => {
                return Err(reader.refused("trainable_token_indices", TOKENS));
            }
        };
        let token_lengths: BTreeSet<usize> = match &trainable_tokens {
            TrainableTokens::Modules(modules) => modules.keys().map(String::len).collect(),
            _ => BTreeSet::new(),
        };
        let target_parameters = target_parameters.unwrap_or_default();
        let targets = target_parameters.iter().enumerate();
        let mut bare_names = BTreeSet::new();
        let bare_parameters = { targets.clone() }
            .filter(|(_, target)| !target.contains('.') && bare_names.insert((*target).clone()))
            .map(|(at, _)| at)
            .collect();
        Ok(Self {
            rank: rank as usize,
            lora_alpha,
            use_rslora: flag("use_rslora")?,
            use_dora: flag("use_dora")?,
            lora_bias: flag("lora_bias")?,
            fan_in_fan_out: flag("fan_in_fan_out")?,
            bias,
            saved: Parts::new(saved.map(|(at, name)| (name.as_str(), at))),
            modules_to_save,
            target_modules,
            bare_parameters,
            bare_names,
            parameters_modules: Parts::new(
                targets.filter_map(|(at, target)| Some((target.rsplit_once('.')?.0, at))),
            ),
            target_parameters,
            token_lengths: token_lengths.into_iter().rev().collect(),
            trainable_tokens,
            ranks: ranks.map(|rank| rank as usize),
            alphas,
            fields,
        })
    }

    /// A copy with a field set to a JSON text. The field may be one that this crate doesn't know.
    ///
    /// # Errors
    /// [`Error::Json`] if the text is not JSON, [`Error::Field`] if the field can't have that
    /// value.
    pub fn with_field(&self, name: &str, json: &str) -> Result<Self> {
        let path = Path::new("adapter_config.json");
        let fields = self.fields.with(name, json, path)?;
        Self::parse(&fields.to_text(), path)
    }

    /// The JSON text of a field, or `None` if the config lacks it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The whole config as JSON, with its fields in the order in which they were read.
    pub fn to_json(&self) -> String {
        self.fields.to_text()
    }

    /// The field r; `rank_pattern` is not applied.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The field lora_alpha; `alpha_pattern` is not applied.
    pub fn lora_alpha(&self) -> f64 {
        self.lora_alpha
    }

    /// The rank of the module at this path in the base model: the value of the first key of
    /// `rank_pattern` that matches (`re.match(rf"(.*\.)?({key})$", path)`), else r.
    pub fn rank_of(&self, path: &str) -> usize {
        self.ranks.get(path).unwrap_or(self.rank)
    }

    /// The lora_alpha of a module. `alpha_pattern` is matched like `rank_pattern`.
    pub fn lora_alpha_of(&self, path: &str) -> f64 {
        self.alphas.get(path).unwrap_or(self.lora_alpha)
    }

    /// The scaling of a module: lora_alpha / r, or lora_alpha / √r with rsLoRA, in f64 as PEFT
    /// computes it, then rounded to f32.
    pub fn scaling_of(&self, path: &str) -> f32 {
        let (rank, alpha) = (self.rank_of(path) as f64, self.lora_alpha_of(path));
        let divisor = if self.use_rslora { rank.sqrt() } else { rank };
        (alpha / divisor) as f32
    }

    /// Whether scalings are lora_alpha / √r.
    pub fn use_rslora(&self) -> bool {
        self.use_rslora
    }

    /// Whether modules have magnitude vectors (DoRA).
    pub fn use_dora(&self) -> bool {
        self.use_dora
    }

    /// Whether lora_B has a bias.
    pub fn lora_bias(&self) -> bool {
        self.lora_bias
    }

    /// Whether the adapted weights are stored (in_features, out_features), as GPT-2's `Conv1D` has
    /// them.
    pub fn fan_in_fan_out(&self) -> bool {
        self.fan_in_fan_out
    }

    /// The biases of the base model that were trained.
    pub fn bias(&self) -> Bias {
        self.bias
    }

    /// Modules that were trained in full.
    pub fn modules_to_save(&self) -> &[String] {
        &self.modules_to_save
    }

    /// The path of the outermost module that [`PeftConfig::modules_to_save`] names and in which
    /// the tensor `name` lies, and the tensor's name in it. As in PEFT, an entry of that list is a
    /// module's path or a part of it: `score` names `model.score`, so that of
    /// `model.score.dense.weight` this is (`model.score`, `dense.weight`).
    pub fn saved_module<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str)> {
        let end = self.saved.first_end(name, false)?;
        Some((&name[..end], &name[end + 1..]))
    }

    /// Whether the module at this path lies in one of [`PeftConfig::modules_to_save`], or is one.
    pub(crate) fn saves_whole(&self, path: &str) -> bool {
        self.saved.first_end(path, true).is_some()
    }

    /// Whether the module at this path is one of `target_modules`; `None` if that is an expression.
    pub(crate) fn targets(&self, path: &str) -> Option<bool> {
        let names = self.target_modules.as_ref()?;
        Some(ends(path).any(|end| names.contains(end)))
    }

    /// Bare parameters that are adapted, such as `mlp.experts.gate_up_proj`: the ends of their
    /// names.
    pub fn target_parameters(&self) -> &[String] {
        &self.target_parameters
    }

    /// Names of the parameters of the module at this path that [`PeftConfig::target_parameters`]
    /// may mean, in that list's order: `gate_up_proj` for `mlp.experts.gate_up_proj` and the path
    /// `layers.0.mlp.experts`. A target without a module's name, such as `gate_up_proj` alone, may
    /// mean a parameter of any module, and is named once.
    pub fn parameters_of(&self, path: &str) -> Vec<&str> {
        let mut places = self.bare_parameters.clone();
        places.extend(self.parameters_modules.ending(path));
        places.sort_unstable();
        let targets = { places.into_iter() }.filter_map(|at| self.target_parameters.get(at));
        targets.map(|target| parameter(target)).collect()
    }

    /// The names in [`PeftConfig::target_parameters`] that may mean a parameter of any module.
    pub(crate) fn bare_parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        { self.bare_parameters.iter() }.map(|&at| self.target_parameters[at].as_str())
    }

    /// Whether [`PeftConfig::bare_parameters`] has this name.
    pub(crate) fn is_bare(&self, name: &str) -> bool {
        self.bare_names.contains(name)
    }

    /// The names in [`PeftConfig::target_parameters`] that mean a parameter of the module at this
    /// path alone.
    pub(crate) fn own_parameters(&self, path: &str) -> impl Iterator<Item = &str> {
        let places = self.parameters_modules.ending(path);
        places.map(|at| parameter(&self.target_parameters[at]))
    }

    /// The rows that were trained in full of the embedding at this path, where
    /// [`TrainableTokens::Modules`] names its module: by the longest name that the path ends with,
    /// at a dot if there is such. PEFT compares the ends of names, not only at dots.
    pub(crate) fn tokens_of(&self, path: &str) -> Option<&[usize]> {
        let TrainableTokens::Modules(modules) = &self.trainable_tokens else {
            return None;
        };
        let of = |end: &str| {
            step();
            modules.get(end)
        };
        let at_dots = ends(path).filter_map(of).last();
        let anywhere = || {
            let mut lengths = self.token_lengths.iter();
            lengths.find_map(|&length| of(path.get(path.len().checked_sub(length)?..)?))
        };
        at_dots.or_else(anywhere).map(Vec::as_slice)
    }

    /// Rows of embeddings that were trained in full.
    pub fn trainable_tokens(&self) -> &TrainableTokens {
        &self.trainable_tokens
    }

    /// The config's fields that make the adapter more than B·A added to a weight of the original
    /// base: aLoRA, QA-LoRA, replicated layers and the like, and initialisations that change the
    /// base, such as PiSSA's. DoRA is not listed; see [`PeftConfig::use_dora`].
    pub fn variants(&self) -> Vec<String> {
        let set = |name: &str| {
            let value = self
                .field(name)
                .and_then(|json| serde_json::from_str::<Value>(json).ok());
            !matches!(value, None | Some(Value::Null | Value::Bool(false)))
                && value != Some(Value::Array(Vec::new()))
                && value != Some(Value::Object(serde_json::Map::new()))
        };
        const FIELDS: [&str; 8] = [
            "alora_invocation_tokens",
            "arrow_config",
            "kasa_config",
            "layer_replication",
            "monteclora_config",
            "use_bdlora",
            "use_qalora",
            "velora_config",
        ];
        let mut found: Vec<String> = FIELDS
            .into_iter()
            .filter(|name| set(name))
            .map(str::to_owned)
            .collect();
        let init = self
            .field("init_lora_weights")
            .unwrap_or_default()
            .trim_matches('"');
        let changes_base = ["pissa", "corda", "olora", "loftq", "lora_ga"];
        if changes_base
            .iter()
            .any(|name| init.to_lowercase().starts_with(name))
        {
            found.push(format!("init_lora_weights = {}", shown(init)));
        }
        found
    }
}

/// The name of a target's parameter, without its module's.
fn parameter(target: &str) -> &str {
    target.rsplit_once('.').map_or(target, |(_, name)| name)
}

/// The JSON of `trainable_token_indices`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Indices {
    Input(Vec<usize>),
    Modules(BTreeMap<String, Vec<usize>>),
}

/// Reads fields as typed values.
struct Reader<'a> {
    fields: &'a Fields,
    path: &'a Path,
}

impl Reader<'_> {
    /// `None` if the field is missing or null.
    fn field<T: DeserializeOwned>(
        &self,
        name: &'static str,
        allowed: &'static str,
    ) -> Result<Option<T>> {
        let Some(json) = self.fields.get(name) else {
            return Ok(None);
        };
        serde_json::from_str(json).map_err(|_| self.refused(name, allowed))
    }

    /// `None` if the field is missing. PEFT has no meaning for null here.
    fn number<T: DeserializeOwned>(
        &self,
        name: &'static str,
        allowed: &'static str,
    ) -> Result<Option<T>> {
        match self.fields.get(name) {
            Some("null") => Err(self.refused(name, allowed)),
            _ => self.field(name, allowed),
        }
    }

    fn check(&self, name: &'static str, holds: bool, allowed: &'static str) -> Result<()> {
        if holds {
            Ok(())
        } else {
            Err(self.refused(name, allowed))
        }
    }

    fn refused(&self, name: &str, allowed: &'static str) -> Error {
        let given = self.fields.get(name).unwrap_or("missing");
        refused(self.path, name.to_owned(), given, allowed)
    }

    fn patterns<T: DeserializeOwned + Copy>(
        &self,
        name: &'static str,
        holds: impl Fn(&T) -> bool,
        allowed: &'static str,
    ) -> Result<Patterns<T>> {
        let Some(json) = self.fields.get(name).filter(|json| *json != "null") else {
            return Ok(Patterns::default());
        };
        const OBJECT: &str = "an object of names or regular expressions";
        let fields = Fields::parse(json, self.path).map_err(|_| self.refused(name, OBJECT))?;
        let mut patterns = Vec::new();
        for (key, value) in fields.iter() {
            let field = || format!("{name}[{}]", shown(key));
            match serde_json::from_str::<T>(value) {
                Ok(number) if holds(&number) => patterns.push((key, number)),
                _ => return Err(refused(self.path, field(), value, allowed)),
            }
        }
        Patterns::new(&patterns).map_err(|pattern::Refused { key, allowed }| {
            refused(self.path, format!("a key of {name}"), &key, allowed)
        })
    }
}

fn refused(path: &Path, field: String, given: &str, allowed: &'static str) -> Error {
    Error::Field {
        path: PathBuf::from(path),
        field,
        given: shown(given),
        allowed,
    }
}
