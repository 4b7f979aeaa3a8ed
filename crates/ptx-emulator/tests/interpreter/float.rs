//! Floating-point arithmetic of every width.

use super::harness::{check, eval, eval1};

const NAN: u64 = 0x7fff_ffff;

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn d(x: f64) -> u64 {
    x.to_bits()
}

#[test]
fn f32_follows_ieee_and_gives_the_canonical_nan() {
    check(
        "add.f32 %r, %ra, %rb;",
        &[
            (f(1.5), f(2.25), 0, f(3.75)),
            (f(f32::INFINITY), f(f32::NEG_INFINITY), 0, NAN),
        ],
    );
    check(
        "mul.rn.f32 %r, %ra, %rb;",
        &[
            (f(1e-30), f(1e-10), 0, f(1e-30 * 1e-10)),
            (f(0.0), f(f32::INFINITY), 0, NAN),
        ],
    );
    let (a, b, c) = (1.0 + f32::EPSILON, 1.0 - f32::EPSILON, -1.0);
    check(
        "fma.rn.f32 %r, %ra, %rb, %rc;",
        &[(f(a), f(b), f(c), f(a.mul_add(b, c)))],
    );
    check("sub.rn.f32 %r, %ra, %rb;", &[(f(1.0), f(1e-8), 0, f(1.0))]);
    check(
        "div.rn.f32 %r, %ra, %rb;",
        &[
            (f(1.0), f(3.0), 0, f(1.0 / 3.0)),
            (f(1.0), f(-0.0), 0, f(f32::NEG_INFINITY)),
        ],
    );
    check(
        "sqrt.rn.f32 %r, %ra;",
        &[(f(2.0), 0, 0, f(2.0_f32.sqrt())), (f(-1.0), 0, 0, NAN)],
    );
    check("rcp.rn.f32 %r, %ra;", &[(f(3.0), 0, 0, f(1.0 / 3.0))]);
    check("abs.f32 %r, %ra;", &[(f(-0.0), 0, 0, 0)]);
    check("neg.f32 %r, %ra;", &[(f(0.0), 0, 0, f(-0.0))]);
}

#[test]
fn flushing_and_saturation() {
    let tiny = f(1e-40);
    check("add.f32 %r, %ra, %rb;", &[(tiny, 0, 0, tiny)]);
    check(
        "add.ftz.f32 %r, %ra, %rb;",
        &[(tiny, f(-0.0), 0, 0), (f(1.0), tiny, 0, f(1.0))],
    );
    check(
        "mul.ftz.f32 %r, %ra, %rb;",
        &[(f(-1e-30), f(1e-10), 0, f(-0.0))],
    );
    check(
        "add.sat.f32 %r, %ra, %rb;",
        &[
            (f(0.75), f(0.5), 0, f(1.0)),
            (f(-2.0), f(1.0), 0, 0),
            (NAN, 0, 0, 0),
        ],
    );
    check(
        "fma.rn.ftz.sat.f32 %r, %ra, %rb, %rc;",
        &[(f(0.5), f(0.5), f(0.25), f(0.5))],
    );
}

#[test]
fn directed_roundings_bracket_the_exact_result() {
    let up = f32::from_bits(1.0_f32.to_bits() + 1);
    check("add.rp.f32 %r, %ra, %rb;", &[(f(1.0), f(1e-20), 0, f(up))]);
    check(
        "add.rm.f32 %r, %ra, %rb;",
        &[(f(1.0), f(1e-20), 0, f(1.0)), (f(1.0), f(-1.0), 0, f(-0.0))],
    );
    check(
        "add.rz.f32 %r, %ra, %rb;",
        &[
            (f(-1.0), f(-1e-20), 0, f(-1.0)),
            (f(3e38), f(3e38), 0, f(f32::MAX)),
        ],
    );
    check(
        "fma.rz.f32 %r, %ra, %rb, %rc;",
        &[(f(up), f(up), 0, f(1.0 + 2.0 * f32::EPSILON))],
    );
    check(
        "mul.rp.f32 %r, %ra, %rb;",
        &[(f(up), f(up), 0, f(1.0 + 3.0 * f32::EPSILON))],
    );
    check(
        "div.rz.f32 %r, %ra, %rb;",
        &[
            (f(2.0), f(3.0), 0, f(2.0 / 3.0) - 1),
            (f(2.0), f(-3.0), 0, f(-2.0 / 3.0) - 1),
        ],
    );
    check(
        "div.rp.f32 %r, %ra, %rb;",
        &[(f(1.0), f(3.0), 0, f(1.0 / 3.0))],
    );
    check(
        "sqrt.rm.f32 %r, %ra;",
        &[(
            f(3.0),
            0,
            0,
            f(3.0_f32.sqrt()) - u64::from(f64::from(3.0_f32.sqrt()) > 3.0_f64.sqrt()),
        )],
    );
    check(
        "add.rp.f64 %d, %da, %db;",
        &[
            (d(1.0), d(1e-300), 0, d(1.0) + 1),
            (d(-1.0), d(1e-300), 0, d(-1.0) - 1),
        ],
    );
    check(
        "fma.rm.f64 %d, %da, %db, %dc;",
        &[(
            d(1.0 / 3.0),
            d(3.0),
            d(-1.0),
            d((1.0_f64 / 3.0).mul_add(3.0, -1.0)),
        )],
    );
    check(
        "mul.rz.f64 %d, %da, %db;",
        &[(d(0.1), d(0.1), 0, d(0.1 * 0.1) - 1)],
    );
}

