//! Plans for compute capability 9.0: where kernels with TMA and `wgmma` run, and how.

use lora_kernels::plan::{Arch, Launch, LaunchAttribute};
use lora_kernels::{
    BackwardPlan, DType, DeviceProps, ForwardPlan, Layout, Problem, Projection, Role, WeightLayout,
};
use proptest::prelude::*;

fn hoppers() -> [DeviceProps; 4] {
    [
        DeviceProps::h100(),
        DeviceProps::h100_pcie(),
        DeviceProps::h200(),
        DeviceProps::gh200(),
    ]
}

fn problem(tokens: usize, in_features: usize, out_features: usize) -> Problem {
    Problem::new(tokens, in_features, out_features, 16, DType::BF16).unwrap()
}

/// The GEMMs of forward and backward.
fn gemms(problem: &Problem, device: &DeviceProps) -> [Launch; 2] {
    let forward = ForwardPlan::new(problem, device).unwrap();
    let backward = BackwardPlan::new(problem, device).unwrap();
    let last = |launches: &[Launch]| launches.last().unwrap().clone();
    [last(forward.launches()), last(backward.launches())]
}

#[test]
fn large_products_run_in_clusters() {
    for device in hoppers() {
        let problem = problem(8192, 4096, 4096);
        let [forward, grad_x] = gemms(&problem, &device);
        for launch in [&forward, &grad_x] {
            assert_eq!(launch.variant.arch, Arch::Sm90a, "{launch}");
            assert_eq!(launch.variant.block(), (128, 256), "{launch}");
            let cluster = LaunchAttribute::Cluster { blocks: 2 };
            assert!(launch.attributes().any(|attribute| attribute == cluster));
            let schedule = launch.schedule.unwrap();
            assert_eq!((schedule.cluster, schedule.splits), (2, 1), "{launch}");
            assert!(schedule.serpentine && schedule.wave_efficiency() > 0.96);
            // The blocks that sum dA are whole clusters too.
            assert_eq!((schedule.blocks % 2, launch.blocks % 2), (0, 0), "{launch}");
        }
        // Its shrink lets the forward start early; what goes before dx does not.
        assert!(forward.programmatic && !grad_x.programmatic);
        let plan = ForwardPlan::new(&problem, &device).unwrap();
        assert_eq!(plan.launches()[0].variant.arch, Arch::Sm90a);
    }
}

/// The emulated GPU's traffic model finds square turns best: 64 pairs, eight by eight.
#[test]
fn pairs_of_blocks_run_in_square_turns() {
    let [forward, _] = gemms(&problem(8192, 4096, 4096), &DeviceProps::h100());
    let schedule = forward.schedule.unwrap();
    assert_eq!((schedule.blocks, schedule.group_n), (128, 8), "{schedule}");
}

/// A pair computes two tile rows, so an odd last one costs as much as two.
#[test]
fn an_odd_last_tile_row_counts_twice() {
    let [forward, _] = gemms(&problem(65 * 128, 4096, 4096), &DeviceProps::h100());
    let schedule = forward.schedule.unwrap();
    assert_eq!((schedule.tiles_m, schedule.cluster), (65, 2), "{schedule}");
    assert_eq!((schedule.tiles(), schedule.items()), (65 * 16, 66 * 16));
    // Three tile rows in two waves would become four in two waves and a bit.
    let [forward, _] = gemms(&problem(3 * 128, 4096, 88 * 256), &DeviceProps::h100());
    let schedule = forward.schedule.unwrap();
    assert_eq!((schedule.tiles_m, schedule.cluster), (3, 1), "{schedule}");
}

/// A second wave is what clusters need, and too few tiles for one is what splits are for.
#[test]
fn few_tokens_take_smaller_tiles_and_splits() {
    for device in hoppers() {
        for tokens in [65, 128, 192, 256] {
            let launches = gemms(&problem(tokens, 4096, 4096), &device);
            for launch in &launches {
                assert_eq!(launch.variant.arch, Arch::Sm90a, "{tokens}: {launch}");
                let schedule = launch.schedule.unwrap();
                assert!(schedule.splits > 1 && schedule.cluster == 1, "{launch}");
                assert!(10 * schedule.blocks > 8 * device.multiprocessors());
            }
        }
    }
}

/// What tensor maps can't describe is computed by the older kernels, and the plan says why.
#[test]
fn a_plan_names_what_tensor_maps_cannot_take() {
    let base = || problem(4096, 1024, 1024);
    let layout = |row_stride, alignment| Layout {
        row_stride,
        alignment,
    };
    let with = |role, layout| base().with_layout(role, layout).unwrap();
    let fp32 = Problem::new(4096, 1024, 1024, 16, DType::F32).unwrap();
    let far = layout(1 << 39, 16);
    // Which GEMM falls back: the forward, dx.
    let cases = [
        (fp32, [true, true], "wgmma has no f32"),
        (with(Role::X, layout(1024, 8)), [true, false], "rows of x"),
        (
            with(Role::DY, layout(1028, 16)),
            [false, true],
            "rows of dy",
        ),
        (
            with(Role::Weight, layout(1024, 2)),
            [true, true],
            "rows of weight",
        ),
        (with(Role::X, far), [true, false], "2^40 bytes or more"),
        // GPT-2's head: dy has rows off 16 bytes, and so has y, which plain stores can write.
        (problem(4096, 768, 50257), [false, true], "rows of dy"),
        (problem(4096, 1020, 1024), [true, true], "off 16 bytes"),
    ];
    for (problem, falls_back, why) in cases {
        let launches = gemms(&problem, &DeviceProps::h100());
        for (launch, falls_back) in launches.iter().zip(falls_back) {
            let expected = match falls_back {
                true => Arch::Sm80,
                false => Arch::Sm90a,
            };
            assert_eq!(launch.variant.arch, expected, "{problem}: {launch}");
            let (reason, why_not) = (&launch.reason, "no tensor maps, since ");
            let says = reason.contains(why_not) && reason.contains(why);
            assert_eq!(says, falls_back, "{problem}: {launch}");
            assert!(!falls_back || launch.attributes().count() == 0, "{launch}");
        }
    }
}

