//! `adapter_config.json`.

mod fields;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use fields::Fields;
use pattern::Patterns;

use crate::regular::read_text;
use crate::shown::shown;
use crate::{Error, Result};

/// In bytes. Real configs have a few kilobytes; one that gives thousands of experts a rank each has
/// a few hundred.
pub(crate) const LARGEST: u64 = 16 << 20;

/// The largest number of names in a field that every module is compared with.
const MOST_NAMES: usize = 4096;

/// The most segments of a path's end that are compared with names.
const MOST_SEGMENTS: usize = 64;

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
    /// `None` if it is an expression.
    target_modules: Option<BTreeSet<String>>,
    target_parameters: Vec<String>,
    trainable_tokens: TrainableTokens,
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
        Ok(Self {
            rank: rank as usize,
            lora_alpha,
            use_rslora: flag("use_rslora")?,
            use_dora: flag("use_dora")?,
            lora_bias: flag("lora_bias")?,
            fan_in_fan_out: flag("fan_in_fan_out")?,
            bias,
            modules_to_save: modules_to_save.unwrap_or_default(),
            target_modules,
            target_parameters: target_parameters.unwrap_or_default(),
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

    /// Whether the module at this path lies in one of [`PeftConfig::modules_to_save`], or is one.
    pub(crate) fn saves_whole(&self, path: &str) -> bool {
        let names = self.modules_to_save.iter().take(MOST_NAMES);
        { names.filter(|name| !name.is_empty()) }.any(|name| {
            path.match_indices(name.as_str()).any(|(at, _)| {
                let (before, after) = (&path[..at], &path[at + name.len()..]);
                (before.is_empty() || before.ends_with('.'))
                    && (after.is_empty() || after.starts_with('.'))
            })
        })
    }

    /// Whether the module at this path is one of `target_modules`; `None` if that is an expression.
    pub(crate) fn targets(&self, path: &str) -> Option<bool> {
        let names = self.target_modules.as_ref()?;
        let ends = path.rmatch_indices('.').take(MOST_SEGMENTS);
        let mut ends = ends.map(|(at, _)| &path[at + 1..]).chain([path]);
        Some(ends.any(|end| names.contains(end)))
    }

    /// Bare parameters that are adapted, such as `mlp.experts.gate_up_proj`: the ends of their
    /// names.
    pub fn target_parameters(&self) -> &[String] {
        &self.target_parameters
    }

    /// Names of the parameters of the module at this path that [`PeftConfig::target_parameters`]
    /// may mean, in that list's order: `gate_up_proj` for `mlp.experts.gate_up_proj` and the path
    /// `layers.0.mlp.experts`. A target without a module's name, such as `gate_up_proj` alone, may
    /// mean a parameter of any module.
    pub fn parameters_of(&self, path: &str) -> Vec<&str> {
        let targets = self.target_parameters.iter();
        targets
            .filter_map(|target| match target.rsplit_once('.') {
                None => Some(target.as_str()),
                Some((module, parameter)) => ends_with_path(path, module).then_some(parameter),
            })
            .collect()
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

/// Whether a path is `end`, or ends with it after a dot.
pub(crate) fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
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
