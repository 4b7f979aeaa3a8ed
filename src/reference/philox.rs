//! The dropout mask.

use std::ops::Range;

use crate::Dropout;

/// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = wide(0xD251_1F53, counter[0]);
        let (high1, low1) = wide(0xCD9E_8D57, counter[2]);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

/// The dropout mask of x (rows, cols), one bit per element, as the forward pass saves it.
///
/// Element (row, col) gets 16 random bits: lane col % 8 of Philox with counter (col / 8, row,
/// offset low, offset high) and key (seed low, seed high). Lane j is the low half of word j / 2 if
/// j is even, and the high half if j is odd. The element is kept if the 16-bit number is at least
/// the threshold.
///
/// The mask is an array of 64-bit words (⌈cols / 64⌉, rows), in which the words of the same columns
/// follow each other. The element's bit is bit col % 64 of word (col / 64, row). Bits past the last
/// column are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepMask {
    first_row: usize,
    rows: usize,
    cols: usize,
    words: Vec<u64>,
}

impl KeepMask {
    /// The mask that `dropout` draws for x (rows, cols).
    pub fn new(rows: usize, cols: usize, dropout: &Dropout) -> Self {
        Self::of_rows(0..rows, cols, dropout)
    }

    /// A range of rows of the mask of a larger x. Rows are numbered as in the larger x.
    pub fn of_rows(rows: Range<usize>, cols: usize, dropout: &Dropout) -> Self {
        Self::of_shard(rows, 0..cols, dropout)
    }

    /// A range of rows and columns of the mask of a larger x. Rows are numbered as in the larger x,
    /// columns and words from the range's first.
    ///
    /// # Panics
    /// If the first column isn't a multiple of 8.
    pub fn of_shard(rows: Range<usize>, columns: Range<usize>, dropout: &Dropout) -> Self {
        let (first, cols) = (columns.start, columns.len());
        assert!(first.is_multiple_of(8), "a shard from column {first} on");
        let groups = |word: usize| 8 * word..cols.div_ceil(8).min(8 * word + 8);
        let word = |word: usize, row: usize| {
            groups(word).fold(0, |bits, group| {
                let byte = keep_bits(dropout, row, first / 8 + group) & past_the_end(cols, group);
                bits | u64::from(byte) << (8 * (group % 8))
            })
        };
        let all =
            (0..cols.div_ceil(64)).flat_map(|column| rows.clone().map(move |row| (column, row)));
        Self {
            first_row: rows.start,
            rows: rows.len(),
            cols,
            words: all.map(|(column, row)| word(column, row)).collect(),
        }
    }

    /// Whether element (row, col) is kept.
    ///
    /// # Panics
    /// If (row, col) is outside of the mask.
    pub fn keeps(&self, row: usize, col: usize) -> bool {
        assert!(
            col < self.cols,
            "column {col} of a mask with {} columns",
            self.cols
        );
        self.words[col / 64 * self.rows + (row - self.first_row)] >> (col % 64) & 1 != 0
    }

    /// All words of the mask.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

fn keep_bits(dropout: &Dropout, row: usize, group: usize) -> u8 {
    let halves = |wide: u64| [wide as u32, (wide >> 32) as u32];
    let [offset_low, offset_high] = halves(dropout.offset);
    let words = philox4x32_10(
        [group as u32, row as u32, offset_low, offset_high],
        halves(dropout.seed),
    );
    let threshold = dropout.threshold();
    (0..8).fold(0, |bits, lane| {
        let random = words[lane / 2] >> (16 * (lane % 2)) & 0xFFFF;
        bits | u8::from(random >= threshold) << lane
    })
}

fn past_the_end(cols: usize, group: usize) -> u8 {
    match cols - 8 * group {
        valid @ 0..8 => (1 << valid) - 1,
        _ => 0xFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]
        );
        assert_eq!(
            philox4x32_10([!0; 4], [!0; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        let digits_of_pi = [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344];
        assert_eq!(
            philox4x32_10(digits_of_pi, [0xA409_3822, 0x299F_31D0]),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn each_bit_compares_its_own_sixteen_bits() {
        let dropout = Dropout {
            p: 0.3,
            seed: 0x0123_4567_89AB_CDEF,
            offset: 0xFEDC_BA98_7654_3210,
        };
        let mask = KeepMask::new(3, 43, &dropout);
        let words = philox4x32_10([5, 2, 0x7654_3210, 0xFEDC_BA98], [0x89AB_CDEF, 0x0123_4567]);
        for (lane, random) in [words[0] & 0xFFFF, words[0] >> 16, words[1] & 0xFFFF]
            .into_iter()
            .enumerate()
        {
            assert_eq!(
                mask.keeps(2, 40 + lane),
                random >= dropout.threshold(),
                "column {}",
                40 + lane
            );
        }
        assert_eq!(
            KeepMask::of_rows(2..3, 43, &dropout).words(),
            &mask.words()[2..]
        );
    }

    #[test]
    fn a_word_has_64_columns_of_a_row_and_zeros_past_the_last() {
        let dropout = Dropout {
            p: 0.3,
            seed: 1,
            offset: 2,
        };
        let mask = KeepMask::new(3, 107, &dropout);
        assert_eq!(mask.words().len(), 2 * 3);
        for (row, col) in (0..3).flat_map(|row| (0..107).map(move |col| (row, col))) {
            let word = mask.words()[(col / 64) * 3 + row];
            assert_eq!(
                mask.keeps(row, col),
                word >> (col % 64) & 1 == 1,
                "({row}, {col})"
            );
        }
        assert!(mask.words()[3..].iter().all(|word| word >> (107 - 64) == 0));
    }

    #[test]
    fn no_dropout_keeps_everything() {
        let dropout = Dropout {
            p: 0.0,
            seed: 1,
            offset: 2,
        };
        assert_eq!(
            KeepMask::new(2, 73, &dropout).words(),
            &[u64::MAX, u64::MAX, 0x1FF, 0x1FF]
        );
    }
}
