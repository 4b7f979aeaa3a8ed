//! Roundings against exact arithmetic with big integers: overflow, the subnormal range and zeros
//! included.

use std::cmp::Ordering;

use num_bigint::BigInt;

use super::harness::eval;

/// A finite number in units of 2^-1074, of which every f64 is a multiple.
fn units(x: f64) -> BigInt {
    let field = x.to_bits() >> 52 & 0x7ff;
    let fraction = x.to_bits() & ((1 << 52) - 1);
    let significand = if field == 0 {
        fraction
    } else {
        fraction | 1 << 52
    };
    let magnitude = BigInt::from(significand) << (field.max(1) - 1);
    if x.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    }
}

/// An exact result `value / divisor`, in the units of its operation, or its root.
struct Exact {
    value: BigInt,
    divisor: BigInt,
    is_root: bool,
}

impl Exact {
    /// The exact result against a number; infinities are beyond all.
    fn against(&self, x: f64) -> Ordering {
        if x.is_infinite() {
            return if x > 0.0 {
                Ordering::Less
            } else {
                Ordering::Greater
            };
        }
        let x = units(x);
        if self.is_root {
            return if x < BigInt::ZERO {
                Ordering::Greater
            } else {
                self.value.cmp(&(&x * &x))
            };
        }
        self.value.cmp(&(x * &self.divisor))
    }

    fn sign(&self) -> Ordering {
        self.value.cmp(&BigInt::ZERO)
    }
}

/// What an operation gives before it is rounded; the divisor is positive.
fn exact(op: &str, [a, b, c]: [f64; 3]) -> Exact {
    let (a, b, c) = (units(a), units(b), units(c));
    let one = units(1.0);
    let (value, divisor) = match op {
        "add" => (a + b, BigInt::from(1)),
        "sub" => (a - b, BigInt::from(1)),
        "mul" => (a * b, one),
        "fma" => (a * b + c * &one, one),
        "div" if b < BigInt::ZERO => (-a * one, -b),
        "div" => (a * one, b),
        "rcp" if a < BigInt::ZERO => (-(&one * &one), -a),
        "rcp" => (&one * &one, a),
        "sqrt" => (a * one, BigInt::from(1)),
        _ => (a, BigInt::from(1)),
    };
    let is_root = op == "sqrt";
    Exact {
        value,
        divisor,
        is_root,
    }
}

/// A format's numbers in ascending order: bits of a number from its rank, and back.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    bits: u32,
    value: fn(u64) -> f64,
}

const F64: Format = Format {
    name: "f64",
    bits: 64,
    value: f64::from_bits,
};
const F32: Format = Format {
    name: "f32",
    bits: 32,
    value: |bits| f64::from(f32::from_bits(bits as u32)),
};
const F16: Format = Format {
    name: "f16",
    bits: 16,
    value: |bits| half::f16::from_bits(bits as u16).to_f64(),
};
const BF16: Format = Format {
    name: "bf16",
    bits: 16,
    value: |bits| half::bf16::from_bits(bits as u16).to_f64(),
};

