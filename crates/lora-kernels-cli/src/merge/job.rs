//! What has to be computed for a tensor of the result, checked before anything is written.

use lora_kernels::{DType, MergeProblem, WeightLayout};
use lora_kernels_adapters::{Dtype, Tensor};

use super::change::{Change, LoraPart, Stack};
use super::numbers::{element_bytes, is_float};
use super::product::LANES;
use crate::failure::Failure;

/// Elements of a block. Sums over several blocks are taken block by block, so that their bits don't
/// depend on how many blocks are computed at once. Tests have several blocks in small weights.
const BLOCK: usize = if cfg!(test) { 1 << 6 } else { 1 << 19 };

/// A tensor of the result. Pieces of it are computed on their own.
pub struct Job<'a> {
    pub name: &'a str,
    /// The type of the result.
    pub dtype: Dtype,
    pub shape: &'a [usize],
    /// The values that the steps of the change begin with, in their own type.
    pub source: Tensor<'a>,
    pub change: &'a Change<'a>,
    pub method: Method,
    pub grid: Grid,
    /// Replaced rows, sorted: (row of the matrix, place in `change.rows`, row of its values).
    pub rows: Vec<(usize, usize, usize)>,
}

/// How the elements come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The source's bytes. The grid counts bytes.
    Copied,
    /// The source's, in the type of the result.
    Converted,
    /// Adapters are added in the type of the result, which is the source's.
    Added(DType),
    /// Everything is computed in wider types and rounded at the end.
    Wide,
}

/// The tensor as matrices of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub matrices: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Rows of one of the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub matrix: usize,
    pub first: usize,
    pub rows: usize,
}

impl Grid {
    pub fn block_rows(&self) -> usize {
        (BLOCK / self.columns.max(1)).max(1)
    }

    /// The pieces in the order of their elements. Each has as many blocks, but for the last one of
    /// a matrix.
    pub fn pieces(self, blocks: usize) -> impl Iterator<Item = Piece> {
        let rows = self.block_rows() * blocks;
        // Without elements there may be any number of rows and matrices.
        let matrices = match [self.rows, self.columns].contains(&0) {
            true => 0,
            false => self.matrices,
        };
        (0..matrices).flat_map(move |matrix| {
            (0..self.rows).step_by(rows).map(move |first| Piece {
                matrix,
                first,
                rows: rows.min(self.rows - first),
            })
        })
    }

    /// The first element of a piece.
    pub fn place(&self, piece: Piece) -> usize {
        (piece.matrix * self.rows + piece.first) * self.columns
    }

    /// The most elements of a piece of this many blocks.
    pub fn largest_piece(&self, blocks: usize) -> usize {
        (self.block_rows() * blocks).min(self.rows) * self.columns
    }
}

impl<'a> Job<'a> {
    /// The work on `tensor`, the base's or one that is added under this name. Everything is checked
    /// here, so that computing can't run out of any tensor.
    pub fn new(name: &'a str, tensor: Tensor<'a>, change: &'a Change<'a>) -> Result<Self, Failure> {
        let source = change.replaced.unwrap_or(tensor);
        let (shape, dtype) = (source.shape, tensor.dtype);
        let misfit = |what: String| Failure::Refused(format!("{name}: {what}"));
        let is_computed =
            !change.loras.is_empty() || change.magnitude.is_some() || !change.biases.is_empty();
        if source.dtype == dtype && !is_computed && change.rows.is_empty() {
            return Ok(Self {
                name,
                dtype,
                shape,
                source,
                change,
                method: Method::Copied,
                grid: Grid {
                    matrices: 1,
                    rows: source.bytes(),
                    columns: 1,
                },
                rows: Vec::new(),
            });
        }
        // Values of other types can only be put in the place of others of the same type.
        let is_usable = |other: Dtype| match is_float(dtype) {
            true => is_float(other),
            false => other == dtype && !is_computed && element_bytes(dtype) > 0,
        };
        let own = [("its values", tensor), ("its new values", source)];
        for (what, tensor) in tensors(change).chain(own) {
            if !is_usable(tensor.dtype) {
                return Err(misfit(format!(
                    "it is {dtype:?} and {what} are {:?}: only F64, F32, F16 and BF16 are computed \
                     with",
                    tensor.dtype
                )));
            }
        }
        let grid = grid(shape, change).map_err(misfit)?;
        check(&grid, shape, change).map_err(misfit)?;
        let method = match source.element_type().filter(|_| source.dtype == dtype) {
            _ if change.magnitude.is_some() || !change.biases.is_empty() => Method::Wide,
            _ if change.loras.is_empty() => Method::Converted,
            Some(dtype) => Method::Added(dtype),
            None => Method::Wide,
        };
        let mut rows = Vec::new();
        for (at, replaced) in change.rows.iter().enumerate() {
            let indices = replaced.indices.iter().enumerate();
            rows.extend(indices.map(|(from, &row)| (row, at, from)));
        }
        rows.sort_unstable();
        Ok(Self {
            name,
            dtype,
            shape,
            source,
            change,
            method,
            grid,
            rows,
        })
    }

