//! Kernels that work element by element: unary, binary, affine, selecting, filling, casting.

use super::super::gpu::{Arg, Shape};
use super::super::numbers::{Random, Type};
use super::super::outcome::Expected;
use super::{ALL, Case, FLOATS, INDICES, Suite, dense, exactly};

const ROWS: usize = 59;
const COLUMNS: usize = 17;
const COUNT: usize = ROWS * COLUMNS;
const DIMS: [usize; 2] = [ROWS, COLUMNS];
/// A transposed view of a dense tensor.
const TRANSPOSED: [usize; 2] = [1, ROWS];

/// Fewer threads than elements: the kernels stride over the grid.
fn shape() -> Shape {
    Shape::new(3, 96)
}

/// Element `i` of a transposed view, in the dense order of the view.
fn transposed(values: &[f64]) -> Vec<f64> {
    (0..COUNT)
        .map(|i| values[i / COLUMNS + i % COLUMNS * ROWS])
        .collect()
}

/// A value of an integer type after wrapping around.
fn wrapped(ty: Type, value: f64) -> f64 {
    match ty {
        Type::U8 => value.rem_euclid(256.0),
        Type::U32 => value.rem_euclid(4_294_967_296.0),
        _ => value,
    }
}

pub fn run(suite: &mut Suite) {
    suite.module("unary", |suite| {
        for function in &UNARY {
            for ty in FLOATS {
                unary(suite, function, ty, false);
                unary(suite, function, ty, true);
            }
        }
    });
    suite.module("binary", |suite| {
        for ty in ALL {
            for function in &BINARY {
                binary(suite, function, ty);
            }
        }
    });
    suite.module("affine", |suite| {
        for ty in ALL {
            affine(suite, ty);
        }
    });
    suite.module("ternary", |suite| {
        for ty in ALL {
            for index in INDICES {
                select(suite, ty, index);
            }
        }
    });
    suite.module("fill", |suite| {
        for ty in ALL {
            fill(suite, ty);
        }
    });
    suite.module("cast", |suite| {
        for from in ALL {
            for to in ALL {
                // These pairs alone are missing: no kernel casts a small float to or from i64.
                let small = |ty| matches!(ty, Type::F16 | Type::Bf16);
                if (small(from) && to == Type::I64) || (from == Type::I64 && small(to)) {
                    continue;
                }
                cast(suite, from, to);
            }
        }
    });
}

/// A function of one number: its kernels' name, its definition, where it is tested, and its error:
/// `ulps` units in the last place of the result, and `rest` units in the last place of the larger
/// of the argument and one, where terms may cancel.
struct Unary {
    name: &'static str,
    definition: fn(f64) -> f64,
    range: (f64, f64),
    ulps: f64,
    rest: f64,
    /// The kernel's second argument.
    parameter: Option<f64>,
}

const fn function(
    name: &'static str,
    definition: fn(f64) -> f64,
    low: f64,
    high: f64,
    ulps: f64,
    rest: f64,
) -> Unary {
    Unary {
        name,
        definition,
        range: (low, high),
        ulps,
        rest,
        parameter: None,
    }
}

const SLOPE: f64 = 0.75;
const POWER: f64 = 2.5;

/// The CUDA programming guide's table of errors, plus the roundings of the formula around the
/// function.
const UNARY: [Unary; 24] = [
    function("ucopy", |x| x, -9.0, 9.0, 0.0, 0.0),
    function("uneg", |x| -x, -9.0, 9.0, 0.0, 0.0),
    function("uabs", f64::abs, -9.0, 9.0, 0.0, 0.0),
    function("uceil", f64::ceil, -9.0, 9.0, 0.0, 0.0),
    function("ufloor", f64::floor, -9.0, 9.0, 0.0, 0.0),
    function("uround", f64::round, -9.0, 9.0, 0.0, 0.0),
    function("urelu", |x| x.max(0.0), -9.0, 9.0, 0.0, 0.0),
    function("usign", f64::signum, -9.0, 9.0, 0.0, 0.0),
    function("usqr", |x| x * x, -9.0, 9.0, 0.5, 0.0),
    function("usqrt", f64::sqrt, 0.0, 900.0, 0.5, 0.0),
    function("urecip", |x| 1.0 / x, 0.01, 9.0, 1.0, 0.0),
    function("uexp", f64::exp, -8.0, 8.0, 2.0, 0.0),
    function("ulog", f64::ln, 0.01, 90.0, 2.0, 0.0),
    function("usin", f64::sin, -90.0, 90.0, 2.0, 0.0),
    function("ucos", f64::cos, -90.0, 90.0, 2.0, 0.0),
    function("utanh", f64::tanh, -4.0, 4.0, 2.5, 0.0),
    function("uerf", erf, -3.0, 3.0, 2.5, 0.0),
    function("unormcdf", normal, -3.0, 3.0, 6.0, 0.0),
    function("ugelu", gelu, -5.0, 5.0, 4.0, 4.0),
    function("ugelu_erf", |x| x * normal(x), -3.0, 5.0, 7.0, 0.0),
    function("usilu", |x| x / (1.0 + (-x).exp()), -8.0, 8.0, 5.0, 0.0),
    function(
        "usigmoid",
        |x| 1.0 / (1.0 + (-x).exp()),
        -8.0,
        8.0,
        5.0,
        0.0,
    ),
    Unary {
        parameter: Some(SLOPE),
        ..function(
            "uelu",
            |x| if x > 0.0 { x } else { SLOPE * (x.exp() - 1.0) },
            -5.0,
            5.0,
            2.0,
            2.0,
        )
    },
    Unary {
        parameter: Some(POWER),
        ..function("upowf", |x| x.powf(POWER), 0.01, 9.0, 5.0, 0.0)
    },
];