impl Format {
    /// The largest number that is not above the exact result, from -infinity on, as a rank: the
    /// magnitude's bits with the number's sign, zero being one number.
    fn below(self, exact: &Exact) -> i128 {
        let infinity = (0..self.bits - 1).rev().fold(0_i128, |found, bit| {
            let next = found | 1 << bit;
            if self.at(next).is_nan() { found } else { next }
        });
        let (mut low, mut high) = (-infinity, infinity);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if exact.against(self.at(middle)) == Ordering::Less {
                high = middle;
            } else {
                low = middle;
            }
        }
        low
    }

    fn at(self, rank: i128) -> f64 {
        let magnitude = (self.value)(rank.unsigned_abs() as u64);
        if rank < 0 { -magnitude } else { magnitude }
    }

    fn bits_of(self, rank: i128, negative: bool) -> u64 {
        rank.unsigned_abs() as u64 | u64::from(negative) << (self.bits - 1)
    }

    /// The exact result in a rounding. An exact zero has the sign that `zero` says.
    fn rounded(self, exact: &Exact, round: &str, zero: bool) -> u64 {
        let sign = exact.sign();
        if sign == Ordering::Equal {
            return self.bits_of(0, zero);
        }
        let negative = sign == Ordering::Less;
        let low = self.below(exact);
        let is_exact = exact.against(self.at(low)) == Ordering::Equal;
        let up = match round {
            "rm" => false,
            "rp" => !is_exact,
            "rz" => negative && !is_exact,
            _ => !is_exact && self.is_nearer_above(exact, low),
        };
        self.bits_of(low + i128::from(up), negative)
    }

    fn is_nearer_above(self, exact: &Exact, low: i128) -> bool {
        assert!(!exact.is_root, "roots are tested in the directed roundings");
        // Infinity stands where the next number would.
        let place = |rank: i128| {
            let x = self.at(rank);
            if x.is_finite() {
                return units(x);
            }
            let last = self.at(rank - rank.signum());
            let before = self.at(rank - 2 * rank.signum());
            units(last) + units(last) - units(before)
        };
        let twice: BigInt = &exact.value * 2;
        match twice.cmp(&((place(low) + place(low + 1)) * &exact.divisor)) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => low & 1 != 0,
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11 ^ self.0 << 29
    }

    /// A finite number of a format: edges, and all exponents alike.
    fn number(&mut self, format: Format) -> u64 {
        loop {
            let sign = (self.next() & 1) << (format.bits - 1);
            let mut bits = self.next() >> (64 - format.bits);
            match self.next() % 8 {
                // Few significand bits, so that results are exact and tie.
                0 | 1 => bits &= !0 << (format.bits / 2),
                2 => bits &= (1 << (format.bits / 2)) - 1,
                3 => bits %= 4,
                4 => bits |= (1 << (format.bits / 2)) - 1,
                _ => {}
            }
            bits = bits & !(1 << (format.bits - 1)) | sign;
            if (format.value)(bits).is_finite() {
                return bits;
            }
        }
    }
}

const CASES: usize = 1024;

/// Operands of an operation: random ones, then those that the others seldom are.
fn operands(format: Format, op: &str, random: &mut Random) -> Vec<[u64; 3]> {
    let negative = |bits: u64| bits ^ 1 << (format.bits - 1);
    let largest = (0..1_u64 << 16)
        .map(|step| (1 << (format.bits - 1)) - 1 - step * (1 << (format.bits - 16)))
        .find(|&bits| (format.value)(bits).is_finite())
        .map_or(0, |bits| bits | ((1 << (format.bits - 16)) - 1));
    let edges = [
        0,
        1,
        2,
        3,
        largest,
        largest - 1,
        negative(0),
        negative(1),
        negative(largest),
    ];
    let mut all: Vec<[u64; 3]> = Vec::with_capacity(CASES);
    for &a in &edges {
        for &b in &edges {
            all.push([a, b, edges[all.len() % edges.len()]]);
        }
    }
    while all.len() < CASES {
        let [a, b, c] = [0; 3].map(|_| random.number(format));
        all.push(match random.next() % 8 {
            0 => [a, a, negative(a)],
            1 => [a, negative(a), a],
            // Neighbours: sums that cancel, quotients near one.
            2 => [a, a ^ 1, negative(a)],
            _ => [a, b, c],
        });
    }
    all.retain(|operands| {
        let [a, b, _] = operands.map(|bits| (format.value)(bits));
        operands
            .iter()
            .all(|&bits| (format.value)(bits).is_finite())
            && match op {
                "div" => b != 0.0,
                "rcp" => a != 0.0,
                "sqrt" => a >= 0.0,
                _ => true,
            }
    });
    all
}

