//! The forward of few tokens for inference: one launch, which streams the weight once and computes
//! S beside it.
//!
//! A tile has some rows of the weight, in all their depth. The steps of all tiles follow each
//! other, and the persistent blocks share them out evenly, so that a tile may have several blocks.
//! For batch-invariant results, a tile has one block, which then adds its products in the order of
//! the depth, as every other kernel of a batch-invariant problem does.

use super::access;
use super::memory::BufferLayout;
use super::{Access, DeviceProps, Launch, Operation, Region, Variant, arch};
use crate::{Error, Problem, Result, Role, RowAdapters, WeightLayout};

/// The columns of x whose products one slice of S sums.
const SLICE_COLUMNS: usize = 512;
/// The ranks of a group.
const GROUP_RANKS: usize = 16;
/// The words of the flags that come before those of groups and tiles.
const COUNTERS: u32 = 3;

/// What a decode launch needs besides the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decode {
    /// S, (tokens, padded ranks).
    pub s: Region,
    /// Its slices in f32, (slices, tokens, padded ranks).
    pub s_partial: Region,
    /// Parts of shared tiles in f32, (blocks, 2, tokens, rows of a tile).
    pub partial: Region,
    /// Tiles of all projections.
    pub tiles: u32,
    /// Steps of a tile; 0 if only the adapters' part is computed.
    pub steps: u32,
    /// Whether blocks may share a tile.
    pub share: bool,
    /// Slices of S.
    pub slices: u32,
    /// The most groups of ranks that a batch can have.
    pub groups: u32,
    /// The blocks that the device runs at the same time.
    pub places: u32,
}

impl Decode {
    /// The size of the flags in bytes.
    pub fn flags_bytes(&self) -> usize {
        self.flag_words() as usize * size_of::<u32>()
    }

    /// The words of the flags.
    pub fn flag_words(&self) -> u32 {
        COUNTERS + self.groups + self.tiles
    }

    /// The mean number of steps of a place divided by that of the busiest one.
    pub fn wave_efficiency(&self, blocks: u32) -> f64 {
        let of_tile = u64::from(self.steps.max(1));
        let all = u64::from(self.tiles) * of_tile;
        // What a block takes at a time.
        let part = if self.share { 1 } else { of_tile };
        let busiest = (all / part).div_ceil(u64::from(blocks.max(1))) * part;
        all as f64 / (busiest.max(1) * u64::from(self.places.max(1))) as f64
    }
}

/// Whether this kernel computes a forward: of few tokens, for inference.
pub(super) fn applies(problem: &Problem) -> bool {
    let out_in = problem.weight_layout() == WeightLayout::OutIn || problem.is_delta_only();
    problem.is_inference()
        && problem.tokens() <= Problem::DECODE_TOKENS
        && out_in
        && !problem.has_dropout()
}

/// The kernel with the fewest tokens that hold all of the problem's.
fn variant(problem: &Problem, access: Access) -> Result<Variant> {
    let built = arch::decode(problem.dtype(), access);
    built
        .filter(|variant| variant.tile.rows >= problem.tokens())
        .min_by_key(|variant| variant.tile.rows)
        .ok_or_else(|| arch::not_in_table(Operation::Decode, problem.dtype(), access))
}

/// The most bytes of workspace and of flags for any number of tokens up to that of the problem.
pub(super) fn bound(problem: &Problem, device: &DeviceProps) -> Result<(usize, usize)> {
    let mut most = (0, 0);
    // More tokens may need less: they have another kernel, or other views.
    for tokens in 1..=problem.tokens().min(Problem::DECODE_TOKENS) {
        let problem = problem.clone().with_tokens(tokens)?;
        if applies(&problem) {
            let mut workspace = BufferLayout::default();
            let (_, decode) = launch(&problem, device, &mut workspace)?;
            most.0 = workspace.bytes().max(most.0);
            most.1 = decode.flags_bytes().max(most.1);
        }
    }
    Ok(most)
}

/// The launch, and what it needs. `workspace` gets its regions.
pub(super) fn launch(
    problem: &Problem,
    device: &DeviceProps,
    workspace: &mut BufferLayout,
) -> Result<(Launch, Decode)> {
    let projections = 0..problem.projections().len();
    let weights = projections.map(|projection| (projection, Role::Weight));
    let base = !problem.is_delta_only();
    let streamed = weights.filter(|_| base);
    let (access, access_reason) = access::streamed(problem, streamed.chain([(0, Role::X)]));
    let variant = variant(problem, access)?;
    let (_, tile_rows) = variant.block();

    let tiles: usize = { problem.projections().iter() }
        .map(|projection| projection.out_features.div_ceil(tile_rows))
        .sum();
    let steps = match base {
        false => 0,
        true => problem.in_features().div_ceil(variant.tile.depth),
    };
    let share = steps > 1 && !problem.is_batch_invariant();
    let all = tiles as u64 * steps.max(1) as u64;
    let resident = variant
        .resident_blocks()
        .min(device.blocks_by_shared(variant.shared_bytes()))
        .max(1);
    let places = u64::from(resident) * u64::from(device.multiprocessors());
    let blocks = places.min(if share { all } else { tiles as u64 });

    let lists = match problem.row_adapters() {
        RowAdapters::One => 1,
        RowAdapters::Table { slots, per_row } => slots.min(problem.tokens() * per_row),
    };
    let ranks: usize = { problem.projections().iter() }
        .map(|projection| projection.padded_rank())
        .sum();
    let count = |what: &'static str, count: usize| {
        let given = count;
        i32::try_from(count)
            .map(|count| count as u32)
            .map_err(|_| Error::Dimension { name: what, given })
    };
    // The kernel counts a projection's groups in 16 bits.
    let most = { problem.projections().iter() }
        .map(|projection| lists.saturating_mul(projection.padded_rank() / GROUP_RANKS));
    if let Some(most) = most.max().filter(|&most| most > usize::from(u16::MAX)) {
        return Err(Error::NoKernel {
            what: format!(
                "a batch of adapters with up to {most} groups of 16 ranks in a projection: there can be {} (a smaller largest rank, or fewer adapters per row)",
                u16::MAX
            ),
        });
    }
    let groups = count(
        "the groups of 16 ranks of all adapters of a batch",
        lists.saturating_mul(ranks / GROUP_RANKS),
    )?;
    let slices = problem.in_features().div_ceil(SLICE_COLUMNS);
    let (tokens, columns) = (problem.tokens(), problem.padded_ranks());
    let decode = Decode {
        s: workspace.region(&[tokens, columns], problem.dtype().size()),
        s_partial: workspace.region(&[slices, tokens, columns], size_of::<f32>()),
        partial: match share {
            true => workspace.region(&[blocks as usize, 2, tokens, tile_rows], size_of::<f32>()),
            false => workspace.region(&[0], size_of::<f32>()),
        },
        tiles: count("the tiles of the weights", tiles)?,
        steps: count("the steps of a tile", steps)?,
        share,
        slices: slices as u32,
        groups,
        places: count("the blocks that run at the same time", places as usize)?,
    };
    // They are no more than the places.
    let efficiency = 100.0 * decode.wave_efficiency(blocks as u32);
    let reason = format!(
        "{tiles} tiles of {tile_rows} rows in {} steps{}, {resident} block{} per multiprocessor, \
         even to {efficiency:.1} %; {access_reason}",
        decode.steps,
        if share { ", shared" } else { "" },
        if resident == 1 { "" } else { "s" },
    );
    let launch = Launch::new(variant, blocks, None, reason, problem, device)?;
    Ok((launch, decode))
}
