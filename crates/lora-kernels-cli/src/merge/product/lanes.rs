//! Elements side by side, converted and counted without a branch, so that they are vectors.

use half::{bf16, f16};
use lora_kernels::{Element, MergeReport};

/// Elements side by side.
pub const LANES: usize = 16;

/// A type that weights are stored in. The conversions have the bits of `Element`'s and of `half`'s.
pub trait Lanes: Element {
    /// Exact.
    fn widened(values: [Self; LANES]) -> [f32; LANES];
    /// Rounded to nearest, ties to even.
    fn narrowed(values: [f32; LANES]) -> [Self; LANES];
}

/// Like `map` of arrays, which doesn't become vectors.
#[inline(always)]
pub fn each<S: Copy, T: Default + Copy>(
    values: [S; LANES],
    convert: impl Fn(S) -> T,
) -> [T; LANES] {
    let mut converted = [T::default(); LANES];
    for (converted, value) in converted.iter_mut().zip(values) {
        *converted = convert(value);
    }
    converted
}

impl Lanes for f32 {
    #[inline(always)]
    fn widened(values: [Self; LANES]) -> [f32; LANES] {
        values
    }

    #[inline(always)]
    fn narrowed(values: [f32; LANES]) -> [Self; LANES] {
        values
    }
}

impl Lanes for bf16 {
    #[inline(always)]
    fn widened(values: [Self; LANES]) -> [f32; LANES] {
        each(values, |value| {
            f32::from_bits(u32::from(value.to_bits()) << 16)
        })
    }

    #[inline(always)]
    fn narrowed(values: [f32; LANES]) -> [Self; LANES] {
        each(values, |value| {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // A NaN stays one, although the bits that said so may be gone.
            let nan = bits >> 16 | 0x40;
            let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
            bf16::from_bits(if is_nan { nan } else { rounded } as u16)
        })
    }
}

/// f16 by sums and products of f32 that round as the conversion has to, as in Maratyszcza's FP16.
impl Lanes for f16 {
    #[inline(always)]
    fn widened(values: [Self; LANES]) -> [f32; LANES] {
        each(values, |value| {
            let bits = u32::from(value.to_bits()) << 16;
            let (sign, magnitude) = (bits & 0x8000_0000, bits << 1);
            // The exponent's bias becomes f32's by a product, so that infinities and NaNs stay.
            let scale = f32::from_bits((127 - 112) << 23);
            let normal = f32::from_bits((magnitude >> 4) + (0xe0 << 23)) * scale;
            // The significand of a subnormal number is put into one of 0.5, which is taken off.
            let subnormal = f32::from_bits(magnitude >> 17 | 126 << 23) - 0.5;
            let is_subnormal = magnitude < 1 << 27;
            let wide = if is_subnormal { subnormal } else { normal };
            f32::from_bits(sign | wide.to_bits())
        })
    }

    #[inline(always)]
    fn narrowed(values: [f32; LANES]) -> [Self; LANES] {
        each(values, |value| {
            let bits = value.to_bits();
            let magnitude = bits << 1;
            // Too large numbers become infinite here, and others get their own value again.
            let up = f32::from_bits((127 + 112) << 23);
            let down = f32::from_bits((127 - 110) << 23);
            let scaled = value.abs() * up * down;
            // A power of two that leaves as many bits of the sum as f16 has: it rounds once.
            let exponent = (magnitude & 0xff00_0000).max(0x7100_0000);
            let sum = f32::from_bits((exponent >> 1) + 0x0780_0000) + scaled;
            let sum = sum.to_bits();
            let rounded = (sum >> 13 & 0x7c00) + (sum & 0x0fff);
            let nan = 0x7e00 | bits >> 13 & 0x3ff;
            let is_nan = magnitude > 0xff00_0000;
            let magnitude = if is_nan { nan } else { rounded };
            f16::from_bits((bits >> 16 & 0x8000 | magnitude) as u16)
        })
    }
}

