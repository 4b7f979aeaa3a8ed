//! Good calls with one thing changed.

use std::sync::Arc;

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, CudaViewMut};
use lora_kernels::{Backward, Error, Forward, MatMut, MatRef, Tensor};

use crate::common::check::bits;
use crate::common::data::{Placed, Placement};
use crate::common::device::gpu;
use crate::common::layer::{Case, Layer};
use crate::common::memory::{Guarded, Input, Output};
use crate::{K, M, N, R};

/// Memory that a changed argument can take.
pub struct Spare<'a> {
    pub read: &'a CudaSlice<bf16>,
    pub read_bytes: &'a CudaSlice<u8>,
    write: &'a mut CudaSlice<bf16>,
    write_bytes: &'a mut CudaSlice<u8>,
}

/// A matrix in spare memory: `elements` from `offset` on, and what is said of them.
#[derive(Clone, Copy)]
pub struct Geometry {
    pub rows: usize,
    pub cols: usize,
    pub row_stride: i64,
    pub offset: usize,
    pub elements: usize,
}

impl Geometry {
    pub fn dense(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            row_stride: cols as i64,
            offset: 0,
            elements: rows * cols,
        }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.elements
    }
}

impl<'a> Spare<'a> {
    fn readable(self, matrix: Geometry) -> MatRef<'a, bf16> {
        MatRef::new(self.read.slice(matrix.range()), matrix.rows, matrix.cols).with_row_stride(matrix.row_stride)
    }

    fn writable(self, matrix: Geometry) -> MatMut<'a, bf16> {
        let Geometry {
            rows, cols, row_stride, ..
        } = matrix;
        MatMut::new(self.write.slice_mut(matrix.range()), rows, cols).with_row_stride(row_stride)
    }

    pub fn bytes(self, offset: usize, count: usize) -> CudaViewMut<'a, u8> {
        self.write_bytes.slice_mut(offset..offset + count)
    }
}

/// The memory behind a [`Spare`].
struct SpareMemory {
    read: CudaSlice<bf16>,
    read_bytes: CudaSlice<u8>,
    write: CudaSlice<bf16>,
    write_bytes: CudaSlice<u8>,
}

impl SpareMemory {
    fn new() -> Self {
        let stream = &gpu().stream;
        Self {
            read: stream.alloc_zeros(1 << 12).unwrap(),
            read_bytes: stream.alloc_zeros(1 << 16).unwrap(),
            write: stream.alloc_zeros(1 << 12).unwrap(),
            write_bytes: stream.alloc_zeros(1 << 16).unwrap(),
        }
    }

    fn lend(&mut self) -> Spare<'_> {
        Spare {
            read: &self.read,
            read_bytes: &self.read_bytes,
            write: &mut self.write,
            write_bytes: &mut self.write_bytes,
        }
    }

    fn assert_untouched(&self) {
        let stream = &gpu().stream;
        assert!(
            stream
                .clone_dtoh(&self.write)
                .unwrap()
                .iter()
                .all(|value| value.to_bits() == 0),
            "an output was written"
        );
        assert!(
            stream
                .clone_dtoh(&self.write_bytes)
                .unwrap()
                .iter()
                .all(|&byte| byte == 0),
            "a buffer was written"
        );
    }
}

/// A forward with one thing changed. Nothing may be written if it fails.
pub fn forward(case: &Case, change: impl for<'a> FnOnce(&mut Forward<'a, bf16>, Spare<'a>)) -> Result<(), Error> {
    forward_on(&gpu().stream, case, change)
}

/// The same on a stream that may be of another context.
pub fn forward_on(
    stream: &Arc<CudaStream>,
    case: &Case,
    change: impl for<'a> FnOnce(&mut Forward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    let gpu = gpu();
    let layer = Layer::<bf16>::random(case);
    let plan = case.forward_plan::<bf16>();
    let [x, weight, lora_a, lora_b] = [&layer.x, &layer.weight, &layer.lora_a, &layer.lora_b].map(Input::new);
    let bias = layer.bias.as_ref().map(Input::new);
    let untouched = Placed::<bf16>::poisoned(case.tokens, case.out_features, Placement::Dense);
    let mut y = Output::new(untouched.clone());
    let mut saved = Guarded::new(plan.saved().bytes());
    let mut spare = SpareMemory::new();
    let mut arguments = Forward {
        x: x.matrix(),
        weight: weight.matrix(),
        bias: bias.as_ref().map(Input::span),
        lora_a: lora_a.matrix(),
        lora_b: lora_b.matrix(),
        scaling: case.scaling,
        dropout: case.dropout,
        y: y.matrix(),
        saved: saved.view_mut(),
    };
    change(&mut arguments, spare.lend());
    let result = gpu.kernels.forward(stream, &plan, arguments);
    if result.is_err() {
        assert_eq!(bits(&y.read_back("y")), bits(&untouched), "y was written");
        assert!(
            saved.read_back("saved").iter().all(|&byte| byte == 0xFF),
            "saved was written"
        );
        spare.assert_untouched();
    }
    result
}

/// A backward with one thing changed. Nothing may be written if it fails.
pub fn backward(case: &Case, change: impl for<'a> FnOnce(&mut Backward<'a, bf16>, Spare<'a>)) -> Result<(), Error> {
    backward_on(&gpu().stream, case, change)
}

