//! Problems and plans, which need no device.

use lora_kernels::{
    BackwardPlan, DType, DeviceProps, Error, Formats, ForwardPlan, Layout, Problem, Projection,
    Role,
};

use super::{K, M, N, R};

fn problem() -> Problem {
    Problem::new(M, K, N, R, DType::BF16)
        .unwrap()
        .with_bias(true)
}

#[test]
fn sizes_are_between_one_and_31_bits() {
    let sizes = [
        ("tokens", 0),
        ("in_features", 1),
        ("out_features", 2),
        ("rank", 3),
    ];
    for (name, position) in sizes {
        for wrong in [0, Problem::MAX_DIMENSION + 1, usize::MAX] {
            // A batch may be empty.
            if (name, wrong) == ("tokens", 0) {
                continue;
            }
            let mut sizes = [M, K, N, R];
            sizes[position] = wrong;
            let [m, k, n, r] = sizes;
            assert_error!(
                Problem::new(m, k, n, r, DType::F32),
                Error::Dimension { .. },
                name,
                &wrong.to_string()
            );
        }
    }
    Problem::new(Problem::MAX_DIMENSION, 1, 1, 1, DType::F32).unwrap();
}

/// A type that was set for a while leaves no alignment behind; a layout that was set stays.
#[test]
fn a_narrower_type_needs_no_more_alignment_than_its_own() {
    let set = Layout {
        row_stride: 2 * K as i64,
        alignment: 64,
    };
    let wide = Problem::new(M, K, N, R, DType::F32).unwrap();
    let wide = wide.with_layout(Role::X, set).unwrap();
    let narrow = wide.with_formats(Formats::uniform(DType::BF16)).unwrap();
    for role in [Role::Bias, Role::DLoraA, Role::DLoraB] {
        assert_eq!(narrow.layout(role).alignment, 2, "{role}");
    }
    assert_eq!(narrow.layout(Role::X), set);
}

fn layer(out_features: usize, rank: usize) -> Projection {
    Projection { out_features, rank }
}

#[test]
fn one_to_eight_projections_share_x() {
    for count in [0, 9, 100] {
        let result = Problem::sharing_x(M, K, &vec![layer(N, R); count], DType::BF16);
        assert_error!(
            result,
            Error::Projections { .. },
            &format!("{count} projections"),
            "between 1 and 8"
        );
    }
    for count in [1, 8] {
        Problem::sharing_x(M, K, &vec![layer(N, R); count], DType::BF16).unwrap();
    }
}

#[test]
fn at_least_one_projection_is_adapted() {
    for count in [1, 3] {
        let result = Problem::sharing_x(M, K, &vec![layer(N, 0); count], DType::BF16);
        assert_error!(result, Error::NotAdapted, "at least one");
    }
    Problem::sharing_x(M, K, &[layer(N, 0), layer(N, R)], DType::BF16).unwrap();
}

#[test]
fn sizes_of_every_projection_are_checked() {
    let of = |last| Problem::sharing_x(M, K, &[layer(N, R), last], DType::BF16);
    assert_error!(
        of(layer(0, R)),
        Error::Dimension { .. },
        "out_features is 0"
    );
    let most = Problem::MAX_DIMENSION;
    assert_error!(
        of(layer(N, most + 1)),
        Error::Dimension { .. },
        "rank",
        &(most + 1).to_string()
    );
    // Each rank is allowed, but their sum is too large.
    let result = Problem::sharing_x(1, 1, &[layer(1, most / 2); 3], DType::BF16);
    assert_error!(result, Error::Dimension { .. }, "the sum of the ranks");
}

#[test]
fn adapters_are_of_the_tensors_type_or_f32() {
    for (dtype, other) in [
        (DType::BF16, DType::F16),
        (DType::F16, DType::BF16),
        (DType::F32, DType::F16),
    ] {
        let refused = || {
            Problem::new(M, K, N, R, dtype)
                .unwrap()
                .with_adapter_dtype(other)
        };
        assert_error!(
            refused(),
            Error::AdapterDType { .. },
            other.name(),
            dtype.name(),
            "f32"
        );
        let text = refused().unwrap_err().to_string();
        assert!(!text.contains("f32 or f32"), "{text}");
    }
    for dtype in DType::ALL {
        for adapters in [dtype, DType::F32] {
            let problem = Problem::new(M, K, N, R, dtype)
                .unwrap()
                .with_adapter_dtype(adapters);
            assert_eq!(problem.unwrap().adapter_dtype(), adapters);
        }
    }
}

