//! Which lane has which elements of a fragment.

use super::DecodeError;
use super::form::Form;
use super::op::Width;
use super::types::{Float, Int, Type};

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    A,
    B,
    Sum,
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub name: &'static str,
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "m16n16k16",
        m: 16,
        n: 16,
        k: 16,
    },
    Shape {
        name: "m32n8k16",
        m: 32,
        n: 8,
        k: 16,
    },
    Shape {
        name: "m8n32k16",
        m: 8,
        n: 32,
        k: 16,
    },
    Shape {
        name: "m16n16k8",
        m: 16,
        n: 16,
        k: 8,
    },
    Shape {
        name: "m8n8k4",
        m: 8,
        n: 8,
        k: 4,
    },
];

impl Shape {
    /// The product is taken transposed, so that sixteen columns of B stand where `mma` has sixteen
    /// rows of A.
    pub fn is_transposed(self) -> bool {
        self.n == 32
    }

    pub fn take(form: &mut Form<'_, '_>) -> Result<Shape, DecodeError> {
        form.need(&SHAPES.map(|shape| (shape.name, shape)))
    }

    /// Whether fragments of this element type have the shape.
    pub fn has(self, ty: Type) -> bool {
        match self.k {
            16 => matches!(
                ty,
                Type::Float(Float::F16 | Float::Bf16 | Float::F32)
                    | Type::Int8(_)
                    | Type::Int(Int::S32)
            ),
            8 => matches!(ty, Type::Float(Float::Tf32 | Float::F32)),
            _ => ty == Type::Float(Float::F64),
        }
    }
}

/// Where the elements of one register are: those of lane (g, t) at `g + group` along one axis of
/// the matrix, and from `scale * t + thread` on along the other.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub group: u32,
    pub thread: u32,
}

pub(super) struct Fragment {
    pub pieces: Vec<Piece>,
    /// Registers, repeated ones included.
    pub registers: usize,
    /// Elements of a register.
    pub packed: u32,
    /// How far apart the first elements of neighbouring lanes are.
    pub scale: u32,
    /// Whether g counts rows of the matrix.
    pub groups_are_rows: bool,
    pub width: Width,
    pub register: Type,
}

pub(super) fn fragment(role: Role, shape: Shape, ty: Type) -> Fragment {
    let bits = if ty == Type::Float(Float::Tf32) {
        32
    } else {
        ty.bits()
    };
    let packed = (32 / bits).max(1);
    let is_sum = role == Role::Sum;
    // Sums lie in pairs of columns, in one register or two.
    let scale = if is_sum { 2 } else { packed };
    // Rows of A or columns of B, or (for sums) both axes.
    let (along_groups, along_threads) = match (role, shape.is_transposed()) {
        (Role::A, _) => (shape.m, shape.k),
        (Role::B, _) => (shape.n, shape.k),
        (Role::Sum, false) => (shape.m, shape.n),
        (Role::Sum, true) => (shape.n, shape.m),
    };
    let mut pieces = Vec::new();
    let block = 4 * scale;
    let mut part = |group: u32, rows: u32, from: u32, to: u32| {
        for thread in (from..to).step_by(block as usize) {
            for half in (0..rows).step_by(8) {
                for within in (0..scale).step_by(packed as usize) {
                    pieces.push(Piece {
                        group: group + half,
                        thread: thread + within,
                    });
                }
            }
        }
    };
    if is_sum {
        // Parts of 16 x 8 (8 x 8 in f64), as `mma` gives them.
        for group in (0..along_groups).step_by(16) {
            for from in (0..along_threads).step_by(8) {
                part(group, along_groups.min(16), from, from + 8);
            }
        }
    } else {
        // The operand in the place of `mma`'s A has parts of 16, that of its B parts of 8.
        let is_first = (role == Role::A) != shape.is_transposed();
        let step = if is_first { 16.min(along_groups) } else { 8 };
        for group in (0..along_groups).step_by(step as usize) {
            part(group, step, 0, along_threads);
        }
    }
    let repeats = !is_sum && ty == Type::Float(Float::F16);
    Fragment {
        registers: if repeats { 8 } else { pieces.len() },
        pieces,
        packed,
        scale,
        groups_are_rows: match role {
            Role::A => true,
            Role::B => false,
            Role::Sum => !shape.is_transposed(),
        },
        width: match bits {
            8 => Width::B8,
            16 => Width::B16,
            32 => Width::B32,
            _ => Width::B64,
        },
        register: Type::Bits(bits.max(32)),
    }
}
