//! The forward of rows that go through adapters of a table, of the adapters' part alone, or of
//! batch-invariant results, for any number of tokens: S of every row's adapters, then y.
//!
//! No plan knows which adapters a batch has: blocks find those of their rows in the lists. Both
//! launches add in the order of the decode kernel. Without `wgmma`, which batch-invariant results
//! don't take, a row has the same bits whichever computes it.

use super::access::{self, GemmAccess};
use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::{Access, Arch, DeviceProps, Launch, Operation, Region, arch};
use crate::{Mask, Problem, Result, Role};

/// What the launches need besides the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsForward {
    /// S, (tokens, padded ranks); `None` if it is saved.
    pub s: Option<Region>,
    /// Tiles of the ranks of the projection with the most.
    pub rank_tiles: usize,
}

/// Whether these launches compute a forward, unless one launch of few tokens does.
pub(super) fn applies(problem: &Problem) -> bool {
    problem.row_adapters().is_table() || problem.is_delta_only() || problem.is_batch_invariant()
}

/// The launches, and what they need. `workspace` gets its regions.
pub(super) fn launches(
    problem: &Problem,
    device: &DeviceProps,
    workspace: &mut BufferLayout,
) -> Result<(Vec<Launch>, RowsForward)> {
    let shrink = arch::built(
        Arch::Sm80,
        Operation::ShrinkRows,
        problem.dtype(),
        Access::Any,
    )
    .next()
    .ok_or_else(|| arch::not_in_table(Operation::ShrinkRows, problem.dtype(), Access::Any))?;
    let most_ranks = problem.adapted().map(|(_, projection)| projection.rank);
    let most_ranks = most_ranks.max().unwrap_or_default();
    let needs = RowsForward {
        s: region(problem, workspace),
        rank_tiles: most_ranks.div_ceil(shrink.tile.ranks),
    };
    let row_tiles = problem.tokens().div_ceil(shrink.tile.rows);
    let projections = problem.projections().len();
    let of_s = row_tiles as u64 * projections as u64 * needs.rank_tiles as u64;
    let stores_mask = problem.has_dropout() && problem.mask() == Mask::Stored;
    let of_mask = if stores_mask { row_tiles as u64 } else { 0 };
    let (_, x_reason) = access::streamed(problem, [(0, Role::X)]);
    let reason = format!(
        "{row_tiles} row tiles of {projections} projections in {} rank tiles{}; {x_reason}",
        needs.rank_tiles,
        if stores_mask { ", and the mask" } else { "" },
    );
    let shrink = Launch::new(shrink, of_s + of_mask, None, reason, problem, device)?;
    let product = Product::forward_rows(problem);
    let access = GemmAccess::forward_rows(problem);
    let forward = gemm::launch(&product, &access, problem, device)?;
    Ok((vec![shrink, forward], needs))
}

/// S, where nothing is saved. It grows with the tokens.
pub(super) fn region(problem: &Problem, workspace: &mut BufferLayout) -> Option<Region> {
    problem.is_inference().then(|| {
        let s = [problem.tokens(), problem.padded_ranks()];
        workspace.region(&s, problem.dtype().size())
    })
}
