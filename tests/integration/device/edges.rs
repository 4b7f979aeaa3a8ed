//! What a framework runs into: batches without tokens, plans of other devices, types known at run
//! time, and S and the mask as two tensors.

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, DType, DeviceElement, DeviceProps, Dropout,
    DynForward, DynForwardProjection, DynMatMut, DynMatRef, Error, Forward, ForwardPlan,
    ForwardProjection, ForwardRecord, Lora, LoraGradients, MatMut, MatRef, Problem, Role, Saved,
};

use crate::common::device::gpu;

const K: usize = 64;
const N: usize = 48;
const R: usize = 8;

/// Matrices of one layer, with numbers that differ.
struct Memory {
    x: CudaSlice<bf16>,
    weight: CudaSlice<bf16>,
    a: CudaSlice<bf16>,
    b: CudaSlice<bf16>,
    y: CudaSlice<bf16>,
    dy: CudaSlice<bf16>,
    dx: CudaSlice<bf16>,
    d_a: CudaSlice<bf16>,
    d_b: CudaSlice<bf16>,
}

fn filled(elements: usize) -> CudaSlice<bf16> {
    let values: Vec<bf16> = (0..elements)
        .map(|i| bf16::from_f32(((i * 37 + 11) % 101) as f32 / 64.0 - 0.75))
        .collect();
    gpu().stream.clone_htod(&values).expect("device memory")
}

fn read<T: DeviceElement>(slice: &CudaSlice<T>) -> Vec<T> {
    gpu().stream.clone_dtoh(slice).expect("readable")
}

impl Memory {
    fn new(tokens: usize) -> Self {
        // cudarc can't allocate nothing.
        let rows = tokens.max(1);
        Self {
            x: filled(rows * K),
            weight: filled(N * K),
            a: filled(R * K),
            b: filled(N * R),
            y: filled(rows * N),
            dy: filled(rows * N),
            dx: filled(rows * K),
            d_a: filled(R * K),
            d_b: filled(N * R),
        }
    }

    fn forward(
        &mut self,
        problem: &Problem,
        saved: Saved<CudaViewMut<'_, u8>>,
    ) -> Result<ForwardRecord, Error> {
        let plan = ForwardPlan::new(problem, gpu().kernels.props())?;
        self.forward_planned(&plan, saved)
    }

    fn forward_planned(
        &mut self,
        plan: &ForwardPlan,
        saved: Saved<CudaViewMut<'_, u8>>,
    ) -> Result<ForwardRecord, Error> {
        let tokens = plan.problem().tokens();
        let mut workspace = memory(plan.workspace_bytes());
        let lora = Lora {
            a: MatRef::new(self.a.as_view(), R, K),
            b: MatRef::new(self.b.as_view(), N, R),
            scaling: 2.0,
        };
        let projection = ForwardProjection {
            weight: MatRef::new(self.weight.as_view(), N, K),
            bias: None,
            lora: Some(lora),
            y: MatMut::new(self.y.slice_mut(..tokens * N), tokens, N),
        };
        let args = Forward {
            x: MatRef::new(self.x.slice(..tokens * K), tokens, K),
            projections: vec![projection],
            dropout: dropout(plan.problem()),
            saved,
            workspace: workspace.as_mut().map(CudaSlice::as_view_mut),
            rows: None,
            flags: None,
        };
        gpu().kernels.forward(&gpu().stream, plan, args)
    }

    fn backward(
        &mut self,
        problem: &Problem,
        saved: Saved<CudaView<'_, u8>>,
        record: ForwardRecord,
    ) -> Result<(), Error> {
        let plan = BackwardPlan::new(problem, gpu().kernels.props())?;
        let tokens = problem.tokens();
        let mut workspace = memory(plan.workspace_bytes());
        let projection = BackwardProjection {
            dy: MatRef::new(self.dy.slice(..tokens * N), tokens, N),
            weight: MatRef::new(self.weight.as_view(), N, K),
            lora: Some(Lora {
                a: MatRef::new(self.a.as_view(), R, K),
                b: MatRef::new(self.b.as_view(), N, R),
                scaling: 2.0,
            }),
            gradients: Some(LoraGradients {
                a: MatMut::new(self.d_a.as_view_mut(), R, K),
                b: MatMut::new(self.d_b.as_view_mut(), N, R),
            }),
        };
        let args = Backward {
            x: MatRef::new(self.x.slice(..tokens * K), tokens, K),
            projections: vec![projection],
            dropout: dropout(problem),
            saved,
            record,
            dx: Some(MatMut::new(self.dx.slice_mut(..tokens * K), tokens, K)),
            workspace: workspace.as_mut().map(CudaSlice::as_view_mut),
            rows: None,
        };
        gpu().kernels.backward(&gpu().stream, &plan, args)
    }
}

