//! Tensors of more than 2³¹ elements on the emulated device. Only the blocks of the last corner
//! run, and only the memory that they touch is committed on the host. Other elements are zero,
//! which is what the emulated device allocates.

use std::ops::Range;

use crate::common::data::{Placed, poison};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer};
use half::bf16;
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::plan::Launch;
use lora_kernels::reference::{self, Bounded, Intermediates};
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, DeviceProps, Forward, ForwardPlan,
    ForwardProjection, ForwardRecord, Lora, LoraGradients, MatMut, MatRef, Problem,
};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::{Blocks, Control};

/// Rows of the wide tensors; the last few begin beyond 2³¹ elements.
const M: usize = 4100;
const CORNER_M: usize = 4;
const WIDE: usize = 524_352;
const CORNER: usize = 512;
const NARROW: usize = 64;
const R: usize = 8;

/// Rows of the tall tensor, which is as wide as a model's.
const TALL: usize = (1 << 20) + 33;
const TALL_K: usize = 2176;
const CORNER_TALL: usize = 65;

/// A (rows, cols) matrix on the device whose last corner holds numbers.
struct Corner<T> {
    shape: (usize, usize),
    corner: (usize, usize),
    data: CudaSlice<T>,
}

impl<T: Number> Corner<T> {
    fn of(shape: (usize, usize), numbers: &Placed<T>) -> Self {
        // SAFETY: the emulated device allocates zeros.
        let data = unsafe { gpu().stream.alloc::<T>(shape.0 * shape.1) }.expect("device memory");
        let corner = (numbers.rows, numbers.cols);
        let mut matrix = Self {
            shape,
            corner,
            data,
        };
        for (line, range) in numbers.rows().chunks(corner.1).zip(matrix.lines()) {
            let mut to = matrix.data.slice_mut(range);
            gpu()
                .stream
                .memcpy_htod(line, &mut to)
                .expect("writing a row");
        }
        matrix
    }

    /// An output with a poisoned corner.
    fn output(shape: (usize, usize), (rows, cols): (usize, usize)) -> Self {
        let values = vec![poison::<T>(); rows * cols];
        Self::of(
            shape,
            &Placed::from_rows(&values, rows, cols, crate::common::data::Placement::Dense),
        )
    }

    fn lines(&self) -> Vec<Range<usize>> {
        let ((rows, cols), (corner_rows, corner_cols)) = (self.shape, self.corner);
        let ends = (rows - corner_rows..rows).map(|row| (row + 1) * cols);
        ends.map(|end| end - corner_cols..end).collect()
    }

    fn read(&self) -> MatRef<'_, T> {
        MatRef::new(self.data.as_view(), self.shape.0, self.shape.1)
    }

    fn write(&mut self) -> MatMut<'_, T> {
        MatMut::new(self.data.as_view_mut(), self.shape.0, self.shape.1)
    }

    /// Checks every element from this row of the corner on.
    fn check(&self, name: &str, expected: &Bounded, first_row: usize) {
        let read = |range| {
            gpu()
                .stream
                .clone_dtoh(&self.data.slice(range))
                .expect("reading a row")
        };
        let given: Vec<T> = self.lines().into_iter().flat_map(read).collect();
        let from = first_row * self.corner.1;
        for (i, given) in given.iter().enumerate().skip(from) {
            let (given, expected, bound) = (given.to_f64(), expected.value[i], expected.bound[i]);
            assert!(
                (given - expected).abs() <= bound,
                "{name} ({}), element {i} of the corner, is {given}, not {expected} within {bound}",
                T::DTYPE
            );
        }
    }
}

/// A device so large that each block has one tile or one block of rows.
fn device() -> DeviceProps {
    gpu().kernels.props().with_multiprocessors(1 << 20)
}

fn problem<T: Number>(m: usize, k: usize, n: usize) -> Problem {
    Problem::new(m, k, n, R, T::DTYPE).expect("sizes in range")
}

fn blocks(launch: &Launch) -> u64 {
    u64::from(launch.blocks)
}

