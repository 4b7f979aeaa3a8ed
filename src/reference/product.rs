//! The loop nest behind every product of the reference: a·bᵀ together with |a|·|b|ᵀ.

use super::view::View;

/// Rows and columns of C that one pass of the inner loop computes. With the magnitudes, they fill
/// the vector registers.
const TILE_ROWS: usize = 2;
const TILE_COLS: usize = 8;
/// Rows of `a` packed together, and the depth of a panel: 256 KiB of `a` and 32 KiB of `b`.
const BLOCK_ROWS: usize = 64;
const BLOCK_DEPTH: usize = 512;
/// The number of multiplications from which starting threads pays off.
const WORTH_THREADS: usize = 1 << 19;

/// `Σₖ a[i][k]·b[j][k]` and `Σₖ |a[i][k]|·|b[j][k]|`, row-major.
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub sum: Vec<f64>,
    pub magnitude: Vec<f64>,
}

/// Computes a·bᵀ for a (rows, depth) and b (cols, depth).
pub(super) fn product<A, B>(a: View<'_, A>, b: View<'_, B>) -> Product
where
    A: Copy + Into<f64> + Sync,
    B: Copy + Into<f64> + Sync,
{
    debug_assert_eq!(a.cols(), b.cols());
    // Rows are distributed over threads, so the longer side becomes the rows.
    if a.rows() < b.rows() {
        let Product { sum, magnitude } = product_by_rows(b, a);
        return Product {
            sum: transpose(&sum, b.rows(), a.rows()),
            magnitude: transpose(&magnitude, b.rows(), a.rows()),
        };
    }
    product_by_rows(a, b)
}

fn product_by_rows<A, B>(a: View<'_, A>, b: View<'_, B>) -> Product
where
    A: Copy + Into<f64> + Sync,
    B: Copy + Into<f64> + Sync,
{
    let (rows, cols) = (a.rows(), b.rows());
    let mut result = Product {
        sum: vec![0.0; rows * cols],
        magnitude: vec![0.0; rows * cols],
    };
    if rows * cols == 0 {
        return result;
    }
    if rows * cols * a.cols() < WORTH_THREADS {
        rows_of_product(a, b, 0, &mut result.sum, &mut result.magnitude);
        return result;
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = rows.div_ceil(threads).next_multiple_of(TILE_ROWS);
    std::thread::scope(|scope| {
        let outputs = result
            .sum
            .chunks_mut(share * cols)
            .zip(result.magnitude.chunks_mut(share * cols));
        for (index, (sum, magnitude)) in outputs.enumerate() {
            scope.spawn(move || rows_of_product(a, b, index * share, sum, magnitude));
        }
    });
    result
}

/// Computes as many rows of C from `first_row` on as fit into `sum` and `magnitude`.
fn rows_of_product<A, B>(
    a: View<'_, A>,
    b: View<'_, B>,
    first_row: usize,
    sum: &mut [f64],
    magnitude: &mut [f64],
) where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    let (cols, depth) = (b.rows(), a.cols());
    let rows = sum.len() / cols;
    let mut a_panels = vec![0.0; BLOCK_ROWS * BLOCK_DEPTH];
    let mut b_panel = vec![0.0; TILE_COLS * BLOCK_DEPTH];
    for block in (0..rows).step_by(BLOCK_ROWS) {
        let block_rows = BLOCK_ROWS.min(rows - block);
        for depth_begin in (0..depth).step_by(BLOCK_DEPTH) {
            let panel_depth = BLOCK_DEPTH.min(depth - depth_begin);
            for (index, panel) in a_panels
                .chunks_exact_mut(TILE_ROWS * panel_depth)
                .take(block_rows.div_ceil(TILE_ROWS))
                .enumerate()
            {
                pack::<TILE_ROWS, A>(a, first_row + block + index * TILE_ROWS, depth_begin, panel);
            }
            for col in (0..cols).step_by(TILE_COLS) {
                let b_panel = &mut b_panel[..TILE_COLS * panel_depth];
                pack::<TILE_COLS, B>(b, col, depth_begin, b_panel);
                for tile_row in (0..block_rows).step_by(TILE_ROWS) {
                    let panel = tile_row / TILE_ROWS * TILE_ROWS * panel_depth;
                    let (tile_sum, tile_magnitude) =
                        tile(&a_panels[panel..panel + TILE_ROWS * panel_depth], b_panel);
                    for i in 0..TILE_ROWS.min(block_rows - tile_row) {
                        let to = (block + tile_row + i) * cols + col;
                        for j in 0..TILE_COLS.min(cols - col) {
                            sum[to + j] += tile_sum[i][j];
                            magnitude[to + j] += tile_magnitude[i][j];
                        }
                    }
                }
            }
        }
    }
}

