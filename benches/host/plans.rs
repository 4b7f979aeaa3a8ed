//! The host time of planning for a token count that was not seen before, as where batches change
//! their sizes with every step.

use criterion::Criterion;
use lora_kernels::{BackwardPlan, DType, DeviceProps, ForwardPlan, Problem, Projection};

use crate::must;

pub fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan for a new token count, on this CPU");
    let device = DeviceProps::h100();
    for (name, outputs) in [
        ("one projection", &[4096][..]),
        ("q, k and v", &[4096, 1024, 1024]),
    ] {
        let projections: Vec<_> = outputs
            .iter()
            .map(|&out_features| Projection {
                out_features,
                rank: 16,
            })
            .collect();
        let mut tokens = 0;
        let mut problem = || {
            // Every count from 1 to 8192 once before any comes again.
            tokens = (tokens + 4097) % 8192;
            must(Problem::sharing_x(
                tokens + 1,
                4096,
                &projections,
                DType::BF16,
            ))
            .with_dropout(true)
        };
        group.bench_function(format!("forward of {name}"), |bencher| {
            bencher.iter(|| must(ForwardPlan::new(&problem(), &device)));
        });
        group.bench_function(format!("backward of {name}"), |bencher| {
            bencher.iter(|| must(BackwardPlan::new(&problem(), &device)));
        });
    }
    group.finish();
}