#[test]
fn minimum_and_maximum_with_nan_and_zeros() {
    check(
        "min.f32 %r, %ra, %rb;",
        &[
            (f(1.0), NAN, 0, f(1.0)),
            (f(0.0), f(-0.0), 0, f(-0.0)),
            (NAN, NAN, 0, NAN),
        ],
    );
    check(
        "max.f32 %r, %ra, %rb;",
        &[(NAN, f(-3.0), 0, f(-3.0)), (f(-0.0), f(0.0), 0, f(0.0))],
    );
    check(
        "max.NaN.f32 %r, %ra, %rb;",
        &[(f(1.0), NAN, 0, NAN), (f(1.0), f(2.0), 0, f(2.0))],
    );
    check(
        "min.xorsign.abs.f32 %r, %ra, %rb;",
        &[(f(-1.0), f(2.0), 0, f(-1.0)), (f(-3.0), f(-2.0), 0, f(2.0))],
    );
    check(
        "min.f64 %d, %da, %db;",
        &[
            (d(1.0), d(f64::NAN), 0, d(1.0)),
            (d(0.0), d(-0.0), 0, d(-0.0)),
        ],
    );
    check(
        "max.f64 %d, %da, %db;",
        &[(d(-0.0), d(0.0), 0, d(0.0)), (d(5.0), d(7.0), 0, d(7.0))],
    );
}

#[test]
fn f64_arithmetic() {
    check(
        "fma.rn.f64 %d, %da, %db, %dc;",
        &[(d(0.1), d(10.0), d(-1.0), d(0.1_f64.mul_add(10.0, -1.0)))],
    );
    check(
        "div.rn.f64 %d, %da, %db;",
        &[(d(1.0), d(3.0), 0, d(1.0 / 3.0))],
    );
    check("sqrt.rn.f64 %d, %da;", &[(d(2.0), 0, 0, d(2.0_f64.sqrt()))]);
    check("neg.f64 %d, %da;", &[(d(2.0), 0, 0, d(-2.0))]);
    check("rcp.approx.ftz.f64 %d, %da;", &[(d(4.0), 0, 0, d(0.25))]);
}

#[test]
fn approximations_are_within_their_bounds() {
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function); 8] = [
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", |x| x.log2()),
        ("rcp.approx.f32", |x| 1.0 / x),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("sqrt.approx.f32", |x| x.sqrt()),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
    ];
    for (name, function) in functions {
        let inputs: Vec<f32> = (1..30).map(|i| 0.11 * i as f32).collect();
        let operands: Vec<[u64; 3]> = inputs.iter().map(|&x| [f(x), 0, 0]).collect();
        for (got, x) in eval(&format!("{name} %r, %ra;"), &operands)
            .into_iter()
            .zip(inputs)
        {
            let (got, exact) = (
                f64::from(f32::from_bits(got as u32)),
                function(f64::from(x)),
            );
            assert!(
                (got - exact).abs() <= 6e-8 * exact.abs().max(1e-6),
                "{name} of {x}: {got}, not {exact}"
            );
        }
    }
    check(
        "ex2.approx.ftz.f32 %r, %ra;",
        &[(f(-140.0), 0, 0, 0), (f(3.0), 0, 0, f(8.0))],
    );
    check(
        "div.full.f32 %r, %ra, %rb;",
        &[(f(1.0), f(4.0), 0, f(0.25))],
    );
    check(
        "lg2.approx.f32 %r, %ra;",
        &[(0, 0, 0, f(f32::NEG_INFINITY)), (f(-1.0), 0, 0, NAN)],
    );
}