    /// Bytes of an element of the source.
    pub fn source_bytes(&self) -> usize {
        self.unit(self.source.dtype)
    }

    /// Bytes of an element of the result.
    pub fn result_bytes(&self) -> usize {
        self.unit(self.dtype)
    }

    fn unit(&self, dtype: Dtype) -> usize {
        match self.method {
            Method::Copied => 1,
            _ => element_bytes(dtype),
        }
    }

    /// Bytes of the result.
    pub fn bytes(&self) -> usize {
        self.grid.matrices * self.grid.rows * self.grid.columns * self.result_bytes()
    }

    /// Whether the replaced rows are the source's, and not the sum's.
    pub fn rows_come_first(&self) -> bool {
        self.change.rows_first && !self.rows.is_empty()
    }

    /// Bytes of the factors that the CPU needs whole for each matrix, in f32.
    pub fn factor_bytes(&self) -> usize {
        let ranks = self.change.loras.iter().map(|lora| lora.rank);
        let columns = self.grid.columns.next_multiple_of(LANES);
        let elements = ranks.sum::<usize>().saturating_mul(columns);
        elements.saturating_mul(size_of::<f32>())
    }

    /// Whether a pass over the whole matrix has to come first, for the norms of its columns.
    pub fn has_column_norms(&self) -> bool {
        self.change.magnitude.is_some() && self.change.layout == WeightLayout::InOut
    }
}

/// The tensors of a change, with words for errors.
fn tensors<'c, 'a>(
    change: &'c Change<'a>,
) -> impl Iterator<Item = (&'static str, Tensor<'a>)> + 'c {
    let pairs = change
        .loras
        .iter()
        .flat_map(|lora| [("lora_A's values", lora.a), ("lora_B's values", lora.b)]);
    let magnitude = change
        .magnitude
        .iter()
        .map(|tensor| ("the magnitudes", *tensor));
    let biases = change
        .biases
        .iter()
        .map(|(_, tensor)| ("lora_B's biases", *tensor));
    let rows = change.rows.iter().map(|rows| ("the rows", rows.values));
    pairs.chain(magnitude).chain(biases).chain(rows)
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// The matrices of a tensor of this shape.
fn grid(shape: &[usize], change: &Change<'_>) -> Result<Grid, String> {
    // What depends on each element alone is computed in small pieces, however long the rows are.
    if change.loras.is_empty() && change.magnitude.is_none() && change.rows.is_empty() {
        return Ok(Grid {
            matrices: 1,
            rows: elements(shape).ok_or("its shape is too large")?,
            columns: 1,
        });
    }
    let stacks = change.loras.iter().filter(|lora| lora.expert.is_none());
    let mut stacks = stacks.filter_map(|lora| lora.stack.experts());
    let stack = stacks.next();
    if stacks.any(|other| Some(other) != stack) {
        return Err("the adapters have different numbers of experts".into());
    }
    match (stack, shape) {
        (Some(experts), &[matrices, rows, columns]) if experts == matrices => {
            let all_stacked =
                |lora: &LoraPart<'_>| lora.expert.is_none() && lora.stack.experts() == stack;
            if !change.loras.iter().all(all_stacked) {
                return Err(
                    "one adapter has a part for each expert, and another has one for all".into(),
                );
            }
            Ok(Grid {
                matrices,
                rows,
                columns,
            })
        }
        (None, [_, _, _, ..])
            if !change.loras.is_empty() && change.layout == WeightLayout::InOut =>
        {
            Err(format!(
                "its shape is {shape:?}, and no convolution is stored transposed"
            ))
        }
        (Some(1) | None, &[rows, ref rest @ ..]) => Ok(Grid {
            matrices: 1,
            rows,
            columns: elements(rest).ok_or("its shape is too large")?,
        }),
        (None, []) => Ok(Grid {
            matrices: 1,
            rows: 1,
            columns: 1,
        }),
        (Some(experts), _) => Err(format!(
            "its shape is {shape:?}, and the adapter has {experts} experts"
        )),
    }
}

