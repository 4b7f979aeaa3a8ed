//! A layer with its numbers on the device, for the calls that allocate their results themselves.

use bytemuck::Pod;
use lora_kernels::cudarc::driver::{CudaSlice, DeviceRepr};
use lora_kernels::layer::{DynLoraInputs, DynLoraProjection, Gradients};
use lora_kernels::{
    DynLora, DynMatRef, LoraInputs, LoraLinear, LoraProjection, Mask, MatRef, WeightLayout,
};

use super::call::LoraMemory;
use super::check;
use super::device::{Number, gpu};
use super::layer::{Lora, TestLayer};
use super::memory::Input;

/// A layer without a plan, kept from other tests' calls.
pub fn lora_linear() -> LoraLinear {
    LoraLinear::with_kernels(gpu().kernels.clone(), &gpu().stream).expect("the same context")
}

pub struct OnDevice<'a, T, A = T> {
    layer: &'a TestLayer<T, A>,
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
    pub fn new(layer: &'a TestLayer<T, A>) -> Self {
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
pub fn read<T: DeviceRepr + Pod>(result: &CudaSlice<T>) -> Vec<T> {
    gpu().stream.clone_dtoh(result).expect("reading back")
}

fn bits<T: DeviceRepr + Pod>(result: &CudaSlice<T>) -> Vec<u8> {
    bytemuck::cast_slice(&read(result)).to_vec()
}

/// As `ForwardRun::bits` names them.
pub fn bits_of_y<T: DeviceRepr + Pod>(y: &[CudaSlice<T>]) -> Vec<(String, Vec<u8>)> {
    let y = y.iter().enumerate();
    y.map(|(i, y)| (format!("y {i}"), bits(y))).collect()
}

/// As `BackwardRun::bits` names them.
pub fn bits_of_gradients<T: DeviceRepr + Pod, A: DeviceRepr + Pod>(
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

/// The same layer as bytes, whose element types are known at run time only.
pub struct BytesOnDevice<'a, T, A = T> {
    layer: &'a TestLayer<T, A>,
    /// x, then of each projection weight, dy, bias, lora_A and lora_B, as far as they are there
    memory: Vec<CudaSlice<u8>>,
}

impl<'a, T: Number, A: Number> BytesOnDevice<'a, T, A> {
    pub fn new(layer: &'a TestLayer<T, A>) -> Self {
        let mut memory = Vec::new();
        let mut upload = |bytes: Vec<u8>| {
            memory.push(gpu().stream.clone_htod(&bytes).expect("device memory"));
        };
        upload(check::bits(&layer.x));
        for projection in &layer.projections {
            upload(check::bits(&projection.weight));
            upload(check::bits(&projection.dy));
            projection
                .bias
                .iter()
                .for_each(|bias| upload(check::bits(bias)));
            if let Some(Lora { a, b }) = &projection.lora {
                upload(check::bits(a));
                upload(check::bits(b));
            }
        }
        Self { layer, memory }
    }

    pub fn inputs(&self) -> DynLoraInputs<'_> {
        let (layer, mut memory) = (self.layer, self.memory.iter());
        let mut next = |dtype, rows, columns| {
            let memory = memory.next().expect("as many as uploaded");
            DynMatRef::new(memory.as_view(), dtype, rows, columns)
        };
        let x = next(T::DTYPE, layer.x.rows, layer.x.cols);
        let mut projections = Vec::new();
        for (projection, sizes) in layer.projections.iter().zip(&layer.case.projections) {
            let weight = next(T::DTYPE, projection.weight.rows, projection.weight.cols);
            next(T::DTYPE, projection.dy.rows, projection.dy.cols);
            let bias = projection
                .bias
                .as_ref()
                .map(|bias| next(T::DTYPE, 1, bias.cols));
            let projection = match &projection.lora {
                Some(Lora { a, b }) => {
                    let lora = DynLora {
                        a: next(A::DTYPE, a.rows, a.cols),
                        b: next(A::DTYPE, b.rows, b.cols),
                        scaling: sizes.scaling,
                    };
                    DynLoraProjection::new(weight, lora)
                }
                None => DynLoraProjection::without_adapter(weight),
            };
            projections.push(projection.with_bias(bias));
        }
        DynLoraInputs::new(x, projections).with_dropout(layer.case.dropout)
    }

    pub fn dy(&self) -> Vec<DynMatRef<'_>> {
        let mut first = 1;
        let projections = self.layer.projections.iter().map(|projection| {
            let memory = &self.memory[first + 1];
            first += 2
                + usize::from(projection.bias.is_some())
                + 2 * usize::from(projection.lora.is_some());
            DynMatRef::new(
                memory.as_view(),
                T::DTYPE,
                projection.dy.rows,
                projection.dy.cols,
            )
        });
        projections.collect()
    }
}
