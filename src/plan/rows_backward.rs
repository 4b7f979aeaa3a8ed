//! The backward of rows that go through adapters of a table, or of the adapters' part alone: T of
//! every row, then dA and dB of every adapter of the batch, then dx.
//!
//! No plan knows which adapters a batch has. The first launch lists them in the workspace, and the
//! blocks of the second share out what there is.

use super::access::GemmAccess;
use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::{Access, Arch, DeviceProps, Launch, Operation, Region, SplitRegions, Variant, arch};
use crate::{Problem, Result, Role, RowAdapters};

/// What the launches need besides the problem.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct RowsBackward {
    /// T in the type of the activations, (tokens, padded ranks)
    pub t: Option<Region>,
    /// How many adapters the batch has, then their slots, as 32-bit words
    pub adapters: Option<Region>,
    pub split: Option<SplitRegions>,
    /// Tiles of the ranks of the projection with the most
    pub rank_tiles: usize,
}

/// Whether these launches compute a backward.
pub(super) fn applies(problem: &Problem) -> bool {
    problem.row_adapters().is_table() || problem.is_delta_only()
}

/// The launches, and what they need. `workspace` gets its regions.
///
/// Without tokens there is nothing to do for a table, since no adapter has a row. The gradients of
/// adapters that all rows go through are zero then, and the first two launches write them.
pub(super) fn launches(
    problem: &Problem,
    device: &DeviceProps,
    workspace: &mut BufferLayout,
) -> Result<(Vec<Launch>, RowsBackward)> {
    let tokens = problem.tokens();
    if tokens == 0 && problem.row_adapters().is_table() {
        return Ok((Vec::new(), RowsBackward::default()));
    }
    let (grad_t, grad_ab) = (
        variant(Operation::GradTRows, problem)?,
        variant(Operation::GradAbRows, problem)?,
    );
    let most_ranks = problem.adapted().map(|(_, projection)| projection.rank);
    let most_ranks = most_ranks.max().unwrap_or_default();
    let rank_tiles = most_ranks.div_ceil(grad_t.tile.ranks);
    let most_adapters = most_adapters(problem);
    let (t, adapters) = regions(problem, workspace);
    let mut needs = RowsBackward {
        t: Some(t),
        adapters: Some(adapters),
        split: None,
        rank_tiles,
    };

    let row_tiles = tokens.div_ceil(grad_t.tile.rows);
    let blocks = row_tiles as u64 * problem.projections().len() as u64 * rank_tiles as u64;
    let reason = format!(
        "{row_tiles} row tiles of {} projections in {rank_tiles} rank tiles, and one that lists the adapters",
        problem.projections().len()
    );
    let grad_t = Launch::new(grad_t, 1 + blocks, None, reason, problem, device)?;

    let of_adapter = columns_of_an_adapter(problem, grad_ab);
    let items = (most_adapters as u64).saturating_mul(of_adapter);
    let resident = grad_ab
        .resident_blocks()
        .min(device.blocks_by_shared(grad_ab.shared_bytes()))
        .max(1);
    let places = u64::from(resident) * u64::from(device.multiprocessors());
    let reason = format!(
        "{of_adapter} items of each of up to {most_adapters} adapters, {resident} blocks per multiprocessor"
    );
    let blocks = items.min(places).max(1);
    let grad_ab = Launch::new(grad_ab, blocks, None, reason, problem, device)?;

    let mut launches = vec![grad_t, grad_ab];
    if problem.has_input_gradient() && tokens > 0 {
        let product = Product::grad_x_rows(problem);
        let access = match problem.is_delta_only() {
            // Neither dy nor the weight is read.
            true => GemmAccess::none(),
            false => GemmAccess::new(problem, Role::DY),
        };
        let grad_x = gemm::launch(&product, &access, problem, device)?;
        needs.split = SplitRegions::new(&grad_x, workspace);
        launches.push(grad_x);
    }
    Ok((launches, needs))
}

/// T, and the list of the batch's adapters. Both grow with the tokens.
pub(super) fn regions(problem: &Problem, workspace: &mut BufferLayout) -> (Region, Region) {
    let t = [problem.tokens(), problem.padded_ranks()];
    (
        workspace.region(&t, problem.dtype().size()),
        workspace.region(&[1 + most_adapters(problem)], size_of::<i32>()),
    )
}

/// The most adapters that a batch can have.
fn most_adapters(problem: &Problem) -> usize {
    match problem.row_adapters() {
        RowAdapters::One => 1,
        RowAdapters::Table { slots, per_row } => {
            slots.min(problem.tokens().saturating_mul(per_row))
        }
    }
}

/// A kernel that the table has once for each type.
fn variant(operation: Operation, problem: &Problem) -> Result<Variant> {
    arch::built(Arch::Sm80, operation, problem.dtype(), Access::Any)
        .next()
        .ok_or_else(|| arch::not_in_table(operation, problem.dtype(), Access::Any))
}

/// The items of an adapter in grad_ab_rows: tiles of ranks, times those of the columns of x and dy.
fn columns_of_an_adapter(problem: &Problem, variant: Variant) -> u64 {
    let columns = |columns: usize| columns.div_ceil(variant.tile.columns) as u64;
    let of = |(_, projection): (usize, crate::Projection)| {
        projection.rank.div_ceil(variant.tile.ranks) as u64
            * (columns(problem.in_features()) + columns(projection.out_features))
    };
    problem.adapted().map(of).sum()
}
