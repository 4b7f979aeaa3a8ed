//! Convolutions, pooling, resizing and their matrix layouts, on [batch, channels, height, width].

use super::super::gpu::{Arg, Buffer, Gpu, Shape};
use super::super::numbers::{Random, Type};
use super::super::outcome::Expected;
use super::{Arguments, Case, Suite, dense, exactly};

const TYPES: [Type; 6] = [
    Type::F32,
    Type::F64,
    Type::F16,
    Type::Bf16,
    Type::U8,
    Type::U32,
];

const BATCH: usize = 2;
const IN: usize = 3;
const OUT: usize = 4;
const HEIGHT: usize = 7;
const WIDTH: usize = 6;
/// Height and width of the window.
const WINDOW: [usize; 2] = [3, 2];
const STRIDE: usize = 2;
const PADDING: usize = 1;
const SOURCE: [usize; 4] = [BATCH, IN, HEIGHT, WIDTH];

pub fn run(suite: &mut Suite) {
    suite.module("conv", |suite| {
        for ty in TYPES {
            for plane in [Plane::Line, Plane::Area] {
                convolution(suite, ty, plane);
                transposed_convolution(suite, ty, plane);
                to_columns(suite, ty, plane);
            }
            pooling(suite, ty);
            nearest(suite, ty);
        }
    });
}

/// One-dimensional kernels work on [batch, channels, width]: here that is height 1.
#[derive(Clone, Copy, PartialEq)]
enum Plane {
    Line,
    Area,
}

impl Plane {
    fn source(self) -> [usize; 4] {
        match self {
            Plane::Line => [BATCH, IN, 1, WIDTH],
            Plane::Area => SOURCE,
        }
    }

    fn window(self) -> [usize; 2] {
        match self {
            Plane::Line => [1, WINDOW[1]],
            Plane::Area => WINDOW,
        }
    }

    /// Stride, padding and dilation of an axis; a line has no height to move along. The line's
    /// kernels are run without dilation.
    fn axis(self, axis: usize) -> (usize, usize, usize) {
        match (self, axis) {
            (Plane::Line, 0) => (1, 0, 1),
            (Plane::Line, _) => (STRIDE, PADDING, 1),
            (Plane::Area, _) => (STRIDE, PADDING, 2),
        }
    }

    /// Positions of the window along an axis.
    fn positions(self, axis: usize) -> usize {
        let (stride, padding, dilation) = self.axis(axis);
        (self.source()[2 + axis] + 2 * padding - dilation * (self.window()[axis] - 1) - 1) / stride
            + 1
    }

    /// Output of the transposed convolution along an axis.
    fn grown(self, axis: usize) -> usize {
        let (stride, padding, dilation) = self.axis(axis);
        (self.source()[2 + axis] - 1) * stride + dilation * (self.window()[axis] - 1) + 1
            - 2 * padding
    }

    /// Where element `at` of the window at `position` lies in the source, if inside.
    fn inside(self, axis: usize, position: usize, at: usize) -> Option<usize> {
        let (stride, padding, dilation) = self.axis(axis);
        let padded = position * stride + at * dilation;
        padded
            .checked_sub(padding)
            .filter(|&i| i < self.source()[2 + axis])
    }

    fn suffix(self) -> &'static str {
        match self {
            Plane::Line => "1d",
            Plane::Area => "2d",
        }
    }
}

fn shape(count: usize) -> Shape {
    Shape::new(count.div_ceil(64), 64)
}

/// Small enough for sums of products in a byte.
fn values(ty: Type, seed: u64, count: usize) -> Vec<f64> {
    let (low, high) = if ty.is_float() {
        (-2.0, 2.0)
    } else {
        (0.0, 4.0)
    };
    Random::new(seed).values(ty, count, low, high)
}

/// Dimensions and strides without the height of a line.
fn layout(plane: Plane, dims: [usize; 4]) -> (Vec<usize>, Vec<usize>) {
    let strides = dense(dims);
    let kept = |all: [usize; 4]| match plane {
        Plane::Line => vec![all[0], all[1], all[3]],
        Plane::Area => all.to_vec(),
    };
    (kept(dims), kept(strides))
}

/// A sum of products that is computed in f32, or f64, and rounded to the type.
fn sum_of(ty: Type, products: &[f64]) -> Expected {
    let value: f64 = products.iter().sum();
    let size: f64 = products.iter().map(|p| p.abs()).sum();
    let roundoff = if ty == Type::F64 {
        ty.roundoff()
    } else {
        Type::F32.roundoff()
    };
    let bound = products.len() as f64 * roundoff * size + ty.roundoff() * value.abs() + ty.tiny();
    Expected {
        value,
        bound: if ty.is_float() { bound } else { 0.0 },
    }
}

