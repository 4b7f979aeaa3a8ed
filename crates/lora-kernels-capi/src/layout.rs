//! How matrices lie in memory.

use kernels::{Layout, Problem, Role};

use crate::enumerations::role;
use crate::error::{ArgumentPath, Error, Result};
use crate::status::lora_status;
use crate::structs::{Versioned, elements, size};

/// How one matrix lies in memory, where it isn't contiguous and 16-byte aligned.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_layout {
    /// sizeof(lora_layout)
    pub struct_size: u32,
    /// A lora_role.
    pub role: u32,
    /// Which projection's, or in a merge which adapter's, counted from 0; of no meaning for x and
    /// dx, and in a merge for weight and merged.
    pub index: usize,
    /// Elements from the start of one row to the start of the next, at least the number of columns.
    /// 0: the number of columns.
    pub row_stride: i64,
    /// What the address of the first element is a multiple of, in bytes: a power of two, at least
    /// the element's size. 0: 16, but an element's size for bias, d_lora_A and d_lora_B, and in a
    /// merge for lora_A and lora_B, where more is of no use. A plan made for 16 can choose the fast
    /// kernels; an address that turns out less aligned is refused.
    pub alignment: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, three of 8.
unsafe impl Versioned for lora_layout {
    const NAME: &'static str = "lora_layout";
    const SIZES: &[u32] = &[32];
}

impl lora_layout {
    /// What this says and, where it says nothing, what was planned.
    pub fn over(&self, planned: Layout) -> Layout {
        Layout {
            row_stride: match self.row_stride {
                0 => planned.row_stride,
                given => given,
            },
            alignment: match self.alignment {
                0 => planned.alignment,
                given => given,
            },
        }
    }
}

/// Each layout with its path, as messages name it, and its tensor's role.
///
/// # Safety
/// As [`elements`].
pub unsafe fn layouts(
    pointer: *const lora_layout,
    count: usize,
) -> Result<impl Iterator<Item = Result<(ArgumentPath, Role, lora_layout)>>> {
    let count = size("problem.layout_count", count, lora_status::Layouts)?;
    let limit = Role::ALL.len() * Problem::MAX_PROJECTIONS;
    if count > limit {
        return Err(Error::Layouts {
            given: count,
            limit,
        });
    }
    let array = "problem->layouts";
    // SAFETY: the caller's promise.
    let all = unsafe { elements(pointer, count, array) }?;
    Ok(all.enumerate().map(move |(index, layout)| {
        let (argument, layout) = (ArgumentPath::element(array, index), layout?);
        let alignment = format_args!("{argument}.alignment");
        size(alignment, layout.alignment, lora_status::LayoutAlignment)?;
        Ok((argument, role(argument, layout.role)?, layout))
    }))
}