unsafe extern "C" {
    #[link_name = "erf"]
    safe fn erf_of_libm(x: f64) -> f64;
    #[link_name = "erfc"]
    safe fn erfc_of_libm(x: f64) -> f64;
}

fn erf(x: f64) -> f64 {
    erf_of_libm(x)
}

/// The normal distribution, to the last bits: the argument of erfc is `z + rest`, whose rounding
/// alone would count as several ulps.
fn normal(x: f64) -> f64 {
    const FACTOR: f64 = std::f64::consts::FRAC_1_SQRT_2;
    const FACTOR_REST: f64 = -4.833_646_656_726_457e-17;
    let z = -x * FACTOR;
    let rest = (-x).mul_add(FACTOR, -z) - x * FACTOR_REST;
    0.5 * (erfc_of_libm(z) - std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * rest)
}

/// With the hyperbolic tangent in place of the error function.
fn gelu(x: f64) -> f64 {
    let inner = std::f64::consts::FRAC_2_SQRT_PI
        * std::f64::consts::FRAC_1_SQRT_2
        * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn unary(suite: &mut Suite, function: &Unary, ty: Type, strided: bool) {
    let kernel = format!("{}_{}", function.name, ty.name());
    let (low, high) = function.range;
    let x = Random::new(19).values(ty, COUNT, low, high);
    let seen = if strided { transposed(&x) } else { x.clone() };
    let expected: Vec<Expected> = seen
        .into_iter()
        .map(|x| {
            let value = (function.definition)(x);
            let ulp = 2.0 * ty.roundoff();
            let bound = ulp * (function.ulps * value.abs() + function.rest * x.abs().max(1.0));
            let inexact = function.ulps > 0.0;
            Expected {
                value,
                bound: if inexact { bound + ty.tiny() } else { 0.0 },
            }
        })
        .collect();
    let mut case = Case::new(kernel, ty, shape());
    if strided {
        case.view = " of a transposed view";
    }
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([COUNT, DIMS.len()]);
        if strided {
            arguments.info(gpu, &[&DIMS, &TRANSPOSED])?;
        } else {
            arguments.push(Arg::NULL);
        }
        if let Some(parameter) = function.parameter {
            arguments.push(Arg::of(ty, parameter));
        }
        arguments.input(gpu, ty, &x)?;
        arguments.output(gpu, ty, COUNT)
    });
}

/// A function of two numbers, or a comparison, whose result is a byte.
struct Binary {
    name: &'static str,
    definition: fn(f64, f64) -> f64,
    compares: bool,
    /// Rounding of the result in units in the last place.
    ulps: f64,
}

const fn operation(name: &'static str, definition: fn(f64, f64) -> f64, ulps: f64) -> Binary {
    Binary {
        name,
        definition,
        compares: false,
        ulps,
    }
}

const fn comparison(name: &'static str, definition: fn(f64, f64) -> f64) -> Binary {
    Binary {
        name,
        definition,
        compares: true,
        ulps: 0.0,
    }
}

const BINARY: [Binary; 12] = [
    operation("badd", |x, y| x + y, 0.5),
    operation("bsub", |x, y| x - y, 0.5),
    operation("bmul", |x, y| x * y, 0.5),
    operation("bdiv", |x, y| x / y, 1.0),
    operation("bmaximum", f64::max, 0.0),
    operation("bminimum", f64::min, 0.0),
    comparison("eq", |x, y| f64::from(x == y)),
    comparison("ne", |x, y| f64::from(x != y)),
    comparison("lt", |x, y| f64::from(x < y)),
    comparison("le", |x, y| f64::from(x <= y)),
    comparison("gt", |x, y| f64::from(x > y)),
    comparison("ge", |x, y| f64::from(x >= y)),
];

fn binary(suite: &mut Suite, function: &Binary, ty: Type) {
    let kernel = format!("{}_{}", function.name, ty.name());
    let mut random = Random::new(23);
    // Few different values, so that some are equal; never zero, by which integers must not be
    // divided.
    let mut draw = || -> Vec<f64> {
        let whole = random.values(Type::U8, COUNT, 1.0, 40.0);
        let step = if ty.is_float() { 0.375 } else { 5.0 };
        whole.into_iter().map(|v| v * step).collect()
    };
    let (x, y) = (draw(), draw());
    let out = if function.compares { Type::U8 } else { ty };
    // The second operand is transposed.
    let expected: Vec<Expected> = x
        .iter()
        .zip(transposed(&y))
        .map(|(&x, y)| {
            let value = (function.definition)(x, y);
            if out.is_float() {
                let bound = function.ulps * 2.0 * ty.roundoff() * value.abs();
                return Expected { value, bound };
            }
            Expected {
                value: wrapped(ty, value.trunc()),
                bound: 0.0,
            }
        })
        .collect();
    let case = Case::new(kernel, ty, shape());
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([COUNT, DIMS.len()]);
        arguments.info(gpu, &[&DIMS, &dense(DIMS), &TRANSPOSED])?;
        arguments.input(gpu, ty, &x)?;
        arguments.input(gpu, ty, &y)?;
        arguments.output(gpu, out, COUNT)
    });
}

