//! Arguments that don't fit the plan.

use half::{bf16, f16};
use lora_kernels::{Argument, Dropout, Error, Lora, Role};

use super::N;
use super::call::{Geometry, backward, case, forward, matrices, replaced};
use crate::common::data::Placement;
use crate::common::layer::{LayerCase, TestLayer};

#[test]
fn calls_without_a_change_run() {
    forward(&case(), |_, _| ()).unwrap();
    backward(&case(), |_, _| ()).unwrap();
}

#[test]
fn every_matrix_must_have_the_shape_of_the_plan() {
    for tensor in matrices() {
        let (rows, cols) = case().shape(tensor);
        for (rows, cols) in [
            (rows + 1, cols),
            (rows - 1, cols),
            (rows, cols + 1),
            (rows, cols - 1),
            (cols, rows),
            (0, 0),
        ] {
            if (rows, cols) == case().shape(tensor) {
                continue;
            }
            for result in replaced(tensor, Geometry::dense(rows, cols)) {
                assert_error!(
                    result,
                    Error::Shape { .. },
                    &format!("{tensor} is {rows} x {cols}")
                );
            }
        }
    }
}

#[test]
fn every_matrix_must_have_the_stride_of_the_plan() {
    for tensor in matrices() {
        let (rows, cols) = case().shape(tensor);
        for row_stride in [cols as i64 + 8, cols as i64 - 1, 0, -1] {
            for result in replaced(
                tensor,
                Geometry {
                    row_stride,
                    ..Geometry::dense(rows, cols)
                },
            ) {
                assert_error!(
                    result,
                    Error::PlannedStride { .. },
                    tensor.name(),
                    &row_stride.to_string(),
                    "with_layout"
                );
            }
        }
    }
}

#[test]
fn every_matrix_must_lie_within_its_buffer() {
    for tensor in matrices() {
        let (rows, cols) = case().shape(tensor);
        let elements = rows * cols;
        for result in replaced(
            tensor,
            Geometry {
                elements: elements - 1,
                ..Geometry::dense(rows, cols)
            },
        ) {
            let fragments = [
                format!("needs {elements} elements"),
                format!("has {}", elements - 1),
            ];
            assert_error!(
                result,
                Error::Bounds { .. },
                tensor.name(),
                &fragments[0],
                &fragments[1]
            );
        }
    }
}

#[test]
fn every_matrix_must_be_aligned_as_planned() {
    for tensor in matrices() {
        let (rows, cols) = case().shape(tensor);
        // The kernels write these two element by element, so any alignment is allowed.
        let takes_any = matches!(tensor, Role::DLoraA | Role::DLoraB);
        for (offset, alignment) in [(1, 2), (2, 4), (4, 8), (8, 16)] {
            let moved = Geometry {
                offset,
                ..Geometry::dense(rows, cols)
            };
            for result in replaced(tensor, moved) {
                if takes_any || alignment == 16 {
                    result.unwrap();
                } else {
                    let given = format!("a multiple of {alignment} bytes");
                    assert_error!(
                        result,
                        Error::Alignment { .. },
                        tensor.name(),
                        &given,
                        "made for 16"
                    );
                }
            }
        }
    }
}

#[test]
fn the_bias_is_given_exactly_if_planned_and_fits() {
    assert_error!(
        forward(&case(), |call, _| call.projections[0].bias = None),
        Error::Optional { .. },
        "bias",
        "not given",
        "with_bias"
    );
    let result = forward(&case().bias(false), |call, spare| {
        call.projections[0].bias = Some(spare.read.slice(..N))
    });
    assert_error!(
        result,
        Error::Optional { .. },
        "bias was given",
        "with_bias"
    );
    for length in [0, N - 1, N + 1] {
        let result = forward(&case(), |call, spare| {
            call.projections[0].bias = Some(spare.read.slice(..length))
        });
        assert_error!(
            result,
            Error::Shape {
                tensor: Argument::Tensor(Role::Bias, None),
                ..
            },
            "bias",
            &length.to_string()
        );
    }
    let off_by_one = |case: LayerCase| {
        forward(&case, |call, spare| {
            call.projections[0].bias = Some(spare.read.slice(1..N + 1))
        })
    };
    off_by_one(case()).unwrap();
    let result = off_by_one(case().with_placement(Role::Bias, Placement::AlignedView));
    assert_error!(
        result,
        Error::Alignment {
            tensor: Argument::Tensor(Role::Bias, None),
            ..
        },
        "a multiple of 2 bytes"
    );
}

#[test]
fn dropout_is_given_exactly_if_planned_and_is_a_probability() {
    let some = |p| {
        Some(Dropout {
            p,
            seed: 1,
            offset: 2,
        })
    };
    let (with, without) = (case().dropout(0.1), case());
    assert_error!(
        forward(&with, |call, _| call.dropout = None),
        Error::Optional { .. },
        "dropout was not given"
    );
    assert_error!(
        backward(&with, |call, _| call.dropout = None),
        Error::Optional { .. },
        "dropout was not given"
    );
    assert_error!(
        forward(&without, |call, _| call.dropout = some(0.1)),
        Error::Optional { .. },
        "dropout was given"
    );
    assert_error!(
        backward(&without, |call, _| call.dropout = some(0.1)),
        Error::Optional { .. },
        "dropout was given"
    );
    for p in [1.0, -0.1, 2.0, f32::NAN, f32::INFINITY] {
        let forward = forward(&with, |call, _| call.dropout = some(p));
        assert_error!(
            forward,
            Error::DropoutProbability { .. },
            &p.to_string(),
            "below 1"
        );
        let backward = backward(&with, |call, _| call.dropout = some(p));
        assert_error!(
            backward,
            Error::DropoutProbability { .. },
            &p.to_string(),
            "below 1"
        );
    }
}

