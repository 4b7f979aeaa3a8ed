//! Layers at the edges of Hopper's kernels. Every tile covers its whole block whatever the layer
//! fills of it, so the layers are few, and each has several of the edges.

use crate::common::case::OUTPUTS;
use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::layer::LayerCase;
use lora_kernels::Role;

/// Multiprocessors with which a layer of a few tiles has turns, and clusters where they pay.
const FEW: u32 = 2;
/// With which the same layer has small tiles, and slices of its depth.
const MANY: u32 = 1000;

/// Tails of every extent: rows and columns of a tile, columns of a store's chunk, the depth of a
/// stage, the ranks of a step and of a stage.
pub fn tails() -> Vec<LayerCase> {
    [
        (129, 72, 264, 1),
        (200, 136, 8, 8),
        (65, 64, 136, 12),
        (64, 200, 328, 16),
        (257, 40, 72, 17),
        (70, 8, 520, 24),
        (128, 128, 256, 63),
        (300, 264, 64, 64),
        (77, 192, 56, 65),
        (190, 56, 200, 136),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (m, k, n, r))| {
        let case = LayerCase::new(m, k, n, r)
            .scaling([2.0, 1.7, 1.0, -0.5][i % 4])
            .transposed(i % 3 == 1)
            .redrawn(i % 4 == 2)
            .multiprocessors(if i % 2 == 0 { FEW } else { MANY });
        if i % 3 == 2 { case } else { case.dropout(0.2) }
    })
    .collect()
}

/// What tensor maps can't describe: rows of y and dx that begin anywhere, adapters whose rows do,
/// and tensors that leave the whole product to other kernels.
pub fn unmapped() -> Vec<LayerCase> {
    let case = LayerCase::new(130, 200, 264, 20).dropout(0.3);
    let alone = [
        Role::X,
        Role::Weight,
        Role::LoraA,
        Role::LoraB,
        Role::Y,
        Role::DY,
        Role::DX,
        Role::Bias,
    ];
    let alone = alone.map(|tensor| case.clone().with_placement(tensor, OddView));
    let shared = LayerCase::sharing_x(66, 136, &[(52, 3), (264, 16), (20, 0)]);
    alone
        .into_iter()
        .chain([
            case.placed(AlignedView).multiprocessors(FEW),
            LayerCase::new(70, 136, 52, 5).dropout(0.1),
            LayerCase::new(70, 136, 51, 8).transposed(true),
            shared
                .clone()
                .with_placement_of(1, Role::Y, OddView)
                .accumulate(&OUTPUTS),
            shared
                .with_placement_of(0, Role::LoraB, OddView)
                .with_placement_of(1, Role::LoraA, AlignedView)
                .transposed(true)
                .dropout(0.2),
        ])
        .collect()
}

/// Several projections in one product of dx and beside each other in y, with ranks that share a
/// stage and ranks that fill several.
pub fn shared() -> Vec<LayerCase> {
    let qkv = LayerCase::sharing_x(150, 192, &[(320, 16), (64, 8), (64, 3)]);
    let many = LayerCase::sharing_x(
        66,
        72,
        &[
            (72, 1),
            (24, 0),
            (136, 17),
            (16, 16),
            (40, 3),
            (8, 0),
            (264, 33),
            (64, 5),
        ],
    );
    vec![
        qkv.clone().dropout(0.1).multiprocessors(FEW),
        qkv.clone().multiprocessors(MANY).transposed(true),
        qkv.accumulate(&OUTPUTS).dropout(0.3).redrawn(true),
        many.clone().dropout(0.2),
        many.accumulate(&OUTPUTS).multiprocessors(FEW),
        LayerCase::sharing_x(66, 136, &[(72, 64), (72, 72), (264, 0)]).dropout(0.1),
    ]
}

/// Few tiles with a large depth, which blocks share, and turns that go through it backwards.
pub fn split() -> Vec<LayerCase> {
    vec![
        LayerCase::new(130, 1544, 72, 24).dropout(0.2),
        LayerCase::new(70, 1032, 264, 3)
            .accumulate(&OUTPUTS)
            .transposed(true),
        LayerCase::sharing_x(66, 72, &[(800, 8), (240, 0)]).dropout(0.1),
        LayerCase::new(256, 4096, 256, 24)
            .scaling(-4.0)
            .multiprocessors(3)
            .placed(AlignedView),
        LayerCase::new(256, 256, 4096, 16)
            .multiprocessors(3)
            .dropout(0.1),
    ]
}

/// More tiles than blocks, some of whose clusters have a block without rows.
pub fn turns() -> Vec<LayerCase> {
    vec![
        LayerCase::new(650, 72, 520, 16)
            .scaling(0.25)
            .dropout(0.1)
            .multiprocessors(FEW),
        LayerCase::new(520, 136, 264, 8)
            .transposed(true)
            .multiprocessors(4),
        LayerCase::sharing_x(390, 200, &[(520, 24), (264, 0)])
            .multiprocessors(4)
            .bias(false),
        LayerCase::new(576, 128, 128, 16)
            .scaling(2.0)
            .dropout(0.2)
            .multiprocessors(FEW),
        LayerCase::new(576, 128, 128, 17)
            .transposed(true)
            .multiprocessors(FEW),
    ]
}

/// Whole tiles, so that the largest are chosen.
pub fn whole() -> Vec<LayerCase> {
    vec![
        LayerCase::new(256, 72, 512, 16)
            .scaling(2.0)
            .transposed(true)
            .multiprocessors(FEW),
        LayerCase::new(256, 512, 72, 16)
            .transposed(true)
            .dropout(0.2)
            .multiprocessors(FEW),
        LayerCase::new(512, 128, 72, 8)
            .transposed(true)
            .dropout(0.1)
            .multiprocessors(FEW),
        LayerCase::new(512, 72, 128, 8)
            .transposed(true)
            .multiprocessors(FEW),
        LayerCase::new(512, 128, 72, 12)
            .dropout(0.1)
            .multiprocessors(FEW),
    ]
}

/// Scalings that can be taken out of the accumulators by their inverse, which are powers of two,
/// and those that can't.
pub fn scaled() -> Vec<LayerCase> {
    let several = LayerCase::sharing_x(66, 72, &[(56, 3), (40, 16), (136, 24)]);
    let scaled = |case: &LayerCase, scalings: [f32; 3]| {
        let mut case = case.clone();
        for (sizes, scaling) in case.projections.iter_mut().zip(scalings) {
            sizes.scaling = scaling;
        }
        case
    };
    vec![
        scaled(&several, [0.0, -0.37, 1000.0]),
        scaled(&several, [1.0, -1.0, 0.0]).dropout(0.2),
        scaled(&several, [16.0 / 3.0, 64.0, 0.1]).multiprocessors(MANY),
    ]
}

/// The same beyond what f32 has an inverse for, for types whose exponents reach as far.
pub fn far_scaled() -> Vec<LayerCase> {
    let far = [2f32.powi(70), -3e-22, 1e25, 2f32.powi(-126)];
    far.into_iter()
        .enumerate()
        .map(|(i, scaling)| {
            let case = LayerCase::new(66, 72, 136, 20).scaling(scaling);
            if i % 2 == 0 { case } else { case.dropout(0.1) }
        })
        .collect()
}

/// All that every 16-bit type takes.
pub fn all() -> Vec<LayerCase> {
    [
        tails(),
        unmapped(),
        shared(),
        split(),
        turns(),
        whole(),
        scaled(),
    ]
    .concat()
}