#[test]
fn only_outputs_accumulate() {
    for tensor in Role::ALL {
        let result = problem().with_accumulate(tensor, true);
        if matches!(tensor, Role::Y | Role::DX | Role::DLoraA | Role::DLoraB) {
            assert!(result.unwrap().accumulates(tensor));
        } else {
            assert_error!(
                result,
                Error::Accumulate { .. },
                tensor.name(),
                "only y, dx"
            );
        }
    }
}

#[test]
fn only_projections_that_exist_have_layouts() {
    let good = Layout {
        row_stride: 64,
        alignment: 16,
    };
    let result = problem().with_layout_of(1, Role::Y, good);
    assert_error!(result, Error::NoProjection { .. }, "projection 1", "has 1");
    let result = problem().with_layout(Role::Merged, good);
    assert_error!(
        result,
        Error::NoPart { .. },
        "merged has no part in a layer"
    );
}

/// A layout that is aligned for two bytes per element may not be for four.
#[test]
fn wider_adapters_are_checked_against_layouts_given_before() {
    let layout = Layout {
        row_stride: i64::MAX / (2 * R as i64),
        alignment: 16,
    };
    let problem = Problem::new(M, K, N, R, DType::BF16).unwrap();
    let problem = problem.with_layout(Role::LoraA, layout).unwrap();
    assert_error!(
        problem.with_adapter_dtype(DType::F32),
        Error::Stride { .. },
        "lora_A"
    );
}

#[test]
fn layouts_have_strides_of_a_row_and_alignments_of_an_element() {
    let layout = |row_stride, alignment| Layout {
        row_stride,
        alignment,
    };
    for tensor in Role::ALL
        .into_iter()
        .filter(|&tensor| tensor != Role::Merged)
    {
        let (_, cols) = problem().shape(tensor);
        for stride in [cols as i64 - 1, 0, -(cols as i64), i64::MAX] {
            let result = problem().with_layout(tensor, layout(stride, 16));
            // A single row is never followed by another, so its stride may be anything.
            if stride == i64::MAX && problem().shape(tensor).0 == 1 {
                continue;
            }
            assert_error!(
                result,
                Error::Stride { .. },
                tensor.name(),
                &stride.to_string()
            );
        }
        for alignment in [0, 1, 3, 24] {
            let result = problem().with_layout(tensor, layout(cols as i64, alignment));
            assert_error!(
                result,
                Error::LayoutAlignment { .. },
                tensor.name(),
                &alignment.to_string()
            );
        }
        problem()
            .with_layout(tensor, layout(cols as i64 + 1, 2))
            .unwrap();
    }
}

#[test]
fn devices_that_cannot_run_the_kernels_get_no_plan() {
    let old = DeviceProps::new((7, 5), 40, 64 << 10, 64 << 10, 6 << 20);
    assert_error!(
        ForwardPlan::new(&problem(), &old),
        Error::Device { .. },
        "compute capability",
        "8.0",
        "7.5"
    );
    assert_error!(
        BackwardPlan::new(&problem(), &old),
        Error::Device { .. },
        "compute capability",
        "8.0",
        "7.5"
    );
    let small = DeviceProps::new((8, 0), 40, 1 << 10, 2 << 10, 6 << 20);
    assert_error!(
        ForwardPlan::new(&problem(), &small),
        Error::Device { .. },
        "shared memory",
        "1024 bytes"
    );
    assert_error!(
        BackwardPlan::new(&problem(), &small),
        Error::Device { .. },
        "shared memory",
        "1024 bytes"
    );
}

#[test]
fn problems_larger_than_a_grid_get_no_plan() {
    let most = Problem::MAX_DIMENSION;
    let wide = Problem::new(most, 16, most, 16, DType::F16).unwrap();
    assert_error!(
        ForwardPlan::new(&wide, &DeviceProps::a100()),
        Error::Grid { .. },
        "split a layer's tokens"
    );
    let back = Problem::new(most, most, 16, 16, DType::F16).unwrap();
    assert_error!(
        BackwardPlan::new(&back, &DeviceProps::a100()),
        Error::Grid { .. },
        "split a layer's tokens"
    );
}