/// The arguments that both convolutions end with.
fn operands(
    gpu: &Gpu,
    arguments: &mut Arguments,
    (plane, ty): (Plane, Type),
    (x, k, kernel): (&[f64], &[f64], [usize; 4]),
    count: usize,
) -> Result<Buffer, String> {
    let (dims, strides) = layout(plane, plane.source());
    let (k_dims, k_strides) = layout(plane, kernel);
    arguments.info(gpu, &[&dims, &strides, &k_dims, &k_strides])?;
    arguments.input(gpu, ty, x)?;
    arguments.input(gpu, ty, k)?;
    arguments.output(gpu, ty, count)
}

fn convolution(suite: &mut Suite, ty: Type, plane: Plane) {
    let [_, _, height, width] = plane.source();
    let [h_k, w_k] = plane.window();
    let [h_out, w_out] = [plane.positions(0), plane.positions(1)];
    let x = values(ty, 73, BATCH * IN * height * width);
    let k = values(ty, 79, OUT * IN * h_k * w_k);
    let mut expected = Vec::new();
    for (b, o, row, column) in places([BATCH, OUT, h_out, w_out]) {
        let mut products = Vec::new();
        for (i, dy, dx, _) in places([IN, h_k, w_k, 1]) {
            if let (Some(y), Some(at)) = (plane.inside(0, row, dy), plane.inside(1, column, dx)) {
                let weight = k[((o * IN + i) * h_k + dy) * w_k + dx];
                products.push(x[((b * IN + i) * height + y) * width + at] * weight);
            }
        }
        expected.push(sum_of(ty, &products));
    }
    let count = expected.len();
    let case = Case::new(
        format!("conv{}_{}", plane.suffix(), ty.name()),
        ty,
        shape(count),
    );
    suite.check(&case, &expected, |gpu, arguments| {
        let (stride, padding, dilation) = plane.axis(1);
        arguments.sizes([x.len(), w_out]);
        if plane == Plane::Area {
            arguments.sizes([h_out]);
        }
        arguments.sizes([stride, padding, dilation]);
        operands(
            gpu,
            arguments,
            (plane, ty),
            (&x, &k, [OUT, IN, h_k, w_k]),
            count,
        )
    });
}

fn transposed_convolution(suite: &mut Suite, ty: Type, plane: Plane) {
    let [_, _, height, width] = plane.source();
    let [h_k, w_k] = plane.window();
    let [h_out, w_out] = [plane.grown(0), plane.grown(1)];
    let x = values(ty, 83, BATCH * IN * height * width);
    let k = values(ty, 89, IN * OUT * h_k * w_k);
    let mut products = vec![Vec::new(); BATCH * OUT * h_out * w_out];
    // Each source element is spread over a window.
    for (b, i, y, at) in places([BATCH, IN, height, width]) {
        for (o, dy, dx, _) in places([OUT, h_k, w_k, 1]) {
            let to = |axis: usize, position: usize, offset: usize, limit: usize| {
                let (stride, padding, dilation) = plane.axis(axis);
                (position * stride + offset * dilation)
                    .checked_sub(padding)
                    .filter(|&p| p < limit)
            };
            if let (Some(row), Some(column)) = (to(0, y, dy, h_out), to(1, at, dx, w_out)) {
                let weight = k[((i * OUT + o) * h_k + dy) * w_k + dx];
                let product = x[((b * IN + i) * height + y) * width + at] * weight;
                products[((b * OUT + o) * h_out + row) * w_out + column].push(product);
            }
        }
    }
    let expected: Vec<Expected> = products.iter().map(|p| sum_of(ty, p)).collect();
    let count = expected.len();
    let name = format!("conv_transpose{}_{}", plane.suffix(), ty.name());
    let case = Case::new(name, ty, shape(count));
    suite.check(&case, &expected, |gpu, arguments| {
        let (stride, padding, dilation) = plane.axis(1);
        arguments.sizes([x.len(), w_out]);
        if plane == Plane::Area {
            arguments.sizes([h_out]);
        }
        arguments.sizes([stride, padding, 0, dilation]);
        operands(
            gpu,
            arguments,
            (plane, ty),
            (&x, &k, [IN, OUT, h_k, w_k]),
            count,
        )
    });
}