fn scaling_of(lora: &mut Option<Lora<'_, bf16>>, scaling: f32) {
    lora.as_mut().expect("an adapted projection").scaling = scaling;
}

#[test]
fn the_scaling_is_finite() {
    for scaling in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_error!(
            forward(&case(), |call, _| scaling_of(
                &mut call.projections[0].lora,
                scaling
            )),
            Error::Scaling { .. },
            "finite",
            &scaling.to_string()
        );
        assert_error!(
            backward(&case(), |call, _| scaling_of(
                &mut call.projections[0].lora,
                scaling
            )),
            Error::Scaling { .. },
            "finite"
        );
    }
}

#[test]
fn saved_and_workspace_are_as_large_and_as_aligned_as_planned() {
    let dropping = case().dropout(0.5);
    for case in [&case(), &dropping] {
        let saved = case.forward_plan::<bf16>().saved().bytes();
        let workspace = case.backward_plan::<bf16>().workspace_bytes();
        let (given, needed) = (
            |bytes: usize| format!("has {} bytes", bytes - 1),
            |bytes: usize| format!("needs {bytes}"),
        );
        let result = forward(case, |call, spare| {
            call.saved = spare.bytes(0, saved - 1).into()
        });
        assert_error!(
            result,
            Error::Buffer { .. },
            "saved",
            &given(saved),
            &needed(saved)
        );
        let result = backward(case, |call, spare| {
            call.saved = spare.read_bytes.slice(..saved - 1).into()
        });
        assert_error!(
            result,
            Error::Buffer { .. },
            "saved",
            &given(saved),
            &needed(saved)
        );
        let result = backward(case, |call, spare| {
            call.workspace = Some(spare.bytes(0, workspace - 1))
        });
        assert_error!(
            result,
            Error::Buffer { .. },
            "workspace",
            &given(workspace),
            &needed(workspace)
        );

        let result = forward(case, |call, spare| {
            call.saved = spare.bytes(8, saved).into()
        });
        assert_error!(
            result,
            Error::BufferAlignment { .. },
            "saved",
            "a multiple of 8 bytes"
        );
        let result = backward(case, |call, spare| {
            call.saved = spare.read_bytes.slice(8..8 + saved).into()
        });
        assert_error!(
            result,
            Error::BufferAlignment { .. },
            "saved",
            "a multiple of 8 bytes"
        );
        let result = backward(case, |call, spare| {
            call.workspace = Some(spare.bytes(8, workspace))
        });
        assert_error!(
            result,
            Error::BufferAlignment { .. },
            "workspace",
            "a multiple of 8 bytes"
        );
    }
}

#[test]
fn the_elements_are_of_the_types_of_the_plan() {
    let plans = (
        case().forward_plan::<bf16>(),
        case().backward_plan::<bf16>(),
    );
    let layer = TestLayer::<f16>::random(&case());
    let tensors = ["x is f16", "made for bf16"];
    let result = layer.try_forward(&plans.0);
    assert_error!(result, Error::PlannedDType { .. }, tensors[0], tensors[1]);
    let result = layer.try_backward(&plans.1, &[]);
    assert_error!(result, Error::PlannedDType { .. }, tensors[0], tensors[1]);

    let layer = TestLayer::<bf16, f32>::random(&case());
    let adapters = ["lora_A is f32", "made for bf16"];
    let result = layer.try_forward(&plans.0);
    assert_error!(result, Error::PlannedDType { .. }, adapters[0], adapters[1]);
    let result = layer.try_backward(&plans.1, &[]);
    assert_error!(result, Error::PlannedDType { .. }, adapters[0], adapters[1]);
}

/// Forward needs a workspace if blocks share tiles.
#[test]
fn the_workspace_of_a_forward_is_checked_too() {
    let deep = LayerCase::new(20, 1024, 64, 8);
    let bytes = deep.forward_plan::<bf16>().workspace_bytes();
    assert!(bytes > 0);
    forward(&deep, |_, _| ()).unwrap();
    let result = forward(&deep, |call, spare| {
        call.workspace = Some(spare.bytes(0, bytes - 1))
    });
    let (given, needed) = (format!("has {} bytes", bytes - 1), format!("needs {bytes}"));
    assert_error!(result, Error::Buffer { .. }, "workspace", &given, &needed);
    let result = forward(&deep, |call, spare| {
        call.workspace = Some(spare.bytes(8, bytes))
    });
    assert_error!(
        result,
        Error::BufferAlignment { .. },
        "workspace",
        "a multiple of 8 bytes"
    );
    // Other forwards accept an empty one, or none.
    forward(&case(), |call, spare| {
        call.workspace = Some(spare.bytes(0, 0))
    })
    .unwrap();
    forward(&case(), |call, _| call.workspace = None).unwrap();
}
