//! Random damage.

use super::Random;

/// Fragments to build hostile files from.
const PIECES: [&str; 40] = [
    "0",
    "-1",
    "-0.0",
    "1e999",
    "1e-999",
    "NaN",
    "Infinity",
    "null",
    "true",
    "false",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"\":",
    "}",
    "]",
    ",",
    ":",
    "\"",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "2147483648",
    "1.5",
    "[0]",
    "[1,0]",
    "[0,1]",
    "[4294967296,4294967296]",
    "\"F64\"",
    "\"F4\"",
    "\"BF16\"",
    "\"../x\"",
    "\"..\"",
    "\"/etc/passwd\"",
    "\\u0000",
    "\\ud800",
    "\"lora_A.weight\"",
    "\"(a*)*b{9999}\"",
];

/// Damages files.
pub struct Mutator(Random);

impl Mutator {
    /// The damage depends on the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// The JSON text with up to three defects.
    pub fn text(&mut self, good: &[u8]) -> Vec<u8> {
        let mut text = good.to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(text.len());
            let end = (at + 1 + self.below(12)).min(text.len());
            let piece = PIECES[self.below(PIECES.len())].as_bytes().to_vec();
            match self.below(7) {
                0 if !text.is_empty() => text[at] ^= 1 << self.below(8),
                1 => text.truncate(at),
                2 => drop(text.splice(at..end, [])),
                3 => drop(text.splice(at..at, piece)),
                4 => drop(text.splice(at..end, piece)),
                5 => self.value(&mut text, &piece),
                _ => {
                    let copy = text[at..end].to_vec();
                    let to = self.below(text.len());
                    text.splice(to..to, copy);
                }
            }
        }
        text
    }

    /// Puts another value behind one of the colons. Damage that still parses reaches more code than
    /// damage that doesn't.
    fn value(&mut self, text: &mut Vec<u8>, piece: &[u8]) {
        let colons: Vec<usize> = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b':')
            .map(|(at, _)| at)
            .collect();
        if colons.is_empty() {
            return;
        }
        let from = colons[self.below(colons.len())] + 1;
        let to = text[from..]
            .iter()
            .position(|byte| b",}\n".contains(byte))
            .map_or(text.len(), |length| from + length);
        text.splice(from..to, piece.iter().copied());
    }

    /// The safetensors file with a damaged header, a wrong header length, or its end cut off.
    ///
    /// # Panics
    /// If `good` is no safetensors file.
    pub fn safetensors(&mut self, good: &[u8]) -> Vec<u8> {
        let (length, rest) = good.split_first_chunk().expect("a header's length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header = match self.below(3) {
            0 => self.numbers(header),
            _ => self.text(header),
        };
        let mut length = header.len() as u64;
        if self.below(16) == 0 {
            length = [
                0,
                1,
                length - length.min(1),
                length + 1,
                u64::MAX,
                100_000_000,
                1 << 40,
            ][self.below(7)];
        }
        let mut file = [&length.to_le_bytes()[..], &header, data].concat();
        if self.below(16) == 0 {
            let at = self.below(file.len());
            file.truncate(at);
        }
        file
    }

    /// Changes some digits, so that shapes and offsets parse but disagree.
    fn numbers(&mut self, good: &[u8]) -> Vec<u8> {
        let mut text = good.to_vec();
        let digits: Vec<usize> = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| byte.is_ascii_digit())
            .map(|(at, _)| at)
            .collect();
        for _ in 0..if digits.is_empty() { 0 } else { self.below(3) } {
            text[digits[self.below(digits.len())]] = b'0' + self.below(10) as u8;
        }
        text
    }
}
