//! Tests of all devices that run once more on an H100: what holds for the kernels of one
//! architecture holds for those of the other. The lists are of what Hopper's kernels could do
//! otherwise.

use super::H100;
use crate::common::process::{on_device, run_all_again};

/// By their paths without the crate.
const TOGETHER: &[&str] = &[
    "device::layout_check::host_and_kernels_agree_on_parameters",
    "layers::accumulate::in_bf16::twice_is_double_and_a_first_time_over_zeros_is_once",
    "layers::adapters::in_bf16::elements_that_fit_give_the_narrow_adapters_bits",
    "layers::backward::in_bf16::two_runs_in_the_same_memory_give_the_same_bits",
    "layers::backward::in_bf16::without_dx_the_others_are_the_same",
    "layers::dropout::in_bf16::a_dropped_nan_does_not_reach_the_adapter",
    "layers::dropout::in_bf16::a_redrawn_mask_is_the_stored_one",
    "layers::forward::in_bf16::a_nan_stays_in_its_row",
    "layers::forward::in_bf16::integers_are_exact",
    "layers::forward::in_bf16::two_runs_in_the_same_memory_give_the_same_bits",
    "layers::random::in_bf16::agree_with_the_reference",
    "layers::random::in_f16::agree_with_the_reference",
    "layers::recorded::in_bf16::recorded_layers_give_pefts_results",
    "layers::scalings::in_bf16::a_zero_lora_b_changes_nothing",
    "layers::scalings::in_bf16::an_infinite_dy_gives_an_infinite_dx",
    "layers::scalings::in_f16::a_large_s_stays_finite",
    "layers::shared::in_bf16::a_projection_does_not_depend_on_the_others",
];

const STREAMS: &str = "device::streams::in_bf16::two_streams_at_once_give_the_bits_of_one";

/// Those that change what belongs to the whole process.
const ALONE: &[&str] = &[
    "device::capture::alone::a_captured_layer_replays_with_the_numbers_it_finds",
    "emulated::large_tensors::alone::offsets_of_large_tensors_are_64_bits",
];

#[test]
fn tests_of_layers_pass_on_an_h100() {
    run_all_again(TOGETHER, |command| on_device(command, H100));
}

#[test]
fn tests_of_processes_pass_on_an_h100() {
    for test in ALONE {
        run_all_again(&[*test], |command| on_device(command, H100));
    }
}

/// A launch that may begin before the one before it has ended waits for it whenever a stream's work
/// is done.
#[test]
fn late_streams_pass_on_an_h100() {
    for streams in ["latest", "latest-kernels"] {
        run_all_again(&[STREAMS], |command| {
            on_device(command, H100);
            command.env("PTX_EMULATOR_STREAMS", streams);
        });
    }
}
