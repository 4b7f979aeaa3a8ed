//! The shapes that are benched.

use std::fmt;

/// A layer: (tokens, in_features) times one or more (in_features, out_features).
#[derive(Clone, Copy)]
pub struct Shape {
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: &'static [usize],
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs: Vec<_> = self.out_features.iter().map(usize::to_string).collect();
        write!(
            f,
            "{}x{}x{}",
            self.tokens,
            self.in_features,
            outputs.join("+")
        )
    }
}

/// The benches of a run on this device.
pub struct Plan {
    /// The shapes, in bf16 and, if `f16` is set, in f16
    pub shapes: Vec<Shape>,
    pub f16: bool,
    pub in_f32: Vec<Shape>,
    pub ranks: &'static [usize],
    pub dropouts: &'static [f32],
}

const fn shape(tokens: usize, in_features: usize, out_features: &'static [usize]) -> Shape {
    Shape {
        tokens,
        in_features,
        out_features,
    }
}

/// Layers that take the interpreter about a second: one of MiniLM, one with awkward sizes, and
/// three that share x.
const EMULATED: [Shape; 3] = [
    shape(192, 384, &[384]),
    shape(37, 203, &[131]),
    shape(40, 64, &[64, 16, 16]),
];

/// Layers of a Llama with 7 or 8 billion parameters: k and v, q and o, gate and up, down, and q, k
/// and v in one call.
const LAYERS: [(usize, &[usize]); 5] = [
    (4096, &[1024]),
    (4096, &[4096]),
    (4096, &[14336]),
    (14336, &[4096]),
    (4096, &[4096, 1024, 1024]),
];
const TOKENS: [usize; 3] = [512, 2048, 8192];

/// The layers that people train most.
const FIRST_LOOK: [Shape; 2] = [shape(8192, 4096, &[4096]), shape(2048, 4096, &[4096])];

/// The most telling first: a run may be cut off.
const SUITE: [Shape; 8] = [
    shape(8192, 4096, &[14336]),
    shape(8192, 14336, &[4096]),
    shape(8192, 4096, &[4096, 1024, 1024]),
    shape(8192, 4096, &[4096]),
    shape(2048, 4096, &[4096]),
    shape(2048, 4096, &[14336]),
    shape(512, 4096, &[4096]),
    shape(4096, 4096, &[4096]),
];

impl Plan {
    pub fn emulated() -> Self {
        Self {
            shapes: EMULATED.to_vec(),
            f16: true,
            in_f32: EMULATED.to_vec(),
            ranks: &[8],
            dropouts: &[0.1],
        }
    }

    pub fn first_look() -> Self {
        Self {
            shapes: FIRST_LOOK.to_vec(),
            f16: false,
            in_f32: Vec::new(),
            ranks: &[16],
            dropouts: &[0.0],
        }
    }

    pub fn suite() -> Self {
        Self {
            shapes: SUITE.to_vec(),
            f16: false,
            in_f32: vec![shape(2048, 4096, &[4096])],
            ranks: &[16],
            dropouts: &[0.0, 0.1],
        }
    }

    pub fn full() -> Self {
        let at = |tokens| {
            LAYERS.map(|(in_features, out_features)| shape(tokens, in_features, out_features))
        };
        let mut shapes: Vec<_> = TOKENS.into_iter().flat_map(at).collect();
        shapes.push(shape(4096, 4096, &[4096]));
        Self {
            shapes,
            f16: true,
            in_f32: vec![shape(2048, 4096, &[4096])],
            ranks: &[16, 64],
            dropouts: &[0.0, 0.1],
        }
    }
}
