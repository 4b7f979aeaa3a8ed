//! Selecting, gathering, scattering by indices, and sorting.

use super::super::gpu::{Arg, Shape};
use super::super::numbers::{Random, Type};
use super::super::outcome::Expected;
use super::{ALL, Case, INDICES, Suite, dense, exactly};

/// The tensors are [LEFT, a dimension that is indexed, RIGHT].
const LEFT: usize = 4;
const RIGHT: usize = 9;
/// How long the indexed dimension is on the side that is read or written by index, and how many
/// indices there are.
const LONG: usize = 23;
const PICKED: usize = 14;

pub fn run(suite: &mut Suite) {
    suite.module("indexing", |suite| {
        for ty in ALL {
            for index in INDICES {
                index_select(suite, ty, index);
                gather(suite, ty, index);
                scatter(suite, ty, index);
            }
        }
    });
    suite.module("sort", |suite| {
        for ty in ALL {
            sort(suite, ty);
        }
    });
}

/// The largest value of an index type means "none": it selects zero.
fn none_of(index: Type) -> f64 {
    match index {
        Type::U8 => 255.0,
        Type::U32 => f64::from(u32::MAX),
        // The largest i64 is no f64; what it becomes on the way to the device is.
        _ => i64::MAX as f64,
    }
}

fn index_select(suite: &mut Suite, ty: Type, index: Type) {
    let mut random = Random::new(61);
    let x = random.values(ty, LEFT * LONG * RIGHT, 0.0, 200.0);
    let mut ids: Vec<f64> = random.values(Type::U8, PICKED, 0.0, LONG as f64);
    ids[3] = none_of(index);
    let expected = exactly((0..LEFT * PICKED * RIGHT).map(|i| {
        let (left, picked, right) = (i / (PICKED * RIGHT), i / RIGHT % PICKED, i % RIGHT);
        if picked == 3 {
            return 0.0;
        }
        x[(left * LONG + ids[picked] as usize) * RIGHT + right]
    }));
    let case = Case::new(
        format!("is_{}_{}", index.name(), ty.name()),
        ty,
        Shape::new(2, 96),
    );
    suite.check(&case, &expected, |gpu, arguments| {
        let dims = [LEFT, LONG, RIGHT];
        arguments.sizes([LEFT * PICKED * RIGHT, dims.len()]);
        arguments.info(gpu, &[&dims, &dense(dims)])?;
        arguments.input(gpu, index, &ids)?;
        arguments.input(gpu, ty, &x)?;
        let out = arguments.output(gpu, ty, LEFT * PICKED * RIGHT)?;
        arguments.sizes([LEFT, LONG, PICKED, RIGHT]);
        Ok(out)
    });
}

fn gather(suite: &mut Suite, ty: Type, index: Type) {
    let count = LEFT * PICKED * RIGHT;
    let mut random = Random::new(67);
    let x = random.values(ty, LEFT * LONG * RIGHT, 0.0, 200.0);
    let mut ids: Vec<f64> = random.values(Type::U8, count, 0.0, LONG as f64);
    ids[40] = none_of(index);
    let expected = exactly((0..count).map(|i| match i {
        40 => 0.0,
        _ => x[(i / (PICKED * RIGHT) * LONG + ids[i] as usize) * RIGHT + i % RIGHT],
    }));
    let case = Case::new(
        format!("gather_{}_{}", index.name(), ty.name()),
        ty,
        Shape::new(2, 96),
    );
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([count]);
        arguments.input(gpu, index, &ids)?;
        arguments.input(gpu, ty, &x)?;
        let out = arguments.output(gpu, ty, count)?;
        arguments.sizes([LEFT, LONG, PICKED, RIGHT]);
        Ok(out)
    });
}

/// Scattering, which overwrites; scattering and index_add, which add.
fn scatter(suite: &mut Suite, ty: Type, index: Type) {
    let mut random = Random::new(71);
    let x = random.values(ty, LEFT * PICKED * RIGHT, 0.0, 9.0);
    let before = random.values(ty, LEFT * LONG * RIGHT, 0.0, 9.0);
    let each = random.values(Type::U8, LEFT * PICKED * RIGHT, 0.0, LONG as f64);
    for name in ["s", "sa", "ia"] {
        // index_add has one list of indices for all; the others one for each element.
        let ids = if name == "ia" { &each[..PICKED] } else { &each };
        let mut wanted: Vec<(f64, f64)> = before.iter().map(|&v| (v, 0.0)).collect();
        for i in 0..x.len() {
            let picked = if name == "ia" { i / RIGHT % PICKED } else { i };
            let to = &mut wanted
                [(i / (PICKED * RIGHT) * LONG + ids[picked] as usize) * RIGHT + i % RIGHT];
            if name == "s" {
                *to = (x[i], 0.0);
            } else {
                to.0 += x[i];
                to.1 += 1.0;
            }
        }
        let expected: Vec<Expected> = wanted
            .into_iter()
            .map(|(value, added)| Expected {
                value,
                bound: added * ty.roundoff() * value,
            })
            .collect();
        let case = Case::new(
            format!("{name}_{}_{}", index.name(), ty.name()),
            ty,
            Shape::new(1, 32),
        );
        suite.check(&case, &expected, |gpu, arguments| {
            arguments.input(gpu, index, ids)?;
            if name == "ia" {
                arguments.sizes([PICKED]);
            }
            arguments.input(gpu, ty, &x)?;
            let out = arguments.in_place(gpu, ty, &before)?;
            arguments.sizes([LEFT, PICKED, LONG, RIGHT]);
            Ok(out)
        });
    }
}

/// The positions of the elements in their order, for each row.
fn sort(suite: &mut Suite, ty: Type) {
    let (rows, columns, padded) = (3, 151, 256);
    // A permutation in each row: no ties, whose order would be open.
    let x: Vec<f64> = (0..rows * columns)
        .map(|i| ((i % columns * 67 + i / columns * 5) % columns) as f64)
        .collect();
    for (name, descending) in [("asort_asc", false), ("asort_desc", true)] {
        let expected = exactly(x.chunks_exact(columns).flat_map(|row| {
            let mut order: Vec<usize> = (0..columns).collect();
            order.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
            if descending {
                order.reverse();
            }
            order.into_iter().map(|i| i as f64)
        }));
        let mut shape = Shape::new(rows, 64);
        shape.shared = 4 * padded as u32;
        let case = Case::new(format!("{name}_{}", ty.name()), ty, shape);
        suite.check(&case, &expected, |gpu, arguments| {
            arguments.input(gpu, ty, &x)?;
            let out = arguments.output(gpu, Type::U32, rows * columns)?;
            arguments.list.extend([columns, padded].map(Arg::int));
            Ok(out)
        });
    }
}