/// im2col: the windows as rows of a matrix.
fn to_columns(suite: &mut Suite, ty: Type, plane: Plane) {
    let [_, _, height, width] = plane.source();
    let [h_k, w_k] = plane.window();
    let [h_out, w_out] = [plane.positions(0), plane.positions(1)];
    let x = values(ty, 97, BATCH * IN * height * width);
    let mut rows = Vec::new();
    for (b, row, column, i) in places([BATCH, h_out, w_out, IN]) {
        for (dy, dx, _, _) in places([h_k, w_k, 1, 1]) {
            rows.push(
                match (plane.inside(0, row, dy), plane.inside(1, column, dx)) {
                    (Some(y), Some(at)) => x[((b * IN + i) * height + y) * width + at],
                    _ => 0.0,
                },
            );
        }
    }
    let count = rows.len();
    let stem = if plane == Plane::Line {
        "im2col1d"
    } else {
        "im2col"
    };
    let case = Case::new(format!("{stem}_{}", ty.name()), ty, shape(count));
    suite.check(&case, &exactly(rows), |gpu, arguments| {
        let (stride, padding, dilation) = plane.axis(1);
        match plane {
            // A thread writes a whole window.
            Plane::Line => arguments.sizes([count / w_k, w_out, w_k]),
            Plane::Area => arguments.sizes([count, h_out, w_out, h_k, w_k]),
        }
        arguments.sizes([stride, padding, dilation]);
        let (dims, strides) = layout(plane, plane.source());
        arguments.info(gpu, &[&dims, &strides])?;
        arguments.input(gpu, ty, &x)?;
        arguments.output(gpu, ty, count)
    });
}

/// Average and maximum of windows of two by two, one row and two columns apart.
fn pooling(suite: &mut Suite, ty: Type) {
    let x = values(ty, 101, SOURCE.iter().product());
    let [h_out, w_out] = [HEIGHT - 1, WIDTH / 2];
    let windows: Vec<[f64; 4]> = places([BATCH, IN, h_out, w_out])
        .map(|(b, i, row, column)| {
            let at = ((b * IN + i) * HEIGHT + row) * WIDTH + 2 * column;
            [x[at], x[at + 1], x[at + WIDTH], x[at + WIDTH + 1]]
        })
        .collect();
    let averages: Vec<Expected> = windows
        .iter()
        .map(|window| {
            let mut mean = sum_of(ty, &window.map(|v| v / 4.0));
            if !ty.is_float() {
                mean.value = mean.value.trunc();
            }
            mean
        })
        .collect();
    let most = windows
        .iter()
        .map(|w| w.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    for (name, expected) in [("avg_pool2d", averages), ("max_pool2d", exactly(most))] {
        let case = Case::new(format!("{name}_{}", ty.name()), ty, shape(windows.len()));
        suite.check(&case, &expected, |gpu, arguments| {
            arguments.sizes([x.len(), 2, 2, 1, 2]);
            arguments.info(gpu, &[&SOURCE, &dense(SOURCE)])?;
            arguments.input(gpu, ty, &x)?;
            arguments.output(gpu, ty, windows.len())
        });
    }
}

/// Resizing that repeats elements.
fn nearest(suite: &mut Suite, ty: Type) {
    let x = values(ty, 103, SOURCE.iter().product());
    let [h_out, w_out] = [HEIGHT * 2, WIDTH * 3];
    let expected = exactly(
        places([BATCH, IN, h_out, w_out])
            .map(|(b, i, row, column)| x[((b * IN + i) * HEIGHT + row / 2) * WIDTH + column / 3]),
    );
    let case = Case::new(
        format!("upsample_nearest2d_{}", ty.name()),
        ty,
        shape(expected.len()),
    );
    suite.check(&case, &expected, |gpu, arguments| {
        // The kernel calls the first of the two axes the width. A third, a little enlarged: times
        // three it must not stay below one.
        arguments.sizes([h_out, w_out]);
        arguments
            .list
            .extend([0.5, 1.0 / 3.0 + 1e-9].map(|scale| Arg::of(Type::F64, scale)));
        arguments.info(gpu, &[&SOURCE, &dense(SOURCE)])?;
        arguments.input(gpu, ty, &x)?;
        arguments.output(gpu, ty, expected.len())
    });
}

/// All places of a tensor, the last axis fastest.
fn places(dims: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let [_, b, c, d] = dims;
    (0..dims.iter().product()).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}
