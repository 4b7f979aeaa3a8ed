//! Compares results with the reference. A NaN or an infinity in a result always counts as an error.

use super::bounds::Bounded;

/// The comparison of a result with a [`Bounded`] reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The number of elements whose error exceeds their bound.
    pub beyond: usize,
    /// The number of elements compared.
    pub elements: usize,
    /// The element with the largest ratio of error to bound; `None` if there are no elements.
    pub worst: Option<Worst>,
}

/// One element of a [`Comparison`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worst {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// The result's value.
    pub given: f64,
    /// The reference's value.
    pub reference: f64,
    /// The largest allowed difference.
    pub bound: f64,
    /// |given - reference| / bound, infinite if the value is not finite. The element is out of
    /// bounds above 1.
    pub ratio: f64,
}

impl Comparison {
    /// Whether every element is within its bound.
    pub fn is_within(&self) -> bool {
        self.beyond == 0
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} elements beyond their bound",
            self.beyond, self.elements
        )?;
        if let Some(Worst {
            row,
            col,
            given,
            reference,
            bound,
            ratio,
        }) = self.worst
        {
            write!(
                f,
                "; the worst, ({row}, {col}), is {given:e} where {reference:e} ± {bound:e} is right: {ratio:.3} of the bound"
            )?;
        }
        Ok(())
    }
}

/// Compares every element of `given`, dense and row-major, with the reference.
///
/// # Panics
/// If `given` and the reference have different numbers of elements.
pub fn compare<T: Copy + Into<f64>>(given: &[T], reference: &Bounded) -> Comparison {
    assert_eq!(
        given.len(),
        reference.value.len(),
        "a result of another size than the reference, {}x{}",
        reference.rows,
        reference.cols
    );
    let mut comparison = Comparison {
        beyond: 0,
        elements: given.len(),
        worst: None,
    };
    for (i, (&given, (&expected, &bound))) in given
        .iter()
        .zip(reference.value.iter().zip(&reference.bound))
        .enumerate()
    {
        let given = given.into();
        let error = (given - expected).abs();
        let ratio = match error {
            0.0 => 0.0,
            error if error.is_finite() => error / bound,
            _ => f64::INFINITY,
        };
        // Written this way so that a NaN bound fails.
        let within = ratio <= 1.0;
        comparison.beyond += usize::from(!within);
        if comparison
            .worst
            .is_none_or(|worst| ratio > worst.ratio || ratio.is_nan())
        {
            comparison.worst = Some(Worst {
                row: i / reference.cols,
                col: i % reference.cols,
                given,
                reference: expected,
                bound,
                ratio,
            });
        }
    }
    comparison
}

/// `powi` has an unspecified precision.
fn squared(value: f64) -> f64 {
    value * value
}

/// ‖given - reference‖ / ‖reference‖. Infinite if either holds a NaN or an infinity, or if the
/// reference is zero and `given` is not.
///
/// # Panics
/// If the two have not as many elements.
pub fn relative_error<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    given: &[A],
    reference: &[B],
) -> f64 {
    let mut difference = 0.0;
    let mut norm = 0.0;
    for (given, reference) in pairs(given, reference) {
        difference += squared(given - reference);
        norm += reference * reference;
    }
    finite_or_infinite(
        if difference == 0.0 {
            0.0
        } else {
            (difference / norm).sqrt()
        },
        norm,
    )
}

/// 1 - 2<x,y> / (|x|² + |y|²), DeepGEMM's measure for the difference of two tensors: about half the
/// squared relative error. Infinite if either holds a NaN or an infinity.
///
/// # Panics
/// If the two have not as many elements.
pub fn cosine_difference<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    given: &[A],
    reference: &[B],
) -> f64 {
    // |x - y|² / (|x|² + |y|²) is the same number without cancellation.
    let mut difference = 0.0;
    let mut norms = 0.0;
    for (given, reference) in pairs(given, reference) {
        difference += squared(given - reference);
        norms += given * given + reference * reference;
    }
    finite_or_infinite(
        if difference == 0.0 {
            0.0
        } else {
            difference / norms
        },
        norms,
    )
}

fn pairs<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    given: &[A],
    reference: &[B],
) -> impl Iterator<Item = (f64, f64)> {
    assert_eq!(
        given.len(),
        reference.len(),
        "a result of another size than the reference"
    );
    given
        .iter()
        .zip(reference)
        .map(|(&given, &reference)| (given.into(), reference.into()))
}

fn finite_or_infinite(measure: f64, norm: f64) -> f64 {
    if measure.is_finite() && norm.is_finite() {
        measure
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::reference::Precision;

    fn bounded(value: &[f64], bound: &[f64]) -> Bounded {
        let no_rounding = Precision::of(DType::F32);
        let mut matrix = Bounded::output(1, value.len(), no_rounding, |_, col| (value[col], 0.0));
        matrix.bound = bound.to_vec();
        matrix
    }

    #[test]
    fn what_is_not_finite_never_passes() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(relative_error(&[1.0, bad], &[1.0, 2.0]), f64::INFINITY);
            assert_eq!(relative_error(&[1.0, 2.0], &[1.0, bad]), f64::INFINITY);
            assert_eq!(relative_error(&[bad], &[bad]), f64::INFINITY);
            assert_eq!(cosine_difference(&[bad], &[1.0]), f64::INFINITY);
            let comparison = compare(&[1.0, bad, 1.0], &bounded(&[1.0; 3], &[f64::MAX; 3]));
            assert_eq!((comparison.beyond, comparison.worst.unwrap().col), (1, 1));
            assert!(!compare(&[1.0], &bounded(&[bad], &[1.0])).is_within());
            assert!(!compare(&[1.0], &bounded(&[2.0], &[f64::NAN])).is_within());
        }
    }

    #[test]
    fn the_worst_element_is_the_one_with_the_largest_share_of_its_bound() {
        let comparison = compare(
            &[1.5f32, 2.0, 3.3],
            &bounded(&[1.0, 2.0, 3.0], &[1.0, 0.0, 0.1]),
        );
        assert_eq!(comparison.beyond, 1);
        assert_eq!(comparison.worst.unwrap().col, 2);
        assert!(compare::<f64>(&[], &bounded(&[], &[])).is_within());
    }

    #[test]
    fn measures_of_known_vectors() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((relative_error(&[3.0, 5.0], &[3.0, 4.0]) - 0.2).abs() < 1e-15);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
        let (x, y) = ([1.0, 2.0], [2.0, 1.0]);
        assert!((cosine_difference(&x, &y) - (1.0 - 2.0 * 4.0 / 10.0)).abs() < 1e-15);
    }
}
