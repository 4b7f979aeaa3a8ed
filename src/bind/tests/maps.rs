//! Tensor maps: of which matrix, and of which boxes of it.

use bytemuck::Zeroable;

use super::*;
use crate::bind::Swizzle;
use crate::bind::maps::{Boxed, Maps};
use crate::bind::params::{ForwardSm90Params, GradXSm90Params};
use crate::plan::{Arch, Launch, Tile};
use crate::{Layout, WeightLayout};

/// The map of a matrix of 16-bit elements.
fn map(
    address: DevicePointer,
    (rows, columns): (usize, usize),
    row_stride: usize,
    box_rows: usize,
) -> TensorMap {
    let matrix = BoxedMatrix {
        address,
        dtype: DType::BF16,
        rows: rows as u64,
        columns: columns as u64,
        row_stride: row_stride as u64,
        box_rows: box_rows as u32,
        box_columns: 64,
        swizzle: Swizzle::Bytes128,
    };
    encode(&matrix).expect("a map")
}

/// Makes no map.
fn refuse(matrix: &BoxedMatrix) -> Result<TensorMap> {
    Err(Error::TensorMap {
        what: "address",
        given: matrix.address,
        allowed: "none",
    })
}

const TOKENS: usize = 4096;
const IN_FEATURES: usize = 4096;
const RANKS: usize = 16 + 32;

fn hopper_forward(problem: &Problem) -> (ForwardPlan, ShrinkParams, ForwardSm90Params, Tile) {
    let plan = ForwardPlan::new(problem, &DeviceProps::h100()).expect("a plan");
    let projections = forward_projections(problem);
    let (launched, _) = run_forward(&plan, &forward_args(problem, &projections)).expect("bound");
    let variant = plan.launches()[1].variant;
    assert_eq!(variant.arch, Arch::Sm90a, "{plan}");
    let (shrink, gemm) = (read(&launched[0]), read(&launched[1]));
    (plan, shrink, gemm, variant.tile)
}

fn hopper_backward(problem: &Problem) -> (BackwardPlan, GradBParams, GradXSm90Params, Tile) {
    let plan = BackwardPlan::new(problem, &DeviceProps::h100()).expect("a plan");
    let projections = backward_projections(problem);
    let launched = run_backward(&plan, &backward_args(problem, &projections)).expect("bound");
    let variant = plan.launches()[2].variant;
    assert_eq!(variant.arch, Arch::Sm90a, "{plan}");
    let (grad_b, grad_x) = (read(&launched[0]), read(&launched[2]));
    (plan, grad_b, grad_x, variant.tile)
}

#[test]
fn a_forward_maps_every_operand_in_its_boxes() {
    for weights in [WeightLayout::OutIn, WeightLayout::InOut] {
        let problem = problem(TOKENS).with_bias(true).with_weight_layout(weights);
        let (_, _, gemm, tile) = hopper_forward(&problem);
        assert_eq!(
            gemm.x,
            map(X, (TOKENS, IN_FEATURES), IN_FEATURES, tile.rows)
        );
        assert_eq!(gemm.s, map(SAVED, (TOKENS, RANKS), RANKS, tile.rows));
        assert_eq!((gemm.m, gemm.k), (TOKENS as i32, IN_FEATURES as i32));
        let mut first_tile = 0;
        for (index, planned) in problem.projections().iter().enumerate() {
            let (given, n) = (&gemm.projection[index], planned.out_features);
            let weight = at(index, Role::Weight);
            let of_weight = match weights {
                WeightLayout::OutIn => map(weight, (n, IN_FEATURES), IN_FEATURES, tile.columns / 2),
                WeightLayout::InOut => map(weight, (IN_FEATURES, n), n, 64),
            };
            assert_eq!(given.weight, of_weight, "{index}");
            assert_eq!(given.y, map(at(index, Role::Y), (TOKENS, n), n, 64));
            assert_eq!(
                (given.output_mapped, given.bias),
                (1, at(index, Role::Bias))
            );
            assert_eq!((given.n, given.first_tile), (n as i32, first_tile));
            first_tile += n.div_ceil(tile.columns) as i32;
            let rank = planned.rank;
            assert_eq!(given.r, rank as i32);
            if rank > 0 {
                let of_b = map(at(index, Role::LoraB), (n, rank), rank, tile.columns / 2);
                assert_eq!(given.lora_b, of_b);
                assert_eq!(given.rank0, problem.rank_offset(index) as i32);
                let scaling = 2.0 + index as f32;
                let exact = scaling.log2().fract() == 0.0;
                let inverse = if exact { 1.0 / scaling } else { 0.0 };
                assert_eq!((given.scaling, given.inverse_scaling), (scaling, inverse));
            } else {
                assert_eq!(given.lora_b, TensorMap::zeroed());
                assert_eq!((given.scaling, given.inverse_scaling), (1.0, 1.0));
            }
        }
        assert_eq!(gemm.projections, 3);
        assert_eq!(gemm.projection[3].weight, TensorMap::zeroed());
    }
}