fn memory(bytes: usize) -> Option<CudaSlice<u8>> {
    (bytes > 0).then(|| gpu().stream.alloc_zeros(bytes).expect("device memory"))
}

fn dropout(problem: &Problem) -> Option<Dropout> {
    problem.has_dropout().then_some(Dropout {
        p: 0.25,
        seed: 3,
        offset: 1,
    })
}

fn problem(tokens: usize) -> Problem {
    Problem::new(tokens, K, N, R, DType::BF16).expect("a problem")
}

#[test]
fn without_tokens_y_is_empty_and_gradients_are_zero_or_stay() {
    for (dropped, accumulate) in [(false, false), (true, false), (false, true)] {
        let problem = problem(0)
            .with_dropout(dropped)
            .with_accumulate(Role::DLoraA, accumulate)
            .and_then(|problem| problem.with_accumulate(Role::DLoraB, accumulate))
            .expect("a problem");
        let mut memory = Memory::new(0);
        let before = [&memory.y, &memory.dx, &memory.d_a, &memory.d_b].map(read);
        let record = memory.forward(&problem, Saved::Empty).expect("a forward");
        memory
            .backward(&problem, Saved::Empty, record)
            .expect("a backward");
        let after = [&memory.y, &memory.dx, &memory.d_a, &memory.d_b].map(read);
        assert_eq!(before[..2], after[..2], "there is no row to write to");
        for (before, after) in before[2..].iter().zip(&after[2..]) {
            if accumulate {
                assert_eq!(before, after);
            } else {
                assert!(after.iter().all(|&value| value == bf16::ZERO));
            }
        }
    }
}

#[test]
fn a_plan_for_another_device_is_refused_before_anything_is_launched() {
    let problem = problem(20);
    let props = gpu().kernels.props();
    let (major, minor) = props.compute_capability();
    let sizes = (props.shared_per_block(), props.shared_per_multiprocessor());
    let (count, l2) = (props.multiprocessors(), props.l2_bytes());
    for other in [
        DeviceProps::new((major, minor + 1), count, sizes.0, sizes.1, l2),
        DeviceProps::new((major, minor), count + 1, sizes.0, sizes.1, l2),
        DeviceProps::new((major, minor), count, sizes.0 - 1024, sizes.1, l2),
        DeviceProps::new((major, minor), count, sizes.0, sizes.1 + 1024, l2),
        DeviceProps::new((major, minor), count, sizes.0, sizes.1, l2 + 1024),
    ] {
        let plan = ForwardPlan::new(&problem, &other).expect("a plan");
        let mut memory = Memory::new(20);
        let before = read(&memory.y);
        let mut saved = gpu()
            .stream
            .alloc_zeros::<u8>(plan.saved().bytes())
            .expect("memory");
        let error = memory
            .forward_planned(&plan, saved.as_view_mut().into())
            .expect_err("refused");
        assert!(matches!(error, Error::OtherDevice { .. }), "{error}");
        let text = error.to_string();
        for named in [other, *props] {
            assert!(text.contains(&named.to_string()), "{text}");
        }
        assert_eq!(before, read(&memory.y));
        assert!(read(&saved).iter().all(|&byte| byte == 0));
    }
    // A part of the device is no other one, and neither is the device without its tensor maps.
    let part = props.with_multiprocessors(count.div_ceil(2));
    for same in [part, props.without_tensor_maps()] {
        let plan = ForwardPlan::new(&problem, &same).expect("a plan");
        let mut saved = gpu()
            .stream
            .alloc_zeros::<u8>(plan.saved().bytes())
            .expect("memory");
        let mut memory = Memory::new(20);
        memory
            .forward_planned(&plan, saved.as_view_mut().into())
            .expect("a forward");
    }
}