/// The last `count` blocks of a launch before its last `behind` blocks.
fn last(launch: &Launch, count: u64, behind: u64) -> Range<u64> {
    let end = blocks(launch) - behind;
    end.saturating_sub(count)..end
}

fn running<R>(control: Control, ranges: &[Range<u64>], run: impl FnOnce() -> R) -> R {
    let listed = Blocks::listed(ranges.iter().cloned().flatten().collect());
    control.run_blocks(&listed).expect("a setting");
    let result = run();
    control.run_blocks(&Blocks::All).expect("a setting");
    result
}

/// Checks y and S in the last rows and columns, and returns what forward saved.
fn forward<T: Number>(
    control: Control,
    (m, k, n): (usize, usize, usize),
    corner: &TestLayer<T>,
    chosen: impl Fn(&[Launch]) -> Vec<Range<u64>>,
) -> CudaSlice<u8> {
    let plan = ForwardPlan::new(&problem::<T>(m, k, n), &device()).expect("a plan");
    let projection = &corner.projections[0];
    let lora = projection.lora.as_ref().expect("an adapter");
    let (x, weight) = (
        Corner::of((m, k), &corner.x),
        Corner::of((n, k), &projection.weight),
    );
    let (a, b) = (Corner::of((R, k), &lora.a), Corner::of((n, R), &lora.b));
    let mut y = Corner::output((m, n), (projection.y.rows, projection.y.cols));
    let stream = &gpu().stream;
    let mut saved = stream
        .alloc_zeros::<u8>(plan.saved().bytes())
        .expect("device memory");
    let mut workspace = stream
        .alloc_zeros::<u8>(plan.workspace_bytes().max(1))
        .expect("device memory");
    let call = Forward {
        x: x.read(),
        projections: vec![ForwardProjection {
            weight: weight.read(),
            bias: None,
            lora: Some(Lora {
                a: a.read(),
                b: b.read(),
                scaling: corner.case.projections[0].scaling,
            }),
            y: y.write(),
        }],
        dropout: None,
        saved: saved.as_view_mut().into(),
        workspace: Some(workspace.as_view_mut()),
        rows: None,
        flags: None,
    };
    running(control, &chosen(plan.launches()), || {
        gpu().kernels.forward(stream, &plan, call)
    })
    .expect("forward runs");
    let expected = corner.expected_forward(Intermediates::Rounded);
    y.check("y", &expected.y[0], 0);
    saved
}

/// Checks dx, dA and dB in their corners; of dA only the last row.
fn backward<T: Number>(
    control: Control,
    (m, k, n): (usize, usize, usize),
    corner: &TestLayer<T>,
    saved: Option<&CudaSlice<u8>>,
    chosen: impl Fn(&[Launch]) -> Vec<Range<u64>>,
) {
    let with_dx = corner.case.input_gradient;
    let problem = problem::<T>(m, k, n).with_input_gradient(with_dx);
    let plan = BackwardPlan::new(&problem, &device()).expect("a plan");
    let projection = &corner.projections[0];
    let lora = projection.lora.as_ref().expect("an adapter");
    let (x, weight) = (
        Corner::of((m, k), &corner.x),
        Corner::of((n, k), &projection.weight),
    );
    let (a, b) = (Corner::of((R, k), &lora.a), Corner::of((n, R), &lora.b));
    let dy = Corner::of((m, n), &projection.dy);
    let mut dx = Corner::output((m, k), (corner.x.rows, corner.x.cols));
    let mut d_lora_a = Corner::output((R, k), (R, lora.a.cols));
    let mut d_lora_b = Corner::output((n, R), (lora.b.rows, R));
    let stream = &gpu().stream;
    let zeros = stream
        .alloc_zeros::<u8>(plan.saved().bytes())
        .expect("device memory");
    // SAFETY: the emulated device allocates zeros.
    let mut workspace =
        unsafe { stream.alloc::<u8>(plan.workspace_bytes()) }.expect("device memory");
    let call = Backward {
        x: x.read(),
        projections: vec![BackwardProjection {
            dy: dy.read(),
            weight: weight.read(),
            lora: Some(Lora {
                a: a.read(),
                b: b.read(),
                scaling: corner.case.projections[0].scaling,
            }),
            gradients: Some(LoraGradients {
                a: d_lora_a.write(),
                b: d_lora_b.write(),
            }),
        }],
        dropout: None,
        saved: saved.unwrap_or(&zeros).as_view().into(),
        record: ForwardRecord::new(plan.problem(), None, [corner.case.projections[0].scaling]),
        dx: with_dx.then(|| dx.write()),
        workspace: Some(workspace.as_view_mut()),
        rows: None,
    };
    let run = || gpu().kernels.backward(stream, &plan, call);
    running(control, &chosen(plan.launches()), run).expect("backward runs");
    let expected: reference::Backward = corner.expected_backward(Intermediates::Rounded);
    let adapter = expected.adapters[0].as_ref().expect("an adapter");
    d_lora_a.check("d_lora_A", &adapter.d_lora_a, R - 1);
    if with_dx {
        dx.check("dx", &expected.dx, 0);
    } else {
        d_lora_b.check("d_lora_B", &adapter.d_lora_b, 0);
    }
}

