//! Counts what the kernels do on the emulated device: no bank conflicts where the shared tiles
//! promise none, whole sectors, and the matrix work that the problem needs.

use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer};
use half::{bf16, f16};
use lora_kernels::plan::Operation;
use lora_kernels::{
    DType, Lora, MatMut, MatRef, Merge, MergePlan, MergeProblem, MergeWeight, WeightLayout,
};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::{Blocks, Control, Counters, Kind, Tally};

/// Runs forward and backward and returns their counters.
fn count<T: Number>(control: Control, case: &LayerCase) -> Counters {
    let layer = TestLayer::<T>::random(case);
    control.reset().expect("counters");
    control.count(true).expect("counters");
    let forward = layer.forward();
    layer.backward(&forward.saved);
    control.count(false).expect("counters");
    control.read().expect("counters")
}

/// The sum of a counter over all kernels whose name contains `part`.
fn sum(counters: &Counters, part: &str, kind: Kind) -> Tally {
    let mut found = counters.of(part).map(|kernel| kernel.kind(kind));
    let first = found.next().unwrap_or_default();
    found.fold(first, |sum, more| Tally {
        warp_instructions: sum.warp_instructions + more.warp_instructions,
        mma_flops: sum.mma_flops + more.mma_flops,
        sectors: sum.sectors + more.sectors,
        ideal_sectors: sum.ideal_sectors + more.ideal_sectors,
        wavefronts: sum.wavefronts + more.wavefronts,
        ideal_wavefronts: sum.ideal_wavefronts + more.ideal_wavefronts,
        ..sum
    })
}

/// ldmatrix and cp.async cause no bank conflicts, and the GEMM's work and traffic follow from its
/// tiles.
fn main_loops<T: Number>(control: Control) {
    // Every tile divides these sizes: a copy of zero bytes beyond an edge would still be counted as
    // a sector.
    let (m, k, n, rank) = (256, 192, 256, 16);
    // Plans for one multiprocessor choose wide tiles, plans for a thousand choose small ones.
    let mut tiles = Vec::new();
    for multiprocessors in [1, 1000] {
        let case = LayerCase::new(m, k, n, rank).multiprocessors(multiprocessors);
        let plan = case.forward_plan::<T>();
        let mut launches = plan.launches().iter();
        let gemm = launches.find(|launch| launch.variant.operation == Operation::Forward);
        let (tile_m, tile_n) = gemm.expect("a GEMM").variant.block();
        tiles.push(tile_m);
        let counters = count::<T>(control, &case);
        assert!(
            counters.kernels.len() >= 5,
            "{} kernels",
            counters.kernels.len()
        );
        for kernel in &counters.kernels {
            for kind in [Kind::LoadMatrix, Kind::CopyAsync, Kind::LoadShared] {
                let tally = kernel.kind(kind);
                assert_eq!(tally.bank_conflicts(), 0, "{} {kind:?}", kernel.kernel);
                assert_eq!(
                    tally.sectors, tally.ideal_sectors,
                    "{} {kind:?}",
                    kernel.kernel
                );
            }
            let loads = kernel.kind(Kind::LoadGlobal);
            assert_eq!(loads.sectors, loads.ideal_sectors, "{}", kernel.kernel);
        }
        // Every tile row reads W and B, every tile column x and S.
        let (rows, columns) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
        let size = size_of::<T>();
        let read = sum(&counters, "forward", Kind::CopyAsync);
        assert_eq!(
            32 * read.sectors,
            ((columns * m + rows * n) * (k + rank) * size) as u64
        );
        let written = sum(&counters, "forward", Kind::StoreGlobal);
        assert_eq!(32 * written.ideal_sectors, (m * n * size) as u64);
        let products = sum(&counters, "forward", Kind::Mma).mma_flops;
        let work = 2 * (rows * tile_m) * (columns * tile_n) * (k + rank);
        let expected = if T::DTYPE == DType::F32 { 0 } else { work };
        assert_eq!(
            products,
            expected as u64,
            "{} {tile_m} x {tile_n}",
            T::DTYPE
        );
    }
    assert!(tiles[0] > tiles[1], "one wide, one small");
}

