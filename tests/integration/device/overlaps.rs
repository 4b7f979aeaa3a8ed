//! Raw calls whose outputs are in one buffer: as column ranges they run, and where they share an
//! element they are refused before anything is launched.

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, DevicePtr};
use lora_kernels::raw::{ForwardArgs, ForwardProjectionArgs, LoraArgs};
use lora_kernels::{DType, Error, ForwardPlan, Layout, Problem, Projection, Result, Role};

use crate::common::device::gpu;

const TOKENS: usize = 40;
const IN_FEATURES: usize = 64;
const OUT_FEATURES: [usize; 2] = [48, 32];
const RANK: usize = 8;
/// Elements of a row that holds both y.
const ROW: usize = OUT_FEATURES[0] + OUT_FEATURES[1];

/// What y holds before the call.
const BEFORE: bf16 = bf16::from_f32_const(7.0);

fn address<T>(memory: &CudaSlice<T>) -> u64 {
    memory.device_ptr(&gpu().stream).0
}

/// A matrix with a few different numbers.
fn matrix(rows: usize, columns: usize, seed: usize) -> CudaSlice<bf16> {
    let value = |index: usize| bf16::from_f32(((index * 7 + seed) % 13) as f32 / 8.0 - 0.75);
    let values: Vec<_> = (0..rows * columns).map(value).collect();
    gpu().stream.clone_htod(&values).expect("memory")
}

/// A buffer for both y, or for one of them at the same stride.
fn buffer() -> CudaSlice<bf16> {
    let values = vec![BEFORE; TOKENS * ROW];
    gpu().stream.clone_htod(&values).expect("memory")
}

fn read(memory: &CudaSlice<bf16>) -> Vec<bf16> {
    gpu().stream.clone_dtoh(memory).expect("a copy")
}

/// Runs a forward of two projections with y at these addresses.
fn forward(y: [u64; 2]) -> Result<()> {
    let layers = OUT_FEATURES.map(|out_features| Projection {
        out_features,
        rank: RANK,
    });
    let layout = Layout {
        row_stride: ROW as i64,
        alignment: 2,
    };
    let problem = Problem::sharing_x(TOKENS, IN_FEATURES, &layers, DType::BF16)?
        .with_layout_of(0, Role::Y, layout)?
        .with_layout_of(1, Role::Y, layout)?;
    let (stream, kernels) = (&gpu().stream, &gpu().kernels);
    let plan = ForwardPlan::new(&problem, kernels.props())?;
    let bytes = |bytes: usize| stream.alloc_zeros::<u8>(bytes.max(1)).expect("memory");
    let (saved, workspace) = (bytes(plan.saved().bytes()), bytes(plan.workspace_bytes()));
    let x = matrix(TOKENS, IN_FEATURES, 1);
    let weights = OUT_FEATURES.map(|n| matrix(n, IN_FEATURES, n));
    let a = OUT_FEATURES.map(|n| matrix(RANK, IN_FEATURES, n + 1));
    let b = OUT_FEATURES.map(|n| matrix(n, RANK, n + 2));
    let projections: [_; 2] = std::array::from_fn(|index| ForwardProjectionArgs {
        weight: address(&weights[index]),
        bias: None,
        lora: Some(LoraArgs {
            a: address(&a[index]),
            b: address(&b[index]),
            scaling: 0.5,
        }),
        y: y[index],
    });
    let args = ForwardArgs {
        x: address(&x),
        projections: &projections,
        dropout: None,
        saved: address(&saved).into(),
        workspace: Some(address(&workspace)),
        rows: None,
        flags: None,
    };
    // SAFETY: all memory has the plan's extents and lives until the stream is waited for.
    unsafe { kernels.forward_raw(&plan, &args, stream.cu_stream()) }?;
    stream.synchronize().expect("the forward");
    Ok(())
}

/// The bytes from the start of a row to the second y.
const BESIDE: u64 = (OUT_FEATURES[0] * size_of::<bf16>()) as u64;

#[test]
fn outputs_as_column_ranges_of_one_buffer_are_those_of_buffers_apart() {
    let (first, second, both) = (buffer(), buffer(), buffer());
    forward([address(&first), address(&second)]).expect("a forward");
    let start = address(&both);
    forward([start, start + BESIDE]).expect("a forward");
    let (first, second, both) = (read(&first), read(&second), read(&both));
    for row in 0..TOKENS {
        let row = row * ROW..(row + 1) * ROW;
        let (left, right) = both[row.clone()].split_at(OUT_FEATURES[0]);
        assert_eq!(left, &first[row.clone()][..OUT_FEATURES[0]]);
        assert_eq!(right, &second[row][..OUT_FEATURES[1]]);
        assert!(left.iter().any(|&value| value != BEFORE));
    }
}

#[test]
fn outputs_that_share_an_element_are_refused_and_not_written() {
    let both = buffer();
    let start = address(&both);
    for y in [
        [start, start],
        [start, start + BESIDE - 2],
        [start + 2, start],
    ] {
        let error = forward(y).expect_err("an element is in both");
        assert!(matches!(error, Error::Overlap { .. }), "{error}");
        let expected = "y of projection 0 shares memory with y of projection 1";
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(read(&both).iter().all(|&value| value == BEFORE));
}