/// Checks that the tensors of a change fit the matrices.
fn check(grid: &Grid, shape: &[usize], change: &Change<'_>) -> Result<(), String> {
    let Grid {
        matrices,
        rows,
        columns,
    } = *grid;
    let (out_features, in_features) = match change.layout {
        WeightLayout::OutIn => (rows, columns),
        WeightLayout::InOut => (columns, rows),
    };
    for lora in &change.loras {
        fits(lora, out_features, in_features)?;
    }
    if !change.loras.is_empty() && matrices * rows * columns > 0 {
        let ranks: Vec<usize> = change.loras.iter().map(|lora| lora.rank).collect();
        MergeProblem::new(out_features, in_features, &ranks, DType::F32)
            .map_err(|error| error.to_string())?;
    }
    let whole = elements(shape).unwrap_or(usize::MAX);
    if change
        .biases
        .iter()
        .any(|(_, bias)| elements(bias.shape) != Some(whole))
    {
        return Err(format!(
            "its shape is {shape:?}, and a bias of lora_B has another number of elements"
        ));
    }
    if let Some(magnitude) = &change.magnitude
        && (matrices != 1 || elements(magnitude.shape) != Some(out_features))
    {
        return Err(format!(
            "its magnitudes have shape {:?}, and it has {out_features} out_features",
            magnitude.shape
        ));
    }
    for replaced in &change.rows {
        let count = replaced.indices.len();
        if matrices != 1 || elements(replaced.values.shape) != count.checked_mul(columns) {
            return Err(format!(
                "its rows have {columns} elements, and {count} rows of shape {:?} are to replace \
                 some",
                replaced.values.shape
            ));
        }
        if let Some(index) = replaced.indices.iter().find(|index| **index >= rows) {
            return Err(format!(
                "it has {rows} rows, and row {index} is to be replaced"
            ));
        }
    }
    Ok(())
}

/// Checks that lora_A and lora_B have every element that is read for a weight of these sizes.
fn fits(lora: &LoraPart<'_>, out_features: usize, in_features: usize) -> Result<(), String> {
    let experts = lora.stack.experts().unwrap_or(1);
    let of_experts = lora.rank.checked_mul(experts).filter(|rank| *rank > 0);
    let a = of_experts.and_then(|rank| rank.checked_mul(in_features));
    let b = of_experts
        .zip(elements(lora.b.shape))
        .filter(|(rank, all)| all.is_multiple_of(*rank));
    let rows = b.map(|(rank, all)| all / rank).unwrap_or_default();
    let fits_b = lora
        .first_out
        .checked_add(out_features)
        .is_some_and(|end| end <= rows);
    let is_there = lora.expert.is_none_or(|expert| expert < experts);
    match a.is_some() && a == elements(lora.a.shape) && fits_b && is_there {
        true => Ok(()),
        false => Err(format!(
            "lora_A {:?} and lora_B {:?} of rank {} don't fit {out_features} out_features and \
             {in_features} in_features",
            lora.a.shape, lora.b.shape, lora.rank
        )),
    }
}

impl Stack {
    /// The number of experts; `None` for one matrix.
    fn experts(self) -> Option<usize> {
        match self {
            Stack::One => None,
            Stack::Parameter { experts } | Stack::Leading { experts } => Some(experts),
        }
    }
}