#[test]
fn a_backward_maps_every_operand_in_its_boxes() {
    for weights in [WeightLayout::OutIn, WeightLayout::InOut] {
        let problem = problem(TOKENS)
            .with_dropout(true)
            .with_weight_layout(weights);
        let (plan, _, grad_x, tile) = hopper_backward(&problem);
        let t = WORKSPACE + plan.regions.t.expect("T").offset as u64;
        assert_eq!(grad_x.t, map(t, (TOKENS, RANKS), RANKS, tile.rows));
        assert_eq!(grad_x.dx, map(DX, (TOKENS, IN_FEATURES), IN_FEATURES, 64));
        assert_eq!((grad_x.output_mapped, grad_x.dx_data), (1, DX));
        assert_eq!((grad_x.projections, grad_x.ranks), (3, RANKS as i32));
        for (index, planned) in problem.projections().iter().enumerate() {
            let (maps, size) = (&grad_x.projection[index], grad_x.size[index]);
            let n = planned.out_features;
            let dy = map(at(index, Role::DY), (TOKENS, n), n, tile.rows);
            assert_eq!((maps.dy, size.n), (dy, n as i32));
            let weight = at(index, Role::Weight);
            let of_weight = match weights {
                WeightLayout::OutIn => map(weight, (n, IN_FEATURES), IN_FEATURES, 64),
                WeightLayout::InOut => map(weight, (IN_FEATURES, n), n, tile.columns / 2),
            };
            assert_eq!(maps.weight, of_weight, "{index}");
            let rank = planned.rank;
            let of_a = match rank {
                0 => TensorMap::zeroed(),
                _ => map(at(index, Role::LoraA), (rank, IN_FEATURES), IN_FEATURES, 16),
            };
            assert_eq!((maps.lora_a, size.r), (of_a, rank as i32));
        }
        let job = grad_x.reduce_a.job[1];
        assert_eq!(job.out, at(2, Role::DLoraA));
    }
}

#[test]
fn views_are_mapped_with_their_own_strides() {
    let strided = |row_stride| Layout {
        row_stride,
        alignment: 16,
    };
    let problem = problem(TOKENS)
        .with_layout(Role::X, strided(3 * IN_FEATURES as i64))
        .and_then(|problem| problem.with_layout_of(1, Role::Weight, strided(4104)))
        .and_then(|problem| problem.with_layout_of(2, Role::LoraB, strided(40)))
        .and_then(|problem| problem.with_layout_of(2, Role::Y, strided(72)))
        .expect("a problem");
    let (_, _, gemm, tile) = hopper_forward(&problem);
    let (half, shape) = (tile.columns / 2, (64, IN_FEATURES));
    assert_eq!(
        gemm.x,
        map(X, (TOKENS, IN_FEATURES), 3 * IN_FEATURES, tile.rows)
    );
    let [_, second, third, ..] = gemm.projection;
    assert_eq!(second.weight, map(at(1, Role::Weight), shape, 4104, half));
    assert_eq!(third.lora_b, map(at(2, Role::LoraB), (64, 24), 40, half));
    assert_eq!(third.y, map(at(2, Role::Y), (TOKENS, 64), 72, 64));
    assert_eq!(third.y_stride, 72);
}