/// Merging reads the weight once and writes it once, in whole sectors, and multiplies without bank
/// conflicts.
fn merges<T: Number>(control: Control, layout: WeightLayout) {
    let (n, k, rank) = (256, 256, 16);
    let (stream, kernels) = (&gpu().stream, &gpu().kernels);
    let problem = MergeProblem::new(n, k, &[rank], T::DTYPE).expect("a problem");
    let problem = problem.with_weight_layout(layout);
    let plan = MergePlan::new(&problem, kernels.props()).expect("a plan");
    let zeros = |elements| stream.alloc_zeros::<T>(elements).expect("memory");
    let (mut weight, a, b) = (zeros(n * k), zeros(rank * k), zeros(n * rank));
    let args = Merge {
        weight: MergeWeight::InPlace(MatMut::new(weight.as_view_mut(), n, k)),
        adapters: vec![Lora {
            a: MatRef::new(a.as_view(), rank, k),
            b: MatRef::new(b.as_view(), n, rank),
            scaling: 2.0,
        }],
        report: None,
        workspace: None,
    };
    control.reset().expect("counters");
    control.count(true).expect("counters");
    kernels.merge(stream, &plan, args).expect("a merge");
    stream.synchronize().expect("it runs");
    control.count(false).expect("counters");
    let counters = control.read().expect("counters");
    let counted = |kind| sum(&counters, "merge", kind);
    let size = size_of::<T>();
    // Tiles have 64 rows and 128 columns. Each of the four tile rows reads the adapter matrix that
    // belongs to the columns, each of the two tile columns the other one.
    let read = (n * k + rank * (4 * k + 2 * n)) * size;
    let (loads, stores) = (counted(Kind::LoadGlobal), counted(Kind::StoreGlobal));
    assert_eq!(
        (32 * loads.sectors, loads.sectors),
        (read as u64, loads.ideal_sectors)
    );
    assert_eq!(
        (32 * stores.sectors, stores.sectors),
        ((n * k * size) as u64, stores.ideal_sectors)
    );
    assert_eq!(counted(Kind::LoadShared).bank_conflicts(), 0);
    let stores = counted(Kind::StoreShared);
    assert!(
        stores.wavefronts <= 2 * stores.ideal_wavefronts,
        "{stores:?}"
    );
}

/// The counters of a sample of equal blocks, scaled up, are those of all blocks.
fn samples<T: Number>(control: Control) {
    let case = LayerCase::new(512, 128, 1024, 16).multiprocessors(16);
    let layer = TestLayer::<T>::random(&case);
    let forward = |blocks: &Blocks| {
        control.reset().expect("counters");
        control.count(true).expect("counters");
        control.run_blocks(blocks).expect("counters");
        layer.forward();
        control.count(false).expect("counters");
        control.run_blocks(&Blocks::All).expect("counters");
        let counters = control.read().expect("counters");
        counters.of("forward").next().expect("the GEMM").clone()
    };
    let (whole, sample) = (forward(&Blocks::All), forward(&Blocks::Every(4)));
    assert_eq!(
        (whole.blocks_run, 4 * sample.blocks_run),
        (whole.blocks, whole.blocks)
    );
    for (kind, tally) in &whole.kinds {
        let part = sample.kind(*kind);
        for (all, some) in [
            (tally.warp_instructions, part.warp_instructions),
            (tally.sectors, part.sectors),
            (tally.wavefronts, part.wavefronts),
            (tally.mma_flops, part.mma_flops),
        ] {
            assert_eq!(sample.estimate(some), Some(all as f64), "{kind:?}");
        }
    }
    let nothing = forward(&Blocks::None);
    assert_eq!(
        (nothing.launches, nothing.blocks_run, nothing.total),
        (1, 0, Tally::default())
    );
}

fn counters_of_the_kernels() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("counters need the emulated device");
        return;
    };
    gpu();
    let control = Control::loaded().expect("the emulated driver");
    main_loops::<bf16>(control);
    main_loops::<f16>(control);
    main_loops::<f32>(control);
    for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
        merges::<bf16>(control, layout);
        merges::<f32>(control, layout);
    }
    samples::<bf16>(control);
}

alone!(counters_of_the_kernels);
