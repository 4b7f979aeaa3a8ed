//! Calls with several projections, and optional arguments.

use lora_kernels::{Argument, Error, LoraGradients, Role};

use super::call::{Geometry, backward, case, forward, matrices, replaced_of, three};
use super::{K, M};

#[test]
fn calls_without_a_change_run() {
    forward(&three(), |_, _| ()).unwrap();
    backward(&three(), |_, _| ()).unwrap();
}

#[test]
fn there_are_as_many_projections_as_planned() {
    let few = ["2 projections", "made for 3"];
    let result = forward(&three(), |call, _| call.projections.truncate(2));
    assert_error!(
        result,
        Error::ProjectionCount {
            given: 2,
            planned: 3
        },
        few[0],
        few[1]
    );
    let result = backward(&three(), |call, _| call.projections.truncate(2));
    assert_error!(
        result,
        Error::ProjectionCount {
            given: 2,
            planned: 3
        },
        few[0],
        few[1]
    );
    let result = forward(&three(), |call, _| call.projections.clear());
    assert_error!(
        result,
        Error::ProjectionCount {
            given: 0,
            planned: 3
        },
        "0 projections"
    );
    let result = backward(&three(), |call, _| call.projections.clear());
    assert_error!(
        result,
        Error::ProjectionCount {
            given: 0,
            planned: 3
        },
        "0 projections"
    );
}

#[test]
fn a_projection_has_an_adapter_exactly_if_planned() {
    let result = forward(&three(), |call, _| call.projections[2].lora = None);
    let what = "lora of projection 2 was not given";
    assert_error!(result, Error::Optional { .. }, what, "the rank");
    let result = backward(&three(), |call, _| call.projections[2].lora = None);
    assert_error!(result, Error::Optional { .. }, what, "the rank");

    let what = "lora of projection 1 was given";
    let result = forward(&three(), |call, _| {
        call.projections[1].lora = call.projections[0].lora.take()
    });
    // The first projection lacks it and is reported first.
    assert_error!(
        result,
        Error::Optional { .. },
        "lora of projection 0 was not given"
    );
    let result = forward(&three(), |call, _| {
        call.projections[1].lora = call.projections[2].lora.take()
    });
    assert_error!(result, Error::Optional { .. }, what, "without");
    let result = backward(&three(), |call, _| {
        call.projections[1].lora = call.projections[2].lora.take()
    });
    assert_error!(result, Error::Optional { .. }, what, "without");
    // Messages about a single projection don't number it.
    let result = forward(&case(), |call, _| call.projections[0].lora = None);
    assert_error!(
        result,
        Error::Optional {
            what: Argument::Lora(None),
            ..
        },
        "lora was not given"
    );
}

#[test]
fn gradients_are_given_exactly_where_there_is_an_adapter() {
    let result = backward(&three(), |call, _| call.projections[0].gradients = None);
    assert_error!(
        result,
        Error::Optional { .. },
        "gradients of projection 0 was not given"
    );
    let result = backward(&three(), |call, _| {
        call.projections[1].gradients = call.projections[2].gradients.take()
    });
    assert_error!(
        result,
        Error::Optional { .. },
        "gradients of projection 1 was given"
    );
}

#[test]
fn the_gradient_of_x_is_given_exactly_if_planned() {
    let result = backward(&case(), |call, _| call.dx = None);
    assert_error!(
        result,
        Error::Optional { .. },
        "dx was not given",
        "with_input_gradient"
    );
    let without = case().input_gradient(false);
    backward(&without, |_, _| ()).unwrap();
    let result = backward(&without, |call, spare| {
        call.dx = Some(spare.writable(Geometry::dense(M, K)))
    });
    assert_error!(
        result,
        Error::Optional { .. },
        "dx was given",
        "with_input_gradient"
    );
}

#[test]
fn a_wrong_matrix_is_named_with_its_projection() {
    for tensor in matrices() {
        let (rows, cols) = three().shape_of(2, tensor);
        let name = match tensor {
            Role::X | Role::DX => format!("{tensor} is"),
            _ => format!("{tensor} of projection 2 is"),
        };
        for result in replaced_of(&three(), 2, tensor, Geometry::dense(rows + 1, cols)) {
            assert_error!(result, Error::Shape { .. }, &name);
        }
    }
}

#[test]
fn every_projection_has_its_bias() {
    let result = forward(&three(), |call, _| call.projections[1].bias = None);
    assert_error!(
        result,
        Error::Optional { .. },
        "bias of projection 1 was not given"
    );
}

/// Swapped gradients of an adapter are refused.
#[test]
fn gradients_do_not_change_places() {
    let result = backward(&case(), |call, _| {
        let LoraGradients { a, b } = call.projections[0].gradients.take().unwrap();
        call.projections[0].gradients = Some(LoraGradients { a: b, b: a });
    });
    assert_error!(result, Error::Shape { .. }, "d_lora_A is");
}