#[test]
fn outputs_that_no_map_takes_are_written_through_their_address() {
    let layout = |row_stride, alignment| Layout {
        row_stride,
        alignment,
    };
    for (columns, layout, mapped) in [
        (64, layout(64, 16), 1),
        // Rows, or only their ends, off 16 bytes
        (4, layout(4, 16), 0),
        (4, layout(8, 16), 0),
        (64, layout(65, 16), 0),
        (64, layout(64, 8), 0),
        // The largest distance of rows is below 2⁴⁰ bytes.
        (64, layout((1 << 39) - 8, 16), 1),
        (64, layout(1 << 39, 16), 0),
    ] {
        let projections = [columns, 4096].map(|out_features| Projection {
            out_features,
            rank: 8,
        });
        let problem = Problem::sharing_x(TOKENS, IN_FEATURES, &projections, DType::BF16)
            .and_then(|problem| problem.with_layout_of(0, Role::Y, layout))
            .and_then(|problem| problem.with_accumulate(Role::Y, true))
            .expect("a problem");
        let (_, _, gemm, _) = hopper_forward(&problem);
        let [narrow, wide, ..] = gemm.projection;
        assert_eq!(narrow.output_mapped, mapped, "{layout:?}");
        assert_eq!(narrow.y == TensorMap::zeroed(), mapped == 0);
        assert_eq!(narrow.y_data, at(0, Role::Y));
        assert_eq!(narrow.y_stride, layout.row_stride);
        assert_eq!((wide.output_mapped, gemm.accumulate), (1, 1));
    }
}

#[test]
fn a_single_row_may_have_any_stride() {
    let layout = Layout {
        row_stride: 905,
        alignment: 16,
    };
    let problem = Problem::new(1, 901, 4096, 8, DType::BF16)
        .and_then(|problem| problem.with_layout(Role::X, layout))
        .expect("a problem");
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let maps = Maps {
        problem: &problem,
        tile: plan.launches()[1].variant.tile,
        encode,
    };
    let rows = maps.tile.rows;
    let of_x = maps.tensor((0, Role::X), X, Boxed::Rows).expect("a map");
    assert_eq!(of_x, map(X, (1, 901), 904, rows));
}

#[test]
fn adapters_that_no_map_takes_are_packed_by_the_launch_before() {
    // Of the forward, a rank off 8; of both, f32.
    let f32_adapters = problem(TOKENS).with_adapter_dtype(DType::F32);
    let layer = |out_features, rank| Projection { out_features, rank };
    let projections = [layer(256, 0), layer(64, 3), layer(64, 24)];
    let odd_rank = Problem::sharing_x(TOKENS, IN_FEATURES, &projections, DType::BF16);
    for (problem, copied, from_f32) in [
        (f32_adapters.expect("a problem"), &[1, 2][..], 1),
        (odd_rank.expect("a problem"), &[1], 0),
    ] {
        let (plan, shrink, gemm, tile) = hopper_forward(&problem);
        let pack = shrink.pack_b;
        assert_eq!((pack.jobs, pack.from_f32), (copied.len() as i32, from_f32));
        assert_eq!(pack.blocks, plan.packing.blocks() as i32);
        for (job, &index) in pack.job.iter().zip(copied) {
            let Projection { out_features, rank } = problem.projections()[index];
            let stride = rank.next_multiple_of(8);
            assert_eq!(
                (job.from, job.from_stride),
                (at(index, Role::LoraB), rank as i64)
            );
            assert_eq!((job.rows, job.columns), (out_features as i32, rank as i32));
            assert_eq!(job.to_stride, stride as i64);
            assert!(job.to >= WORKSPACE && job.to.is_multiple_of(16));
            // What the shrink packs is what the GEMM reads.
            let of_b = map(job.to, (out_features, rank), stride, tile.columns / 2);
            assert_eq!(gemm.projection[index].lora_b, of_b);
        }
        let blocks = pack.job.iter().zip(plan.packing.matrices());
        let first = blocks.scan(0, |next, (job, matrix)| {
            let expected = *next;
            *next += matrix.blocks as i32;
            Some((job.first_block, expected))
        });
        first.for_each(|(given, expected)| assert_eq!(given, expected));
        if !copied.contains(&2) {
            let of_b = map(at(2, Role::LoraB), (64, 24), 24, tile.columns / 2);
            assert_eq!(gemm.projection[2].lora_b, of_b);
        }

        let (_, grad_b, grad_x, _) = hopper_backward(&problem);
        let pack = grad_b.pack_a;
        // Rows of lora_A are as long as those of x, whatever the rank.
        assert_eq!(pack.jobs, 2 * from_f32);
        for (job, index) in pack.job[..pack.jobs as usize].iter().zip([1, 2]) {
            let rank = problem.projections()[index].rank;
            assert_eq!(job.from, at(index, Role::LoraA));
            let of_a = map(job.to, (rank, IN_FEATURES), IN_FEATURES, 16);
            assert_eq!(grad_x.projection[index].lora_a, of_a);
        }
    }
}

