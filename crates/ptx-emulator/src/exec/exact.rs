//! f64 arithmetic in the directed roundings, which the host's instructions don't have: the exact
//! result in 128 bits, then one rounding.

use crate::decode::op::{FloatOp, Round};

/// (-1)^negative * magnitude * 2^exponent, and a positive amount less than 2^exponent more of
/// magnitude if `more`.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    magnitude: u128,
    exponent: i32,
    more: bool,
}

const PRECISION: i32 = 53;
/// Exponent of the last bit of the subnormal numbers.
const LEAST: i32 = -1074;
/// The bit that the leading one of a sum's larger term gets.
const TOP: i32 = 125;

/// The result of an operation that has a rounding, rounded toward zero, down or up. `near` is the
/// one rounded to nearest, which decides where there is nothing to round: NaN, infinities, zeros.
pub(super) fn directed(op: FloatOp, round: Round, near: f64, [a, b, c]: [f64; 3]) -> f64 {
    let b = if op == FloatOp::Sub { -b } else { b };
    let operands = match op {
        FloatOp::Rcp | FloatOp::Sqrt => 1,
        FloatOp::Fma => 3,
        _ => 2,
    };
    if [a, b, c].iter().take(operands).any(|x| !x.is_finite()) {
        return near;
    }
    let exact = match op {
        FloatOp::Add | FloatOp::Sub => sum(split(a), split(b), round),
        FloatOp::Fma => sum(product(split(a), split(b)), split(c), round),
        // A zero here gives a zero, an infinity or NaN.
        _ if a == 0.0 || (op != FloatOp::Rcp && op != FloatOp::Sqrt && b == 0.0) => return near,
        FloatOp::Mul => product(split(a), split(b)),
        FloatOp::Div => quotient(split(a), split(b)),
        FloatOp::Rcp => quotient(split(1.0), split(a)),
        FloatOp::Sqrt if a > 0.0 => root(split(a)),
        _ => return near,
    };
    rounded(exact, round)
}

fn split(x: f64) -> Exact {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let fraction = u128::from(bits & ((1 << 52) - 1));
    Exact {
        negative: x.is_sign_negative(),
        magnitude: if field == 0 {
            fraction
        } else {
            fraction | 1 << 52
        },
        exponent: field.max(1) - 1075,
        more: false,
    }
}

fn product(a: Exact, b: Exact) -> Exact {
    Exact {
        negative: a.negative != b.negative,
        magnitude: a.magnitude * b.magnitude,
        exponent: a.exponent + b.exponent,
        more: false,
    }
}

/// The leading one's exponent, far below any other for zero.
fn lead(x: Exact) -> i32 {
    match x.magnitude {
        0 => -1 << 20,
        magnitude => 127 - magnitude.leading_zeros() as i32 + x.exponent,
    }
}

/// A sum of terms of at most 106 bits. Where their leading ones are apart by less than two, none
/// of their bits is lost; else the sum has far more bits than a result.
fn sum(a: Exact, b: Exact, round: Round) -> Exact {
    let (large, small) = if lead(a) < lead(b) { (b, a) } else { (a, b) };
    let zero = |negative| Exact {
        negative,
        magnitude: 0,
        exponent: 0,
        more: false,
    };
    if large.magnitude == 0 {
        let same = a.negative == b.negative;
        return zero(if same {
            a.negative
        } else {
            round == Round::Down
        });
    }
    let unit = lead(large) - TOP;
    let left = large.magnitude << (large.exponent - unit);
    let shift = small.exponent - unit;
    let (right, more) = if shift >= 0 || small.magnitude == 0 {
        (small.magnitude << shift.max(0), false)
    } else {
        let shift = shift.unsigned_abs();
        let right = small.magnitude.checked_shr(shift).unwrap_or(0);
        (right, right.checked_shl(shift) != Some(small.magnitude))
    };
    let mut negative = large.negative;
    let magnitude = if a.negative == b.negative {
        left + right
    } else if left >= right {
        // What is left of the unit that is borrowed for the part below it stays.
        left - right - u128::from(more)
    } else {
        negative = small.negative;
        right - left
    };
    if magnitude == 0 && !more {
        return zero(round == Round::Down);
    }
    Exact {
        negative,
        magnitude,
        exponent: unit,
        more,
    }
}

fn quotient(a: Exact, b: Exact) -> Exact {
    let shift = a.magnitude.leading_zeros() as i32;
    let shifted = a.magnitude << shift;
    Exact {
        negative: a.negative != b.negative,
        magnitude: shifted / b.magnitude,
        exponent: a.exponent - b.exponent - shift,
        more: !shifted.is_multiple_of(b.magnitude),
    }
}

fn root(a: Exact) -> Exact {
    // The exponent of a square is even.
    let room = a.magnitude.leading_zeros() as i32;
    let shift = room - (a.exponent - room).rem_euclid(2);
    let square = a.magnitude << shift;
    let magnitude = square.isqrt();
    Exact {
        negative: false,
        magnitude,
        exponent: (a.exponent - shift) / 2,
        more: magnitude * magnitude != square,
    }
}

fn rounded(exact: Exact, round: Round) -> f64 {
    let Exact {
        negative,
        magnitude,
        exponent,
        more,
    } = exact;
    let signed = |x: f64| if negative { -x } else { x };
    if magnitude == 0 && !more {
        return signed(0.0);
    }
    let unit = (lead(exact) - (PRECISION - 1)).max(LEAST);
    let shift = unit - exponent;
    let (kept, lost) = if shift <= 0 {
        (magnitude << shift.unsigned_abs(), more)
    } else {
        let kept = magnitude.checked_shr(shift.unsigned_abs()).unwrap_or(0);
        let whole = kept.checked_shl(shift.unsigned_abs()) == Some(magnitude);
        (kept, more || !whole)
    };
    let away = lost
        && match round {
            Round::Up => !negative,
            Round::Down => negative,
            _ => false,
        };
    let kept = (kept + u128::from(away)) as f64;
    // A power of two times at most 53 bits: exact, or infinite.
    let value = if unit <= -1023 {
        kept * f64::from_bits(1 << (unit - LEAST))
    } else if unit > 1023 {
        f64::INFINITY
    } else {
        kept * f64::from_bits(((unit + 1023) as u64) << 52)
    };
    if value.is_finite() {
        return signed(value);
    }
    let stays = match round {
        Round::Up => negative,
        Round::Down => !negative,
        _ => true,
    };
    signed(if stays { f64::MAX } else { f64::INFINITY })
}