/// `WIDTH` rows of `from`, side by side: `panel[k][i] = from[first_row + i][depth_begin + k]`, zero
/// past the last row.
fn pack<const WIDTH: usize, T: Copy + Into<f64>>(
    from: View<'_, T>,
    first_row: usize,
    depth_begin: usize,
    panel: &mut [f64],
) {
    let valid = WIDTH.min(from.rows().saturating_sub(first_row));
    for (k, line) in panel.chunks_exact_mut(WIDTH).enumerate() {
        for (i, value) in line.iter_mut().enumerate() {
            *value = if i < valid {
                from.at(first_row + i, depth_begin + k)
            } else {
                0.0
            };
        }
    }
}

type TileSums = [[f64; TILE_COLS]; TILE_ROWS];

fn tile(a_panel: &[f64], b_panel: &[f64]) -> (TileSums, TileSums) {
    let mut sum = [[0.0; TILE_COLS]; TILE_ROWS];
    let mut magnitude = [[0.0; TILE_COLS]; TILE_ROWS];
    for (a, b) in a_panel
        .chunks_exact(TILE_ROWS)
        .zip(b_panel.chunks_exact(TILE_COLS))
    {
        for i in 0..TILE_ROWS {
            for j in 0..TILE_COLS {
                let term = a[i] * b[j];
                sum[i][j] += term;
                magnitude[i][j] += term.abs();
            }
        }
    }
    (sum, magnitude)
}

fn transpose(from: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut to = vec![0.0; from.len()];
    for (row, line) in from.chunks_exact(cols.max(1)).enumerate() {
        for (col, &value) in line.iter().enumerate() {
            to[col * rows + row] = value;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
            .collect()
    }

    #[test]
    fn agrees_with_the_plain_triple_loop_on_every_edge() {
        for (rows, cols, depth) in [
            (1, 1, 1),
            (3, 9, 5),
            (9, 3, 513),
            (131, 17, 1025),
            (2, 70, 0),
        ] {
            if cfg!(miri) && rows * cols * depth > 1000 {
                continue;
            }
            let (a, b) = (
                numbers(rows * (depth + 3), 1),
                numbers(depth * (cols + 1), 2),
            );
            let a = View::with_row_stride(&a, rows, depth, depth + 3).unwrap();
            let b = View::with_row_stride(&b, depth, cols, cols + 1)
                .unwrap()
                .transposed();
            let result = product(a, b);
            for row in 0..rows {
                for col in 0..cols {
                    let terms = (0..depth).map(|k| a.at(row, k) * b.at(col, k));
                    let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), term| {
                        (sum + term, magnitude + term.abs())
                    });
                    assert!(
                        (result.sum[row * cols + col] - sum).abs() <= 1e-12 * magnitude,
                        "sum ({row}, {col}) of {rows}x{cols}x{depth}"
                    );
                    assert!(
                        (result.magnitude[row * cols + col] - magnitude).abs() <= 1e-12 * magnitude,
                        "magnitude ({row}, {col})"
                    );
                }
            }
        }
    }
}