fn affine(suite: &mut Suite, ty: Type) {
    let kernel = format!("affine_{}", ty.name());
    let x = Random::new(29).values(ty, COUNT, 0.0, 100.0);
    let (factor, offset) = if ty.is_float() {
        (1.5, -2.25)
    } else {
        (2.0, 7.0)
    };
    let expected: Vec<Expected> = x
        .iter()
        .map(|x| Expected {
            value: x * factor + offset,
            // The product may be rounded before the sum, or not.
            bound: ty.roundoff() * ((x * factor).abs() + (x * factor + offset).abs()),
        })
        .collect();
    let case = Case::new(kernel, ty, shape());
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([COUNT, 0]);
        arguments.push(Arg::NULL);
        arguments.input(gpu, ty, &x)?;
        let out = arguments.output(gpu, ty, COUNT)?;
        arguments.push(Arg::of(ty, factor));
        arguments.push(Arg::of(ty, offset));
        Ok(out)
    });
}

fn select(suite: &mut Suite, ty: Type, index: Type) {
    let kernel = format!("where_{}_{}", index.name(), ty.name());
    let mut random = Random::new(31);
    let condition = random.values(index, COUNT, 0.0, 2.0);
    let (yes, no) = (
        random.values(ty, COUNT, 0.0, 50.0),
        random.values(ty, COUNT, 60.0, 99.0),
    );
    let expected = exactly((0..COUNT).map(|i| {
        let chosen = if condition[i] != 0.0 { &yes } else { &no };
        if condition[i] != 0.0 {
            chosen[i / COLUMNS + i % COLUMNS * ROWS]
        } else {
            chosen[i]
        }
    }));
    let case = Case::new(kernel, ty, shape());
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([COUNT, DIMS.len()]);
        arguments.info(gpu, &[&DIMS, &dense(DIMS), &TRANSPOSED, &dense(DIMS)])?;
        arguments.input(gpu, index, &condition)?;
        arguments.input(gpu, ty, &yes)?;
        arguments.input(gpu, ty, &no)?;
        arguments.output(gpu, ty, COUNT)
    });
}

fn fill(suite: &mut Suite, ty: Type) {
    let name = ty.name();
    let case = |stem: &str| Case::new(format!("{stem}_{name}"), ty, shape());
    suite.check(
        &case("fill"),
        &exactly(vec![42.0; COUNT]),
        |gpu, arguments| {
            let out = arguments.output(gpu, ty, COUNT)?;
            arguments.push(Arg::of(ty, 42.0));
            arguments.sizes([COUNT]);
            Ok(out)
        },
    );
    suite.check(
        &case("const_set"),
        &exactly(vec![43.0; COUNT]),
        |gpu, arguments| {
            arguments.sizes([COUNT, DIMS.len()]);
            arguments.info(gpu, &[&DIMS, &TRANSPOSED])?;
            arguments.push(Arg::of(ty, 43.0));
            arguments.output(gpu, ty, COUNT)
        },
    );
    // A window of a wider matrix into another one.
    let (rows, columns, from_stride, to_stride) = (11, 13, 20, 17);
    let source = Random::new(37).values(ty, rows * from_stride, 0.0, 99.0);
    let mut target = vec![ty.junk(); rows * to_stride];
    for i in 0..rows * columns {
        target[i / columns * to_stride + i % columns] =
            source[i / columns * from_stride + i % columns];
    }
    suite.check(&case("copy2d"), &exactly(target), |gpu, arguments| {
        arguments.input(gpu, ty, &source)?;
        let out = arguments.output(gpu, ty, rows * to_stride)?;
        arguments
            .list
            .extend([rows, columns, from_stride, to_stride].map(Arg::int));
        Ok(out)
    });
}

fn cast(suite: &mut Suite, from: Type, to: Type) {
    let kernel = format!("cast_{}_{}", from.name(), to.name());
    let x = Random::new(41).values(from, COUNT, 0.0, 250.0);
    let expected: Vec<Expected> = x
        .iter()
        .map(|&x| Expected {
            value: if to.is_float() {
                to.rounded(&[x])[0]
            } else {
                x.trunc()
            },
            bound: 0.0,
        })
        .collect();
    let case = Case::new(kernel, to, shape());
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.sizes([COUNT, 0]);
        arguments.push(Arg::NULL);
        arguments.input(gpu, from, &x)?;
        arguments.output(gpu, to, COUNT)
    });
}
