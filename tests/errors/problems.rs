//! Problems and plans, which need no device.

use lora_kernels::{BackwardPlan, DType, DeviceProps, Error, ForwardPlan, Layout, Problem, Tensor};

use crate::{K, M, N, R};

fn problem() -> Problem {
    Problem::new(M, K, N, R, DType::BF16).unwrap().with_bias(true)
}

#[test]
fn sizes_are_between_one_and_31_bits() {
    let sizes = [("tokens", 0), ("in_features", 1), ("out_features", 2), ("rank", 3)];
    for (name, position) in sizes {
        for wrong in [0, Problem::MAX_DIMENSION + 1, usize::MAX] {
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

#[test]
fn layouts_have_strides_of_a_row_and_alignments_of_an_element() {
    let layout = |row_stride, alignment| Layout { row_stride, alignment };
    for tensor in Tensor::ALL {
        let (_, cols) = problem().shape(tensor);
        for stride in [cols as i64 - 1, 0, -(cols as i64), i64::MAX] {
            let result = problem().with_layout(tensor, layout(stride, 16));
            // A single row has no second one that a stride could lead too far.
            if stride == i64::MAX && problem().shape(tensor).0 == 1 {
                continue;
            }
            assert_error!(result, Error::Stride { .. }, tensor.name(), &stride.to_string());
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
        problem().with_layout(tensor, layout(cols as i64 + 1, 2)).unwrap();
    }
}

#[test]
fn devices_that_cannot_run_the_kernels_get_no_plan() {
    let old = DeviceProps::new((7, 5), 40, 64 << 10);
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
    let small = DeviceProps::new((8, 0), 40, 1 << 10);
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
        "split the tokens"
    );
    let back = Problem::new(most, most, 16, 16, DType::F16).unwrap();
    assert_error!(
        BackwardPlan::new(&back, &DeviceProps::a100()),
        Error::Grid { .. },
        "split the tokens"
    );
}
