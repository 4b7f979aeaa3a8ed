//! Random choices that a seed determines.

use safetensors::Dtype;

use crate::scene::Numbers;

pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + (self.next() % (most - least + 1) as u64) as usize
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.between(0, from.len() - 1)].clone()
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// Eighths between -1 and 1.
    pub fn numbers(&mut self, dtype: Dtype, shape: &[usize]) -> Numbers {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.between(0, 16) as f64 / 8.0 - 1.0);
        Numbers::new(dtype, shape, values.collect())
    }

    /// Eighths between 1/8 and 2.
    pub fn positive(&mut self, dtype: Dtype, shape: &[usize]) -> Numbers {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.between(1, 16) as f64 / 8.0);
        Numbers::new(dtype, shape, values.collect())
    }

    pub fn float(&mut self) -> Dtype {
        self.pick(&[Dtype::F32, Dtype::F16, Dtype::BF16])
    }

    /// A word that no model has.
    pub fn word(&mut self) -> String {
        let letters: Vec<char> = (0..self.between(3, 6))
            .map(|_| char::from(b'a' + self.between(0, 25) as u8))
            .collect();
        let word: String = letters.into_iter().collect();
        if self.chance(20) {
            format!("{word}_{}", self.between(0, 3))
        } else {
            word
        }
    }
}
