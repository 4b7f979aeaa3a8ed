//! Valid calls with one thing changed.

use std::sync::Arc;

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, CudaViewMut};
use lora_kernels::{Backward, Error, Forward, MatMut, MatRef, Role};

use super::{K, M, N, R};
use crate::common::call::{BackwardCall, ForwardCall};
use crate::common::check::bits;
use crate::common::device::gpu;
use crate::common::layer::{LayerCase, TestLayer};

/// Spare memory for a changed argument.
pub struct Spare<'a> {
    pub read: &'a CudaSlice<bf16>,
    pub read_bytes: &'a CudaSlice<u8>,
    write: &'a mut CudaSlice<bf16>,
    write_bytes: &'a mut CudaSlice<u8>,
}

/// A matrix in spare memory: `elements` from `offset` on, with the shape and stride that the call
/// claims.
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
    pub fn readable(self, matrix: Geometry) -> MatRef<'a, bf16> {
        MatRef::new(self.read.slice(matrix.range()), matrix.rows, matrix.cols)
            .with_row_stride(matrix.row_stride)
    }

    pub fn writable(self, matrix: Geometry) -> MatMut<'a, bf16> {
        let Geometry {
            rows,
            cols,
            row_stride,
            ..
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
            read_bytes: stream.alloc_zeros(1 << 20).unwrap(),
            write: stream.alloc_zeros(1 << 12).unwrap(),
            write_bytes: stream.alloc_zeros(1 << 20).unwrap(),
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
        let elements = stream.clone_dtoh(&self.write).unwrap();
        assert!(
            elements.iter().all(|value| value.to_bits() == 0),
            "an output was written"
        );
        let bytes = stream.clone_dtoh(&self.write_bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "a buffer was written");
    }
}

/// A forward with one thing changed. Nothing may be written if it fails.
pub fn forward(
    case: &LayerCase,
    change: impl for<'a> FnOnce(&mut Forward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    forward_on(&gpu().stream, case, change)
}

/// Like the function above, on a stream that may belong to another context.
pub fn forward_on(
    stream: &Arc<CudaStream>,
    case: &LayerCase,
    change: impl for<'a> FnOnce(&mut Forward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    let layer = TestLayer::<bf16>::random(case);
    let plan = layer.forward_plan();
    let mut call = ForwardCall::new(&layer, &plan);
    let mut spare = SpareMemory::new();
    let mut arguments = call.arguments();
    change(&mut arguments, spare.lend());
    let result = gpu().kernels.forward(stream, &plan, arguments).map(|_| ());
    if result.is_err() {
        let now = call.read_back();
        for (y, projection) in now.y.iter().zip(&layer.projections) {
            assert_eq!(bits(y), bits(&projection.y), "y was written");
        }
        assert!(
            now.saved.iter().all(|&byte| byte == 0xFF),
            "saved was written"
        );
        spare.assert_untouched();
    }
    result
}

/// A backward with one thing changed. Nothing may be written if it fails.
pub fn backward(
    case: &LayerCase,
    change: impl for<'a> FnOnce(&mut Backward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    backward_on(&gpu().stream, case, change)
}

/// Like the function above, on a stream that may belong to another context.
pub fn backward_on(
    stream: &Arc<CudaStream>,
    case: &LayerCase,
    change: impl for<'a> FnOnce(&mut Backward<'a, bf16>, Spare<'a>),
) -> Result<(), Error> {
    let layer = TestLayer::<bf16>::random(case);
    let plan = layer.backward_plan();
    let mut call = BackwardCall::new(&layer, &plan, &layer.forward().saved);
    let mut spare = SpareMemory::new();
    let mut arguments = call.arguments();
    change(&mut arguments, spare.lend());
    let result = gpu().kernels.backward(stream, &plan, arguments);
    if result.is_err() {
        let now = call.read_back();
        for (dx, before) in now.dx.iter().zip(&layer.dx) {
            assert_eq!(bits(dx), bits(before), "dx was written");
        }
        for (gradients, projection) in now.gradients.iter().zip(&layer.projections) {
            let pairs = gradients.iter().zip(&projection.gradients);
            for (now, before) in
                pairs.flat_map(|(now, before)| [(&now.a, &before.a), (&now.b, &before.b)])
            {
                assert_eq!(bits(now), bits(before), "a gradient was written");
            }
        }
        spare.assert_untouched();
    }
    result
}

