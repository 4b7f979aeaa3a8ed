//! The tensors of a layer in device memory. All numbers are zero, because the counts don't depend
//! on them.

use std::sync::Arc;

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::{Lora, LoraInputs, LoraProjection, MatRef, Problem, Role};

use crate::Outcome;
use crate::sizes::SCALING;

pub struct Tensors {
    x: CudaSlice<bf16>,
    projections: Vec<Projection>,
}

struct Projection {
    weight: CudaSlice<bf16>,
    lora_a: CudaSlice<bf16>,
    lora_b: CudaSlice<bf16>,
    dy: CudaSlice<bf16>,
}

impl Tensors {
    pub fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Outcome<Self> {
        let zeros = |projection, tensor| {
            let (rows, columns) = problem.shape_of(projection, tensor);
            stream.alloc_zeros(rows * columns)
        };
        let mut projections = Vec::new();
        for index in 0..problem.projections().len() {
            projections.push(Projection {
                weight: zeros(index, Role::Weight)?,
                lora_a: zeros(index, Role::LoraA)?,
                lora_b: zeros(index, Role::LoraB)?,
                dy: zeros(index, Role::DY)?,
            });
        }
        Ok(Self {
            x: zeros(0, Role::X)?,
            projections,
        })
    }

    pub fn inputs(&self, problem: &Problem) -> LoraInputs<'_, bf16> {
        let projections: Vec<_> = (self.projections.iter().enumerate())
            .map(|(index, tensors)| {
                let of = |data, tensor| matrix(problem, data, index, tensor);
                let lora = Lora {
                    a: of(&tensors.lora_a, Role::LoraA),
                    b: of(&tensors.lora_b, Role::LoraB),
                    scaling: SCALING,
                };
                LoraProjection::new(of(&tensors.weight, Role::Weight), lora)
            })
            .collect();
        LoraInputs::new(matrix(problem, &self.x, 0, Role::X), projections)
    }

    /// The gradient of each y.
    pub fn dy(&self, problem: &Problem) -> Vec<MatRef<'_, bf16>> {
        let projections = self.projections.iter().enumerate();
        projections
            .map(|(index, tensors)| matrix(problem, &tensors.dy, index, Role::DY))
            .collect()
    }
}

fn matrix<'a>(
    problem: &Problem,
    data: &'a CudaSlice<bf16>,
    projection: usize,
    tensor: Role,
) -> MatRef<'a, bf16> {
    let (rows, columns) = problem.shape_of(projection, tensor);
    MatRef::new(data.as_view(), rows, columns)
}