#[test]
fn s_and_the_mask_may_be_two_tensors() {
    let problem = problem(20).with_dropout(true);
    let layout = *ForwardPlan::new(&problem, gpu().kernels.props())
        .expect("a plan")
        .saved();
    let mask_region = layout.mask.expect("a stored mask");
    let stream = &gpu().stream;

    let mut whole = Memory::new(20);
    let mut saved = stream.alloc_zeros::<u8>(layout.bytes()).expect("memory");
    let record = whole
        .forward(&problem, saved.as_view_mut().into())
        .expect("a forward");
    whole
        .backward(&problem, saved.as_view().into(), record)
        .expect("a backward");

    let mut parts = Memory::new(20);
    let mut s = stream.alloc_zeros::<u8>(layout.s.bytes).expect("memory");
    let mut mask = stream.alloc_zeros::<u8>(mask_region.bytes).expect("memory");
    let split = Saved::Split {
        s: s.as_view_mut(),
        mask: Some(mask.as_view_mut()),
    };
    let record = parts.forward(&problem, split).expect("a forward");
    let bytes = read(&saved);
    assert_eq!(bytes[layout.s.offset..][..layout.s.bytes], read(&s)[..]);
    assert_eq!(
        bytes[mask_region.offset..][..mask_region.bytes],
        read(&mask)[..]
    );
    let split = Saved::Split {
        s: s.as_view(),
        mask: Some(mask.as_view()),
    };
    parts.backward(&problem, split, record).expect("a backward");
    for (one, other) in [
        (&whole.y, &parts.y),
        (&whole.dx, &parts.dx),
        (&whole.d_a, &parts.d_a),
        (&whole.d_b, &parts.d_b),
    ] {
        assert_eq!(read(one), read(other));
    }
}

#[test]
fn types_may_be_known_at_run_time_only() {
    let problem = problem(20);
    let plan = ForwardPlan::new(&problem, gpu().kernels.props()).expect("a plan");
    let stream = &gpu().stream;
    let mut typed = Memory::new(20);
    let mut saved = stream
        .alloc_zeros::<u8>(plan.saved().bytes())
        .expect("memory");
    typed
        .forward(&problem, saved.as_view_mut().into())
        .expect("a forward");

    let bytes = |slice: &CudaSlice<bf16>| {
        let values = read(slice);
        stream
            .clone_htod(bytemuck::cast_slice::<_, u8>(&values))
            .expect("device memory")
    };
    let (x, weight, a, b) = (
        bytes(&typed.x),
        bytes(&typed.weight),
        bytes(&typed.a),
        bytes(&typed.b),
    );
    let mut run = |dtype: DType| {
        let mut y = stream.alloc_zeros::<u8>(20 * N * 2).expect("device memory");
        let mut workspace = memory(plan.workspace_bytes());
        let projection = DynForwardProjection {
            weight: DynMatRef::new(weight.as_view(), DType::BF16, N, K),
            bias: None,
            lora: Some(lora_kernels::bind::Lora {
                a: DynMatRef::new(a.as_view(), DType::BF16, R, K),
                b: DynMatRef::new(b.as_view(), DType::BF16, N, R),
                scaling: 2.0,
            }),
            y: DynMatMut::new(y.as_view_mut(), dtype, 20, N),
        };
        let args = DynForward {
            x: DynMatRef::new(x.as_view(), DType::BF16, 20, K),
            projections: vec![projection],
            dropout: None,
            saved: saved.as_view_mut().into(),
            workspace: workspace.as_mut().map(CudaSlice::as_view_mut),
            rows: None,
            flags: None,
        };
        gpu().kernels.forward(stream, &plan, args).map(|_| read(&y))
    };
    let y = run(DType::BF16).expect("a forward");
    assert_eq!(bytemuck::cast_slice::<_, u8>(&read(&typed.y)), y);
    let error = run(DType::F16).expect_err("another type");
    assert!(matches!(error, Error::PlannedDType { .. }), "{error}");
    assert_eq!(error.to_string(), "y is f16, the plan was made for bf16");
}
