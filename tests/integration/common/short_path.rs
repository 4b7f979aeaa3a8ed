//! A layer with its numbers on the device, for the calls that allocate their results themselves.

use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::layer::{Gradients, LoraInputs, LoraLinear, LoraProjection};
use lora_kernels::{Mask, MatRef, WeightLayout};

use super::call::LoraMemory;
use super::device::{Number, gpu};
use super::layer::Layer;
use super::memory::Input;

/// A layer without a plan, kept from other tests' calls.
pub fn lora_linear() -> LoraLinear {
    LoraLinear::with_kernels(gpu().kernels.clone(), &gpu().stream).expect("the same context")
}

pub struct OnDevice<'a, T, A = T> {
    layer: &'a Layer<T, A>,
    x: Input<'a, T>,
    projections: Vec<Memory<'a, T, A>>,
}

struct Memory<'a, T, A> {
    weight: Input<'a, T>,
    bias: Option<Input<'a, T>>,
    lora: Option<LoraMemory<'a, A>>,
    dy: Input<'a, T>,
}

impl<'a, T: Number, A: Number> OnDevice<'a, T, A> {
    pub fn new(layer: &'a Layer<T, A>) -> Self {
        let projections = layer.projections.iter().zip(&layer.case.projections);
        let memory = projections.map(|(projection, sizes)| Memory {
            weight: Input::new(&projection.weight),
            bias: projection.bias.as_ref().map(Input::new),
            lora: LoraMemory::new(projection.lora.as_ref(), sizes.scaling),
            dy: Input::new(&projection.dy),
        });
        Self {
            layer,
            x: Input::new(&layer.x),
            projections: memory.collect(),
        }
    }

    pub fn inputs(&self) -> LoraInputs<'_, T, A> {
        let projections = self.projections.iter().map(|memory| {
            let weight = memory.weight.matrix();
            let projection = match &memory.lora {
                Some(lora) => LoraProjection::new(weight, lora.arguments()),
                None => LoraProjection::without_adapter(weight),
            };
            projection.with_bias(memory.bias.as_ref().map(Input::span))
        });
        let case = &self.layer.case;
        LoraInputs::new(self.x.matrix(), projections.collect::<Vec<_>>())
            .with_dropout(case.dropout)
            .with_mask(if case.redrawn {
                Mask::Redrawn
            } else {
                Mask::Stored
            })
            .with_weight_layout(if case.transposed {
                WeightLayout::InOut
            } else {
                WeightLayout::OutIn
            })
    }

    pub fn dy(&self) -> Vec<MatRef<'_, T>> {
        self.projections
            .iter()
            .map(|memory| memory.dy.matrix())
            .collect()
    }
}

/// The elements of a result.
pub fn read<T: Number>(result: &CudaSlice<T>) -> Vec<T> {
    gpu().stream.clone_dtoh(result).expect("reading back")
}

fn bits<T: Number>(result: &CudaSlice<T>) -> Vec<u8> {
    bytemuck::cast_slice(&read(result)).to_vec()
}

/// As `ForwardRun::bits` names them.
pub fn bits_of_y<T: Number>(y: &[CudaSlice<T>]) -> Vec<(String, Vec<u8>)> {
    let y = y.iter().enumerate();
    y.map(|(i, y)| (format!("y {i}"), bits(y))).collect()
}

/// As `BackwardRun::bits` names them.
pub fn bits_of_gradients<T: Number, A: Number>(
    gradients: &Gradients<T, A>,
) -> Vec<(String, Vec<u8>)> {
    let dx = gradients.dx.iter().map(|dx| ("dx".to_owned(), bits(dx)));
    let adapters = gradients.adapters.iter().enumerate();
    let adapters = adapters.filter_map(|(i, gradients)| Some((i, gradients.as_ref()?)));
    let adapters = adapters.flat_map(|(i, gradients)| {
        [
            (format!("d_lora_A {i}"), bits(&gradients.a)),
            (format!("d_lora_B {i}"), bits(&gradients.b)),
        ]
    });
    dx.chain(adapters).collect()
}