fn corner<T: Number>(m: usize, k: usize, n: usize) -> TestLayer<T> {
    TestLayer::random(&LayerCase::new(m, k, n, R).bias(false))
}

/// x has more than 2³¹ / in_features rows.
fn tall_x<T: Number>(control: Control) {
    let layer = corner::<T>(CORNER_TALL, TALL_K, NARROW);
    forward(control, (TALL, TALL_K, NARROW), &layer, |launches| {
        launches.iter().map(|launch| last(launch, 8, 0)).collect()
    });
}

/// y and dy have rows so wide that the last ones begin beyond 2³¹ elements.
fn wide_y<T: Number>(control: Control) {
    let sizes = (M, NARROW, WIDE);
    let mut layer = corner::<T>(CORNER_M, NARROW, CORNER);
    let saved = forward(control, sizes, &layer, |launches| {
        vec![last(&launches[0], 8, 0), last(&launches[1], 16, 0)]
    });
    layer.case.input_gradient = false;
    backward(control, sizes, &layer, Some(&saved), |launches| {
        let reduce = blocks(&launches[1]) - M.div_ceil(64) as u64;
        vec![
            0..1,
            last(&launches[0], 3, 0),
            last(&launches[1], 1, reduce),
            last(&launches[1], 16, 0),
        ]
    });
}

/// x and dx have rows so wide that the last ones begin beyond 2³¹ elements.
fn wide_x<T: Number>(control: Control) {
    let layer = corner::<T>(CORNER_M, CORNER, NARROW);
    backward(control, (M, WIDE, NARROW), &layer, None, |launches| {
        let [grad_b, grad_a, grad_x] = launches else {
            panic!("three launches")
        };
        // The first group of each row split writes T; the last groups have the corner's columns.
        let groups = WIDE.div_ceil(grad_a.variant.block().1) as u64;
        let reduce = blocks(grad_x) - u64::from(grad_x.schedule.expect("a GEMM").blocks);
        vec![
            0..blocks(grad_b),
            last(grad_a, groups, 1).start..last(grad_a, groups, 1).start + 1,
            last(grad_a, 4, 0),
            last(grad_x, 8, reduce),
            last(grad_x, 8, 0),
        ]
    });
}

fn offsets_of_large_tensors_are_64_bits() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("chosen blocks need the emulated device");
        return;
    };
    const { assert!((M - CORNER_M) * WIDE >= 1 << 31 && (TALL - CORNER_TALL) * TALL_K > 1 << 31) };
    gpu();
    let control = Control::loaded().expect("the emulated driver");
    tall_x::<bf16>(control);
    wide_y::<bf16>(control);
    wide_x::<bf16>(control);
    tall_x::<f32>(control);
    wide_y::<f32>(control);
    wide_x::<f32>(control);
}

alone!(offsets_of_large_tensors_are_64_bits);
