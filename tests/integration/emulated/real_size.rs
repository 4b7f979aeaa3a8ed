//! A Llama layer with a training batch on the emulated device. Only a sample of the blocks runs,
//! and the host commits only the memory that they touch.

use crate::common::device::gpu;
use crate::common::layer::LayerCase;
use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, DeviceRepr};
use lora_kernels::{
    Backward, BackwardProjection, Forward, ForwardProjection, Lora, LoraGradients, MatMut, MatRef,
};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::{Blocks, Control, Counters, Kind};

const M: usize = 8192;
const K: usize = 4096;
const N: usize = 4096;
const R: usize = 16;

/// Uninitialised memory. The results of the blocks don't matter here, nor do those of blocks that
/// don't run.
fn memory<T: DeviceRepr>(count: usize) -> CudaSlice<T> {
    // SAFETY: the emulated device allocates zeros, and every bit pattern is a number.
    unsafe { gpu().stream.alloc(count) }.expect("device memory")
}

fn sampled(control: Control) -> Counters {
    // The number of persistent blocks divides that of the tiles, so each has the same work.
    let case = LayerCase::new(M, K, N, R)
        .dropout(0.1)
        .bias(false)
        .multiprocessors(128);
    let (forward, backward) = (case.forward_plan::<bf16>(), case.backward_plan::<bf16>());
    let [x, weight, lora_a, lora_b, dy] = [M * K, N * K, R * K, N * R, M * N].map(memory::<bf16>);
    let [mut y, mut dx, mut d_lora_a, mut d_lora_b] =
        [M * N, M * K, R * K, N * R].map(memory::<bf16>);
    let mut saved = memory::<u8>(forward.saved().bytes());
    let mut workspace = memory::<u8>(backward.workspace_bytes());
    let mut forward_workspace = memory::<u8>(forward.workspace_bytes().max(1));
    let dropout = case.dropout;
    let (x, weight) = (
        MatRef::new(x.as_view(), M, K),
        MatRef::new(weight.as_view(), N, K),
    );
    let lora = || Lora {
        a: MatRef::new(lora_a.as_view(), R, K),
        b: MatRef::new(lora_b.as_view(), N, R),
        scaling: 1.7,
    };

    control.reset().expect("a setting");
    control.count(true).expect("a setting");
    control.run_blocks(&Blocks::Every(257)).expect("a setting");
    let projection = ForwardProjection {
        weight: weight.clone(),
        bias: None,
        lora: Some(lora()),
        y: MatMut::new(y.as_view_mut(), M, N),
    };
    let call = Forward {
        x: x.clone(),
        projections: vec![projection],
        dropout,
        saved: saved.as_view_mut().into(),
        workspace: Some(forward_workspace.as_view_mut()),
        rows: None,
        flags: None,
    };
    let (kernels, stream) = (&gpu().kernels, &gpu().stream);
    let record = kernels
        .forward(stream, &forward, call)
        .expect("forward runs");
    let projection = BackwardProjection {
        dy: MatRef::new(dy.as_view(), M, N),
        weight,
        lora: Some(lora()),
        gradients: Some(LoraGradients {
            a: MatMut::new(d_lora_a.as_view_mut(), R, K),
            b: MatMut::new(d_lora_b.as_view_mut(), N, R),
        }),
    };
    let call = Backward {
        x,
        projections: vec![projection],
        dropout,
        saved: saved.as_view().into(),
        record,
        dx: Some(MatMut::new(dx.as_view_mut(), M, K)),
        workspace: Some(workspace.as_view_mut()),
        rows: None,
    };
    kernels
        .backward(stream, &backward, call)
        .expect("backward runs");
    control.run_blocks(&Blocks::All).expect("a setting");
    control.count(false).expect("a setting");
    control.read().expect("counters")
}

fn a_llama_layer_is_sampled() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("counters need the emulated device");
        return;
    };
    gpu();
    let before = memory_peak_kib();
    let counters = sampled(Control::loaded().expect("the emulated driver"));
    // x, dy, y and dx alone are 256 MiB.
    let taken = (memory_peak_kib() - before) >> 10;
    assert!(taken < 200, "{taken} MiB");

    assert!(counters.kernels.len() >= 4, "forward and backward");
    for kernel in &counters.kernels {
        assert!(
            kernel.is_sampled() && kernel.blocks_run > 0,
            "{}",
            kernel.kernel
        );
    }
    // Every block of the product does the same work, so the scaled sample is exactly the layer's
    // work.
    let product = counters
        .of("forward")
        .next()
        .expect("the product of forward");
    let whole = |count: u64| product.estimate(count);
    assert_eq!(
        whole(product.total.mma_flops),
        Some((2 * M * N * (K + R)) as f64)
    );
    let written = product.kind(Kind::StoreGlobal);
    assert_eq!(
        whole(32 * written.ideal_sectors),
        Some((M * N * size_of::<bf16>()) as f64)
    );
    assert_eq!(product.total.bank_conflicts(), 0);
}

alone!(a_llama_layer_is_sampled);

/// The peak resident memory of this process, in KiB.
fn memory_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.expect("the field").trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}