/// Rounded to f32, to odd: what is rounded to a narrower type after it is rounded once in all, as
/// `Element` does it.
#[inline(always)]
pub fn rounded_to_odd(values: [f64; LANES]) -> [f32; LANES] {
    each(values, |value| {
        let nearest = value as f32;
        let (bits, back) = (nearest.to_bits(), f64::from(nearest));
        let stays = !nearest.is_finite() | (back == value) | (bits & 1 == 1);
        // The odd neighbour on the other side of the value.
        let away = value.abs() > back.abs();
        let odd = if away {
            bits.wrapping_add(1)
        } else {
            bits.wrapping_sub(1)
        };
        f32::from_bits(if stays { bits } else { odd })
    })
}

/// What storing merged elements loses, counted in lanes.
#[derive(Default)]
pub struct Tally {
    report: MergeReport,
    counts: Counts,
    squares: Squares,
}

/// Counts of a few rows, which fit.
#[derive(Default)]
struct Counts {
    non_finite: [u32; LANES],
    nonzero: [u32; LANES],
    unchanged: [u32; LANES],
}

#[derive(Default, Clone, Copy)]
struct Squares {
    deltas: [f64; LANES],
    errors: [f64; LANES],
}

impl Tally {
    /// values += deltas, with one rounding. There are as many of both.
    #[inline(always)]
    pub fn add<T: Lanes>(&mut self, values: &mut [T], deltas: &[f32]) {
        self.report.elements += values.len() as u64;
        // A copy stays in registers.
        let mut squares = self.squares;
        let (lines, rest) = values.as_chunks_mut::<LANES>();
        let (deltas_of_lines, deltas_of_rest) = deltas.as_chunks::<LANES>();
        for (line, deltas) in lines.iter_mut().zip(deltas_of_lines) {
            *line = add_line(*line, deltas, &mut self.counts, &mut squares);
        }
        if !rest.is_empty() {
            // Zeros that stay zeros count as nothing.
            let mut line = T::narrowed([0.0; LANES]);
            let mut deltas = [0.0; LANES];
            line[..rest.len()].copy_from_slice(rest);
            deltas[..deltas_of_rest.len()].copy_from_slice(deltas_of_rest);
            line = add_line(line, &deltas, &mut self.counts, &mut squares);
            rest.copy_from_slice(&line[..rest.len()]);
        }
        self.squares = squares;
    }

    /// Takes the counts over, which hold fewer than 2^32 elements for each lane.
    #[inline(always)]
    pub fn settle(&mut self) {
        let sum = |lanes: [u32; LANES]| lanes.iter().map(|&count| u64::from(count)).sum::<u64>();
        let counts = std::mem::take(&mut self.counts);
        self.report.non_finite += sum(counts.non_finite);
        self.report.nonzero += sum(counts.nonzero);
        self.report.unchanged += sum(counts.unchanged);
    }

    /// The report of what was settled.
    pub fn report(&self) -> MergeReport {
        MergeReport {
            delta_squares: self.squares.deltas.iter().sum(),
            error_squares: self.squares.errors.iter().sum(),
            ..self.report
        }
    }
}

#[inline(always)]
fn add_line<T: Lanes>(
    values: [T; LANES],
    deltas: &[f32; LANES],
    counts: &mut Counts,
    squares: &mut Squares,
) -> [T; LANES] {
    let old = T::widened(values);
    let mut sums = [0.0; LANES];
    for lane in 0..LANES {
        sums[lane] = old[lane] + deltas[lane];
    }
    let merged = T::narrowed(sums);
    let new = T::widened(merged);
    let (mut counted, mut errors) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let is_finite = new[lane].abs() < f32::INFINITY;
        let is_nonzero = is_finite & (deltas[lane] != 0.0);
        counts.non_finite[lane] += u32::from(!is_finite);
        counts.nonzero[lane] += u32::from(is_nonzero);
        counts.unchanged[lane] += u32::from(is_nonzero & (new[lane] == old[lane]));
        let error = (new[lane] - old[lane]) - deltas[lane];
        counted[lane] = if is_finite { deltas[lane] } else { 0.0 };
        errors[lane] = if is_finite { error } else { 0.0 };
    }
    for lane in 0..LANES {
        let (delta, error) = (f64::from(counted[lane]), f64::from(errors[lane]));
        squares.deltas[lane] += delta * delta;
        squares.errors[lane] += error * error;
    }
    merged
}