/// The same on a stream that may be of another context.
pub fn backward_on(
    stream: &Arc<CudaStream>,
    case: &Case,
    change: impl for<'a> FnOnce(&mut Backward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    let gpu = gpu();
    let layer = Layer::<bf16>::random(case);
    let plan = case.backward_plan::<bf16>();
    let [dy, x, weight, lora_a, lora_b] =
        [&layer.dy, &layer.x, &layer.weight, &layer.lora_a, &layer.lora_b].map(Input::new);
    let saved = Guarded::holding(&layer.forward().saved);
    let untouched = [
        (case.tokens, case.in_features),
        (case.rank, case.in_features),
        (case.out_features, case.rank),
    ]
    .map(|(rows, cols)| Placed::<bf16>::poisoned(rows, cols, Placement::Dense));
    let [mut dx, mut d_lora_a, mut d_lora_b] = untouched.clone().map(Output::new);
    let mut workspace = Guarded::new(plan.workspace_bytes());
    let mut spare = SpareMemory::new();
    let mut arguments = Backward {
        dy: dy.matrix(),
        x: x.matrix(),
        weight: weight.matrix(),
        lora_a: lora_a.matrix(),
        lora_b: lora_b.matrix(),
        scaling: case.scaling,
        dropout: case.dropout,
        saved: saved.view(),
        dx: dx.matrix(),
        d_lora_a: d_lora_a.matrix(),
        d_lora_b: d_lora_b.matrix(),
        workspace: workspace.view_mut(),
    };
    change(&mut arguments, spare.lend());
    let result = gpu.kernels.backward(stream, &plan, arguments);
    if result.is_err() {
        for (output, untouched) in [dx, d_lora_a, d_lora_b].into_iter().zip(&untouched) {
            assert_eq!(
                bits(&output.read_back("a gradient")),
                bits(untouched),
                "a gradient was written"
            );
        }
        assert!(
            workspace.read_back("workspace").iter().all(|&byte| byte == 0xFF),
            "the workspace was written"
        );
        spare.assert_untouched();
    }
    result
}

pub fn case() -> Case {
    Case::new(M, K, N, R)
}

pub const FORWARD_INPUTS: [Tensor; 4] = [Tensor::X, Tensor::Weight, Tensor::LoraA, Tensor::LoraB];
pub const BACKWARD_INPUTS: [Tensor; 5] = [Tensor::DY, Tensor::X, Tensor::Weight, Tensor::LoraA, Tensor::LoraB];
pub const BACKWARD_OUTPUTS: [Tensor; 3] = [Tensor::DX, Tensor::DLoraA, Tensor::DLoraB];

pub fn forward_input<'c, 'a>(call: &'c mut Forward<'a, bf16>, tensor: Tensor) -> &'c mut MatRef<'a, bf16> {
    match tensor {
        Tensor::X => &mut call.x,
        Tensor::Weight => &mut call.weight,
        Tensor::LoraA => &mut call.lora_a,
        Tensor::LoraB => &mut call.lora_b,
        _ => panic!("{tensor} is no input of forward"),
    }
}

pub fn backward_input<'c, 'a>(call: &'c mut Backward<'a, bf16>, tensor: Tensor) -> &'c mut MatRef<'a, bf16> {
    match tensor {
        Tensor::DY => &mut call.dy,
        Tensor::X => &mut call.x,
        Tensor::Weight => &mut call.weight,
        Tensor::LoraA => &mut call.lora_a,
        Tensor::LoraB => &mut call.lora_b,
        _ => panic!("{tensor} is no input of backward"),
    }
}

pub fn backward_output<'c, 'a>(call: &'c mut Backward<'a, bf16>, tensor: Tensor) -> &'c mut MatMut<'a, bf16> {
    match tensor {
        Tensor::DX => &mut call.dx,
        Tensor::DLoraA => &mut call.d_lora_a,
        Tensor::DLoraB => &mut call.d_lora_b,
        _ => panic!("{tensor} is no output of backward"),
    }
}

/// Replaces one tensor, whichever call and side it is on, by one of another geometry in spare memory.
pub fn replaced(tensor: Tensor, other: Geometry) -> [Option<Result<(), Error>>; 2] {
    let case = case();
    let is_forward = FORWARD_INPUTS.contains(&tensor) || tensor == Tensor::Y;
    let is_backward = BACKWARD_INPUTS.contains(&tensor) || BACKWARD_OUTPUTS.contains(&tensor);
    let forward = is_forward.then(|| {
        forward(&case, |call, spare| match tensor {
            Tensor::Y => call.y = spare.writable(other),
            tensor => *forward_input(call, tensor) = spare.readable(other),
        })
    });
    let backward = is_backward.then(|| {
        backward(&case, |call, spare| match BACKWARD_OUTPUTS.contains(&tensor) {
            true => *backward_output(call, tensor) = spare.writable(other),
            false => *backward_input(call, tensor) = spare.readable(other),
        })
    });
    [forward, backward]
}

/// All tensors that are matrices.
pub fn matrices() -> impl Iterator<Item = Tensor> {
    Tensor::ALL.into_iter().filter(|&tensor| tensor != Tensor::Bias)
}
