//! The texts of errors: facts, hints, and words that depend on what was given.

use std::fmt;

use super::{Argument, Error, Hint};
use crate::{DType, Role};

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// What to do about the error, if the text says so in this crate's names. Bindings of other
    /// languages can append their own wording to [`Error::fact`].
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Error::NoPart { hint, .. } | Error::Optional { hint, .. } => Some(*hint),
            Error::PlannedStride { tensor, .. } | Error::Alignment { tensor, .. } => {
                Some(Hint::Layout(*tensor))
            }
            Error::OtherDevice { .. } => Some(Hint::DeviceOfKernels),
            Error::DropoutWords { .. } => Some(Hint::DropoutWords),
            Error::Driver { hint, .. } => *hint,
            _ => None,
        }
    }

    /// The text without the hint.
    pub fn fact(&self) -> String {
        let text = self.to_string();
        match self.hint() {
            Some(hint) => {
                let behind = behind(&Some(hint));
                text.strip_suffix(&behind).unwrap_or(&text).to_owned()
            }
            None => text,
        }
    }
}

/// The text of a hint that is appended to the fact.
pub(super) fn behind(hint: &Option<Hint>) -> String {
    hint.map_or(String::new(), |hint| format!(": {hint}"))
}

/// The words behind what is captured.
pub(super) fn whose_stream(what: &Argument) -> &'static str {
    match what {
        Argument::Stream => "is",
        _ => "belongs to a stream that is",
    }
}

/// The smallest size that a dimension may have.
pub(super) fn least(name: &str) -> usize {
    if name == "tokens" { 0 } else { 1 }
}

/// What to do about memory that is shared.
pub(super) fn apart(output: &Argument, other: &Argument) -> &'static str {
    match (output, other) {
        (Argument::Tensor(Role::Merged, _), Argument::Tensor(Role::Weight, _)) => {
            "give merged the address of the weight to merge in place, or memory of its own"
        }
        _ => "give each output of a call memory of its own",
    }
}

/// The types that adapters over tensors of this type may have.
pub(super) fn adapter_types(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "f16 or f32",
        DType::BF16 => "bf16 or f32",
        DType::F32 => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceProps;

    fn with_hints() -> Vec<Error> {
        let tensor = Argument::Tensor(Role::Y, Some(2));
        vec![
            Error::PlannedStride {
                tensor,
                given: 5,
                planned: 4,
            },
            Error::Alignment {
                tensor,
                given: 2,
                planned: 16,
            },
            Error::Optional {
                what: Argument::Dropout,
                given: true,
                hint: Hint::Dropout,
            },
            Error::NoPart {
                tensor: Role::Merged,
                problem: "a layer",
                hint: Hint::MergeProblem,
            },
            Error::OtherDevice {
                planned: DeviceProps::a100(),
                found: DeviceProps::h100(),
            },
            Error::Driver {
                what: "launching".into(),
                code: 201,
                description: "invalid device context".into(),
                hint: Some(Hint::NoCurrentContext),
            },
        ]
    }

    #[test]
    fn a_text_is_its_fact_and_its_hint() {
        for error in with_hints() {
            let hint = error.hint().expect("a hint");
            let (text, fact) = (error.to_string(), error.fact());
            assert_eq!(text, format!("{fact}: {hint}"));
            assert!(!fact.contains("::"), "{fact}");
        }
        assert_eq!(Error::NoDriver.fact(), Error::NoDriver.to_string());
    }

    #[test]
    fn an_error_out_of_main_is_readable() {
        let error = Error::NoDriver;
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn a_tensor_of_several_projections_is_laid_out_by_projection() {
        let text = Hint::Layout(Argument::Tensor(Role::Y, Some(2))).to_string();
        assert!(text.contains("with_layout_of(2, "), "{text}");
        let text = Hint::Layout(Argument::Tensor(Role::Y, None)).to_string();
        assert!(text.contains("with_layout("), "{text}");
        let text = Hint::Layout(Argument::Adapter(Role::LoraA, 1)).to_string();
        assert!(text.contains("with_adapter_layout(1, "), "{text}");
    }
}
