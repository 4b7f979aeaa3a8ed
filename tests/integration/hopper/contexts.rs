//! Two contexts with kernels of their own: tensor maps are of neither.

use std::sync::Arc;

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::{Kernels, Lora, LoraInputs, LoraLinear, LoraProjection, MatRef};

use crate::common::data::Placed;
use crate::common::device::{gpu, second_context};
use crate::common::layer::{LayerCase, TestLayer};

/// A dense matrix on a stream's device.
struct Dense {
    shape: (usize, usize),
    elements: CudaSlice<bf16>,
}

impl Dense {
    fn new(stream: &Arc<CudaStream>, matrix: &Placed<bf16>) -> Self {
        Self {
            shape: (matrix.rows, matrix.cols),
            elements: stream.clone_htod(&matrix.rows()).expect("device memory"),
        }
    }

    fn read(&self) -> MatRef<'_, bf16> {
        MatRef::new(self.elements.as_view(), self.shape.0, self.shape.1)
    }
}

/// y and all gradients of the layer's only projection, computed on a stream.
fn results(
    kernels: &Arc<Kernels>,
    stream: &Arc<CudaStream>,
    layer: &TestLayer<bf16>,
) -> Vec<Vec<bf16>> {
    let projection = &layer.projections[0];
    let lora = projection.lora.as_ref().expect("an adapter");
    let [x, weight, a, b, dy] = [
        &layer.x,
        &projection.weight,
        &lora.a,
        &lora.b,
        &projection.dy,
    ]
    .map(|matrix| Dense::new(stream, matrix));
    let lora = Lora {
        a: a.read(),
        b: b.read(),
        scaling: layer.case.projections[0].scaling,
    };
    let inputs = LoraInputs::new(x.read(), vec![LoraProjection::new(weight.read(), lora)])
        .with_dropout(layer.case.dropout);
    let short = LoraLinear::with_kernels(kernels.clone(), stream).expect("the same context");
    let (y, saved) = short.forward(&inputs).expect("forward runs");
    let gradients = short
        .backward(&inputs, &saved, &[dy.read()])
        .expect("backward runs");
    let adapter = gradients.adapters[0].as_ref().expect("gradients");
    let all = [
        &y[0],
        gradients.dx.as_ref().expect("dx"),
        &adapter.a,
        &adapter.b,
    ];
    all.map(|result| stream.clone_dtoh(result).expect("a copy"))
        .to_vec()
}

fn two_contexts_give_the_same_bits() {
    let other = second_context();
    let kernels = Arc::new(Kernels::load(&other).expect("the kernels load"));
    let streams = [gpu().stream.clone(), other.new_stream().expect("a stream")];
    let case = LayerCase::new(150, 136, 200, 24).bias(false).dropout(0.2);
    let layer = TestLayer::<bf16>::random(&case);
    let both = [&gpu().kernels, &kernels];
    // In turn, twice: neither leaves anything that the other takes for its own.
    let all = [0, 1, 0, 1].map(|i| results(both[i], &streams[i], &layer));
    assert!(all.iter().all(|results| *results == all[0]));
    let y: Vec<bf16> = layer.forward().y[0].rows();
    assert!(all[0][0] == y);
}

super::on_h100!(two_contexts_give_the_same_bits);