/// The sign of an exact zero.
fn zero_is_negative(op: &str, round: &str, [a, b, c]: [f64; 3]) -> bool {
    let [a, b, c] = [a, b, c].map(f64::is_sign_negative);
    // Terms of one sign whose sum is zero are zeros.
    let sum = |a: bool, b: bool| if a == b { a } else { round == "rm" };
    match op {
        "add" => sum(a, b),
        "sub" => sum(a, !b),
        "fma" => sum(a != b, c),
        "mul" | "div" => a != b,
        _ => a,
    }
}

fn check(op: &str, round: &str, format: Format, lines: &str) {
    let mut random = Random(u64::from(format.bits) * 7 + op.len() as u64);
    let operands = operands(format, op, &mut random);
    for (got, bits) in eval(lines, &operands).into_iter().zip(&operands) {
        let values = bits.map(|bits| (format.value)(bits));
        let zero = zero_is_negative(op, round, values);
        let expected = format.rounded(&exact(op, values), round, zero);
        assert_eq!(
            got, expected,
            "{op}.{round}.{} of {values:?}: {got:#x}, not {expected:#x}",
            format.name
        );
    }
}

fn arity(op: &str) -> usize {
    match op {
        "rcp" | "sqrt" => 1,
        "fma" => 3,
        _ => 2,
    }
}

#[test]
fn directed_roundings_of_f32_and_f64_are_those_of_the_exact_result() {
    for (format, register) in [(F64, 'd'), (F32, 'r')] {
        for op in ["add", "sub", "mul", "fma", "div", "rcp", "sqrt"] {
            for round in ["rz", "rm", "rp"] {
                let sources = ["a", "b", "c"].map(|s| format!(", %{register}{s}"));
                let sources = sources[..arity(op)].concat();
                let line = format!("{op}.{round}.{} %{register}{sources};", format.name);
                check(op, round, format, &line);
            }
        }
    }
}

#[test]
fn sums_and_products_of_16_bits_are_rounded_once() {
    for format in [F16, BF16] {
        for op in ["add", "sub", "mul", "fma"] {
            let sources = [", %ha", ", %hb", ", %hc"][..arity(op)].concat();
            let line = format!("{op}.rn.{} %h{sources};", format.name);
            check(op, "rn", format, &line);
        }
    }
}

#[test]
fn conversions_between_floats_are_rounded_once() {
    let narrowings = [(F64, F32), (F64, F16), (F64, BF16), (F32, F16), (F32, BF16)];
    for (from, to) in narrowings {
        let mut random = Random(u64::from(from.bits + to.bits));
        let (source, target) = (
            if from.bits == 64 { "%da" } else { "%ra" },
            if to.bits == 32 { "%r" } else { "%h" },
        );
        // Numbers around those of the narrow format, and any.
        let operands: Vec<[u64; 3]> = (0..CASES)
            .map(|case| {
                let wide = if case % 2 == 0 {
                    let near = (to.value)(random.number(to));
                    let bits = if from.bits == 64 {
                        near.to_bits()
                    } else {
                        u64::from((near as f32).to_bits())
                    };
                    let step = random.next() % 3;
                    let next = bits.wrapping_add(step).wrapping_sub(1);
                    if (from.value)(next).is_finite() {
                        next
                    } else {
                        bits
                    }
                } else {
                    random.number(from)
                };
                [wide, 0, 0]
            })
            .collect();
        for round in ["rn", "rz", "rm", "rp"] {
            let line = format!("cvt.{round}.{}.{} {target}, {source};", to.name, from.name);
            for (got, &[bits, ..]) in eval(&line, &operands).into_iter().zip(&operands) {
                let x = (from.value)(bits);
                let expected =
                    to.rounded(&exact("cvt", [x, 0.0, 0.0]), round, x.is_sign_negative());
                assert_eq!(
                    got, expected,
                    "{line} of {x:e}: {got:#x}, not {expected:#x}"
                );
            }
        }
    }
}
