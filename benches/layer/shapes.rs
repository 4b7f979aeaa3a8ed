//! The shapes that are benched.

use std::fmt;

use lora_kernels::DType;

/// A layer: (tokens, in_features) times one or more (in_features, out_features).
#[derive(Clone, Copy, PartialEq)]
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

/// Shapes that are benched alike.
pub struct Part {
    pub dtype: DType,
    pub shapes: Vec<Shape>,
    pub ranks: &'static [usize],
    /// The dropouts of ours.
    pub dropouts: &'static [f32],
    /// Whether the backward is benched too, which nobody needs at decode.
    pub backward: bool,
}

const fn shape(tokens: usize, in_features: usize, out_features: &'static [usize]) -> Shape {
    Shape {
        tokens,
        in_features,
        out_features,
    }
}

const fn train(
    dtype: DType,
    shapes: Vec<Shape>,
    ranks: &'static [usize],
    dropouts: &'static [f32],
) -> Part {
    Part {
        dtype,
        shapes,
        ranks,
        dropouts,
        backward: true,
    }
}

const fn decode(shapes: Vec<Shape>, ranks: &'static [usize]) -> Part {
    Part {
        dtype: DType::BF16,
        shapes,
        ranks,
        dropouts: &[0.0],
        backward: false,
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
const FIRST_LOOK: [Shape; 2] = [shape(8192, 4096, &[4096]), shape(2048, 4096, &[11008])];

/// What the suite has to time: an attention output, the gate of a Llama-2-7B, a wide layer, and q,
/// k and v of a Llama-3-8B.
const SUITE: [Shape; 4] = [
    shape(8192, 4096, &[4096]),
    shape(2048, 4096, &[11008]),
    shape(8192, 8192, &[8192]),
    shape(8192, 4096, &[4096, 1024, 1024]),
];

/// One sequence, and batches of them, that each gain a token.
const DECODE: [Shape; 3] = [
    shape(1, 4096, &[4096]),
    shape(16, 4096, &[4096]),
    shape(64, 4096, &[4096]),
];

/// What the suite times if there is time left.
const MORE: [Shape; 4] = [
    shape(8192, 4096, &[14336]),
    shape(8192, 14336, &[4096]),
    shape(512, 4096, &[4096]),
    shape(2048, 4096, &[4096]),
];

const RANKS: &[usize] = &[16, 64];
const DROPOUTS: &[f32] = &[0.0, 0.1];

/// Every way of a bench runs once, in every type.
pub fn emulated() -> Vec<Part> {
    let of = |dtype| train(dtype, EMULATED.to_vec(), &[8], &[0.1]);
    vec![
        of(DType::BF16),
        of(DType::F16),
        of(DType::F32),
        decode(vec![shape(1, 384, &[384])], &[8]),
    ]
}

pub fn first_look() -> Vec<Part> {
    vec![train(DType::BF16, FIRST_LOOK.to_vec(), &[16], &[0.0])]
}

/// The most telling first: a run may be cut off.
pub fn suite() -> Vec<Part> {
    vec![
        train(DType::BF16, SUITE.to_vec(), RANKS, DROPOUTS),
        decode(DECODE.to_vec(), RANKS),
        train(DType::BF16, MORE.to_vec(), &[16], DROPOUTS),
        train(
            DType::F32,
            vec![shape(2048, 4096, &[4096])],
            &[16],
            DROPOUTS,
        ),
    ]
}

pub fn full() -> Vec<Part> {
    let at =
        |tokens| LAYERS.map(|(in_features, out_features)| shape(tokens, in_features, out_features));
    let mut shapes: Vec<_> = TOKENS.into_iter().flat_map(at).collect();
    shapes.push(shape(4096, 4096, &[4096]));
    let more = SUITE.into_iter().filter(|shape| !shapes.contains(shape));
    let more: Vec<_> = more.collect();
    shapes.extend(more);
    vec![
        decode(DECODE.to_vec(), RANKS),
        train(DType::BF16, shapes.clone(), RANKS, DROPOUTS),
        train(DType::F16, shapes, RANKS, DROPOUTS),
        train(
            DType::F32,
            vec![shape(2048, 4096, &[4096])],
            RANKS,
            DROPOUTS,
        ),
    ]
}