/// A matrix that no kernel of 8.0 copies in vectors may still have a tensor map: rows are at 16
/// bytes and end anywhere, or lie far apart.
#[test]
fn tensor_maps_take_rows_that_vectors_cannot() {
    let layout = |row_stride| Layout {
        row_stride,
        alignment: 16,
    };
    let far = problem(4096, 1024, 1024)
        .with_layout(Role::X, layout(1 << 30))
        .unwrap();
    let odd_ends = problem(4096, 1024, 1020)
        .with_weight_layout(WeightLayout::InOut)
        .with_layout(Role::Weight, layout(1024))
        .unwrap();
    for problem in [far, odd_ends] {
        let [forward, _] = gemms(&problem, &DeviceProps::h100());
        assert_eq!(forward.variant.arch, Arch::Sm90a, "{forward}");
        assert!(forward.reason.ends_with("tensor maps"), "{forward}");
    }
}

#[test]
fn a_driver_without_tensor_maps_gets_the_older_kernels() {
    let device = DeviceProps::h100().without_tensor_maps();
    for launch in gemms(&problem(8192, 4096, 4096), &device) {
        assert_eq!(launch.variant.arch, Arch::Sm80);
        assert!(
            launch.reason.contains("the driver encodes none"),
            "{launch}"
        );
    }
}

/// Adapters that no tensor map describes are copied to the workspace by blocks of an earlier
/// launch.
#[test]
fn adapters_off_16_bytes_are_copied_first() {
    let device = DeviceProps::h100();
    let blocks = |problem: &Problem| {
        let forward = ForwardPlan::new(problem, &device).unwrap();
        let backward = BackwardPlan::new(problem, &device).unwrap();
        let bytes = [forward.workspace_bytes(), backward.workspace_bytes()];
        let launches = [
            forward.launches()[0].clone(),
            backward.launches()[0].clone(),
        ];
        (bytes, launches)
    };
    let base = |rank| Problem::new(8192, 4096, 4096, rank, DType::BF16).unwrap();
    let (bytes, launches) = blocks(&base(16));
    let f32_adapters = base(16).with_adapter_dtype(DType::F32).unwrap();
    let (more_bytes, more_launches) = blocks(&f32_adapters);
    for i in 0..2 {
        // 16 · 4096 elements of 16 bits.
        assert_eq!(more_bytes[i] - bytes[i], 16 * 4096 * 2);
        assert!(more_launches[i].blocks > launches[i].blocks);
        let tensor = ["lora_B", "lora_A"][i];
        let says = format!("blocks copy {tensor} for tensor maps");
        assert!(
            more_launches[i].reason.contains(&says),
            "{}",
            more_launches[i]
        );
        assert!(!launches[i].reason.contains("copy lora"), "{}", launches[i]);
    }
    // The rows of lora_B (n, 12) have 24 bytes, those of lora_A have as many as x.
    let (_, [shrink, grad_b]) = blocks(&base(12));
    assert!(shrink.reason.contains("copy lora_B"), "{shrink}");
    assert!(!grad_b.reason.contains("copy lora"), "{grad_b}");
}

fn problems() -> impl Strategy<Value = Problem> {
    let size = prop_oneof![
        1..9000usize,
        Just(4096),
        Just(896),
        Just(11008),
        Just(50257)
    ];
    let projection = (size.clone(), 1..80usize);
    let projections = proptest::collection::vec(projection, 1..4);
    let tokens = prop_oneof![1..300usize, 1..20_000usize];
    (tokens, size, projections, any::<bool>()).prop_map(|(tokens, k, projections, f16)| {
        let projections: Vec<_> = projections
            .into_iter()
            .map(|(out_features, rank)| Projection { out_features, rank })
            .collect();
        let dtype = if f16 { DType::F16 } else { DType::BF16 };
        Problem::sharing_x(tokens, k, &projections, dtype).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What the kernels rely on, for any problem.
    #[test]
    fn clusters_are_whole_and_never_split(problem in problems(), device in 0..4usize) {
        let device = hoppers()[device];
        for launch in gemms(&problem, &device) {
            let schedule = launch.schedule.unwrap();
            prop_assert_eq!(launch.cluster, schedule.cluster);
            prop_assert_eq!(launch.blocks % launch.cluster, 0);
            prop_assert_eq!(schedule.blocks % launch.cluster, 0);
            prop_assert!(u64::from(schedule.blocks) <= schedule.items());
            if launch.cluster > 1 {
                prop_assert_eq!(launch.variant.arch, Arch::Sm90a);
                prop_assert_eq!(schedule.splits, 1);
                prop_assert!(schedule.items() > u64::from(device.multiprocessors()));
                prop_assert!(schedule.blocks <= device.multiprocessors());
            }
        }
    }
}
