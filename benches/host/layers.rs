//! The host time of a layer's calls, which find their plans and allocate what they return, and of
//! their allocations alone. No block runs, so what is left is ours and the emulated driver's.

use criterion::Criterion;
use half::bf16;
use lora_kernels::{Dropout, Lora, LoraInputs, LoraLinear, LoraProjection, MatRef};

use crate::{DROPOUT, must, without_blocks};

/// Tokens, in_features, out_features, rank.
const SIZES: (usize, usize, usize, usize) = (512, 4096, 4096, 16);

pub fn layers(criterion: &mut Criterion) {
    let context = without_blocks();
    let stream = must(context.new_stream());
    let layer = must(LoraLinear::new(&stream));
    let (m, k, n, r) = SIZES;
    let zeros = |rows: usize, columns: usize| must(stream.alloc_zeros::<bf16>(rows * columns));
    let (x, weight, a, b, dy) = (
        zeros(m, k),
        zeros(n, k),
        zeros(r, k),
        zeros(n, r),
        zeros(m, n),
    );
    let dropout: Option<Dropout> = DROPOUT;
    let inputs = || {
        let lora = Lora {
            a: MatRef::new(a.as_view(), r, k),
            b: MatRef::new(b.as_view(), n, r),
            scaling: 2.0,
        };
        let projection = LoraProjection::new(MatRef::new(weight.as_view(), n, k), lora);
        LoraInputs::new(MatRef::new(x.as_view(), m, k), [projection]).with_dropout(dropout)
    };
    let dy = || [MatRef::new(dy.as_view(), m, n)];

    let mut group = criterion.benchmark_group("layer on the emulated driver, no block run");
    group.bench_function("forward", |bencher| {
        bencher.iter(|| must(layer.forward(&inputs())))
    });
    let (_, saved) = must(layer.forward(&inputs()));
    group.bench_function("backward", |bencher| {
        bencher.iter(|| must(layer.backward(&inputs(), &saved, &dy())))
    });
    group.bench_function("inference", |bencher| {
        bencher.iter(|| must(layer.infer(&inputs().with_dropout(None))))
    });
    // What the driver and cudarc take for the memory of such calls, which is the most of them here.
    let forward = must(layer.forward_plan(&inputs()));
    let backward = must(layer.backward_plan(&inputs(), &dy()));
    let bytes = |rows: usize, columns: usize| rows * columns * size_of::<bf16>();
    let of_forward = [
        bytes(m, n),
        forward.saved().bytes(),
        forward.workspace_bytes(),
    ];
    let of_backward = [
        bytes(m, k),
        bytes(r, k),
        bytes(n, r),
        backward.workspace_bytes(),
    ];
    for (name, sizes) in [
        ("a forward's allocations alone", &of_forward[..]),
        ("a backward's allocations alone", &of_backward),
    ] {
        let allocated = || -> Vec<_> {
            let sizes = sizes.iter().filter(|bytes| **bytes > 0);
            // SAFETY: nobody reads the memory.
            let memory = sizes.map(|&bytes| must(unsafe { stream.alloc::<u8>(bytes) }));
            memory.collect()
        };
        group.bench_function(name, |bencher| bencher.iter(allocated));
    }
    group.finish();
}