#[test]
fn scalings_whose_inverse_could_round_or_overflow_let_the_low_rank_step_come_first() {
    for (scaling, inverse) in [
        (1.0, 1.0),
        (-4.0, -0.25),
        (3.0, 0.0),
        (1000.0, 0.0),
        ((1 << 20) as f32, 1.0 / (1 << 20) as f32),
        ((1 << 21) as f32, 0.0),
        (0.0, 0.0),
        (f32::MIN_POSITIVE, 0.0),
    ] {
        let problem = Problem::new(TOKENS, 4096, 4096, 16, DType::BF16).expect("a problem");
        let plan = ForwardPlan::new(&problem, &DeviceProps::h100()).expect("a plan");
        let mut projections = forward_projections(&problem);
        projections[0].lora.as_mut().expect("adapted").scaling = scaling;
        let args = forward_args(&problem, &projections);
        let (launched, _) = run_forward(&plan, &args).expect("bound");
        let gemm: ForwardSm90Params = read(&launched[1]);
        let given = gemm.projection[0];
        assert_eq!((given.scaling, given.inverse_scaling), (scaling, inverse));
    }
}

#[test]
fn nothing_is_launched_if_a_map_is_refused() {
    fn launch(_: &Launch, _: &[u8]) -> Result<()> {
        panic!("nothing may be launched")
    }
    let problem = problem(TOKENS);
    let plan = ForwardPlan::new(&problem, &DeviceProps::h100()).expect("a plan");
    let projections = forward_projections(&problem);
    let refused = forward(&plan, &forward_args(&problem, &projections), refuse, launch);
    assert!(matches!(refused, Err(Error::TensorMap { .. })));
    let plan = BackwardPlan::new(&problem, &DeviceProps::h100()).expect("a plan");
    let projections = backward_projections(&problem);
    let refused = backward(
        &plan,
        &backward_args(&problem, &projections),
        refuse,
        launch,
    );
    assert!(matches!(refused, Err(Error::TensorMap { .. })));
}

#[test]
fn what_multiplies_nothing_needs_no_maps() {
    let device = DeviceProps::h100();
    let without_dx = problem(TOKENS).with_input_gradient(false);
    for problem in [without_dx, problem(0)] {
        let tokens = problem.tokens();
        let plan = BackwardPlan::new(&problem, &device).expect("a plan");
        let projections = backward_projections(&problem);
        let mut launched = 0;
        let bound = backward(
            &plan,
            &backward_args(&problem, &projections),
            refuse,
            |_, _| {
                launched += 1;
                Ok(())
            },
        );
        bound.expect("no map is made");
        assert_eq!(launched, if tokens == 0 { 2 } else { 3 });
    }
    let problem = problem(0);
    let plan = ForwardPlan::new(&problem, &device).expect("a plan");
    let projections = forward_projections(&problem);
    let args = forward_args(&problem, &projections);
    forward(&plan, &args, refuse, |_, _| panic!("nothing to launch")).expect("no map is made");
}