#[test]
fn signs_and_classes() {
    check(
        "copysign.f32 %r, %ra, %rb;",
        &[(f(-1.0), f(3.0), 0, f(-3.0)), (f(1.0), f(-3.0), 0, f(3.0))],
    );
    for (test, expected) in [
        ("finite", 0b0111),
        ("infinite", 0b1000),
        ("number", 0b1111),
        ("normal", 0b0001),
        ("subnormal", 0b0100),
    ] {
        for (bit, value) in [f(1.0), f(0.0), f(1e-40), f(f32::INFINITY)]
            .into_iter()
            .enumerate()
        {
            assert_eq!(
                eval1(&format!("testp.{test}.f32 %p, %ra;"), value, 0, 0),
                expected >> bit & 1,
                "{test} of {value:#x}"
            );
        }
    }
    check(
        "testp.notanumber.f64 %p, %da;",
        &[(d(f64::NAN), 0, 0, 1), (d(1.0), 0, 0, 0)],
    );
}

fn h(x: f32) -> u64 {
    u64::from(half::f16::from_f32(x).to_bits())
}

fn b(x: f32) -> u64 {
    u64::from(half::bf16::from_f32(x).to_bits())
}

#[test]
fn half_precision_rounds_once() {
    check(
        "add.f16 %h, %ha, %hb;",
        &[
            (h(1.0), h(0.000_49), 0, h(1.001)),
            (h(65504.0), h(32.0), 0, h(f32::INFINITY)),
        ],
    );
    check("mul.f16 %h, %ha, %hb;", &[(h(3.0), h(0.5), 0, h(1.5))]);
    check(
        "fma.rn.f16 %h, %ha, %hb, %hc;",
        &[(h(1.5), h(2.0), h(-0.5), h(2.5))],
    );
    // A tie of bf16 that 2^-60 decides: any intermediate rounding loses it.
    let tie = b(1.0 + 1.0 / 128.0);
    let half_way = b(1.0 / 256.0);
    check(
        "fma.rn.bf16 %h, %ha, %hb, %hc;",
        &[
            (half_way, b(1.0), tie, b(1.0 + 2.0 / 128.0)),
            (b(2.0_f32.powi(-60)), b(1.0), tie, tie),
        ],
    );
    let packed = |low: u64, high: u64| high << 16 | low;
    check(
        "fma.rn.bf16x2 %r, %ra, %rb, %rc;",
        &[(
            packed(b(1.0), b(2.0)),
            packed(b(3.0), b(4.0)),
            packed(b(0.5), b(-1.0)),
            packed(b(3.5), b(7.0)),
        )],
    );
    check(
        "add.f16x2 %r, %ra, %rb;",
        &[(
            packed(h(1.0), h(2.0)),
            packed(h(0.25), h(-2.0)),
            0,
            packed(h(1.25), h(0.0)),
        )],
    );
    check(
        "fma.rn.relu.f16 %h, %ha, %hb, %hc;",
        &[
            (h(1.0), h(-2.0), h(0.5), 0),
            (h(1.0), h(2.0), h(0.5), h(2.5)),
        ],
    );
    check(
        "add.sat.f16 %h, %ha, %hb;",
        &[(h(0.75), h(0.75), 0, h(1.0))],
    );
    check(
        "min.bf16 %h, %ha, %hb;",
        &[(b(1.0), b(-2.0), 0, b(-2.0)), (0x7fc0, b(3.0), 0, b(3.0))],
    );
    check("max.NaN.f16 %h, %ha, %hb;", &[(0x7e00, h(1.0), 0, 0x7fff)]);
    check(
        "neg.f16x2 %r, %ra;",
        &[(packed(h(1.0), h(-2.0)), 0, 0, packed(h(-1.0), h(2.0)))],
    );
    check("abs.bf16 %h, %ha;", &[(b(-3.0), 0, 0, b(3.0))]);
}
