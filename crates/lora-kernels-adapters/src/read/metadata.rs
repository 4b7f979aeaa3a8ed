//! The config in the header of diffusers' files (`lora_adapter_metadata`).

use crate::config::Fields;
use crate::shown::shown;
use crate::tensor_file::TensorFile;
use crate::{Error, PeftConfig, Result};

/// The header's entry: a `LoraConfig` as JSON, or one for each component, whose fields' names begin
/// with the component's (`transformer.r`).
const KEY: &str = "lora_adapter_metadata";

/// A pipeline has a handful of components.
const MOST: usize = 64;

/// A component, and the names and JSON texts of its fields.
type Part<'a> = (Option<String>, Vec<(&'a str, &'a str)>);

/// The configs in the header by component; that of a header without components has none.
pub(super) fn configs(file: &TensorFile) -> Result<Vec<(Option<String>, PeftConfig)>> {
    let Some(text) = file.metadata().get(KEY) else {
        return Ok(Vec::new());
    };
    let fields = Fields::parse(text, file.path())?;
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (name, value) in fields.iter() {
        let (component, field) = match name.rsplit_once('.') {
            Some((component, field)) => (Some(component), field),
            None => (None, name),
        };
        let is_same = |part: &Part<'_>| part.0.as_deref() == component;
        let at = parts.iter().position(is_same).unwrap_or(parts.len());
        if at == MOST {
            return Err(Error::Json {
                path: file.path().into(),
                reason: format!("its {KEY} has more than {MOST} components"),
            });
        }
        if at == parts.len() {
            parts.push((component.map(str::to_owned), Vec::new()));
        }
        if let Some((_, fields)) = parts.get_mut(at) {
            fields.push((field, value));
        }
    }
    let config = |(component, fields): Part<'_>| {
        for needed in ["r", "lora_alpha"] {
            if !fields.iter().any(|(name, _)| *name == needed) {
                return Err(Error::Field {
                    path: file.path().into(),
                    field: format!(
                        "{} in the header's {KEY}",
                        shown(&super::keys::joined(
                            component.as_deref().unwrap_or_default(),
                            needed
                        ))
                    ),
                    given: "missing".into(),
                    allowed: "there",
                });
            }
        }
        let config = PeftConfig::parse(&Fields::text_of(fields), file.path())?;
        Ok((component, config))
    };
    parts.into_iter().map(config).collect()
}
