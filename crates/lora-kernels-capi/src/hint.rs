//! What to do about an error of the core, in the names of the header.

use kernels::Hint;

use crate::error::Error;

/// The text of an error, with the hint in C's names.
pub fn text_in_c(error: &Error) -> String {
    let Error::Core(core) = error else {
        return error.to_string();
    };
    match core.hint() {
        Some(hint) => format!("{}: {}", core.fact(), hint_in_c(hint)),
        None => core.to_string(),
    }
}

/// The wildcard is for hints of a newer core: clippy refuses it for one that exists.
#[deny(
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants
)]
fn hint_in_c(hint: Hint) -> String {
    let text = match hint {
        Hint::Bias => "see bias of lora_problem",
        Hint::Dropout => "see dropout of lora_problem",
        Hint::DropoutWords => {
            "the seed is the address of two uint64_t, at a multiple of 8, and the offset 0; see \
             dropout_from_memory of lora_problem"
        }
        Hint::RowAdapters => "see adapter_slots of lora_problem",
        Hint::Mask => "see mask of lora_problem",
        Hint::InputGradient => "see no_input_gradient of lora_problem",
        Hint::Rank => "see rank of lora_projection",
        Hint::Report => "see report and safe of lora_merge_problem",
        Hint::Layout(_) => {
            "make a plan with a lora_layout of this tensor; a smaller alignment takes slower \
             kernels"
        }
        Hint::DeviceOfKernels => "make the plan with lora_kernels_device of this handle",
        Hint::MergeProblem => "weights are merged by a lora_merge_problem",
        // These name nothing of an interface.
        Hint::GradientsOfAdapters
        | Hint::MergeTensors
        | Hint::OlderDriver { .. }
        | Hint::NotCompiledForDevice { .. }
        | Hint::FaultedContext
        | Hint::NoCurrentContext => return hint.to_string(),
        _ => return hint.to_string(),
    };
    text.to_owned()
}