pub fn case() -> LayerCase {
    LayerCase::new(M, K, N, R)
}

/// Three projections; the second has no adapter.
pub fn three() -> LayerCase {
    LayerCase::sharing_x(M, K, &[(N, R), (N, 0), (2 * N, R)])
}

pub const FORWARD_INPUTS: [Role; 4] = [Role::X, Role::Weight, Role::LoraA, Role::LoraB];
pub const BACKWARD_INPUTS: [Role; 5] = [Role::DY, Role::X, Role::Weight, Role::LoraA, Role::LoraB];
pub const BACKWARD_OUTPUTS: [Role; 3] = [Role::DX, Role::DLoraA, Role::DLoraB];

const ADAPTED: &str = "an adapted projection";

pub fn forward_input<'c, 'a>(
    call: &'c mut Forward<'a, bf16>,
    projection: usize,
    tensor: Role,
) -> &'c mut MatRef<'a, bf16> {
    let target = &mut call.projections[projection];
    match tensor {
        Role::X => &mut call.x,
        Role::Weight => &mut target.weight,
        Role::LoraA => &mut target.lora.as_mut().expect(ADAPTED).a,
        Role::LoraB => &mut target.lora.as_mut().expect(ADAPTED).b,
        _ => panic!("{tensor} is no input of forward"),
    }
}

pub fn backward_input<'c, 'a>(
    call: &'c mut Backward<'a, bf16>,
    projection: usize,
    tensor: Role,
) -> &'c mut MatRef<'a, bf16> {
    let target = &mut call.projections[projection];
    match tensor {
        Role::X => &mut call.x,
        Role::DY => &mut target.dy,
        Role::Weight => &mut target.weight,
        Role::LoraA => &mut target.lora.as_mut().expect(ADAPTED).a,
        Role::LoraB => &mut target.lora.as_mut().expect(ADAPTED).b,
        _ => panic!("{tensor} is no input of backward"),
    }
}

pub fn backward_output<'c, 'a>(
    call: &'c mut Backward<'a, bf16>,
    projection: usize,
    tensor: Role,
) -> &'c mut MatMut<'a, bf16> {
    let target = &mut call.projections[projection];
    match tensor {
        Role::DX => call.dx.as_mut().expect("a call with dx"),
        Role::DLoraA => &mut target.gradients.as_mut().expect(ADAPTED).a,
        Role::DLoraB => &mut target.gradients.as_mut().expect(ADAPTED).b,
        _ => panic!("{tensor} is no output of backward"),
    }
}

/// Replaces a tensor of the only projection by one of another geometry in spare memory, in every
/// call that has the tensor.
pub fn replaced(tensor: Role, other: Geometry) -> impl Iterator<Item = Result<(), Error>> {
    replaced_of(&case(), 0, tensor, other)
}

/// Like [`replaced`], in one of several projections.
pub fn replaced_of(
    case: &LayerCase,
    projection: usize,
    tensor: Role,
    other: Geometry,
) -> impl Iterator<Item = Result<(), Error>> + use<> {
    let is_forward = FORWARD_INPUTS.contains(&tensor) || tensor == Role::Y;
    let is_backward = BACKWARD_INPUTS.contains(&tensor) || BACKWARD_OUTPUTS.contains(&tensor);
    let forward = is_forward.then(|| {
        forward(case, |call, spare| match tensor {
            Role::Y => call.projections[projection].y = spare.writable(other),
            tensor => *forward_input(call, projection, tensor) = spare.readable(other),
        })
    });
    let backward = is_backward.then(|| {
        backward(case, |call, spare| {
            match BACKWARD_OUTPUTS.contains(&tensor) {
                true => *backward_output(call, projection, tensor) = spare.writable(other),
                false => *backward_input(call, projection, tensor) = spare.readable(other),
            }
        })
    });
    forward.into_iter().chain(backward)
}

/// The roles of all matrices.
pub fn matrices() -> impl Iterator<Item = Role> {
    Role::ALL.into_iter().filter(|&tensor| tensor != Role::Bias)
}
