//! What a box of a tensor is, element by element.

use ptx_emulator::tensor_map::TensorMap;

/// Where the chunks of 16 bytes of successive lines of 128 bytes go (PTX ISA section 5.5.7, the
/// tables of the 32, 64 and 128-byte modes), by mode.
const LINES: [&[[u32; 8]]; 4] = [
    &[[0, 1, 2, 3, 4, 5, 6, 7]],
    &[[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]],
    &[
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
    ],
    &[
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [5, 4, 7, 6, 1, 0, 3, 2],
        [6, 7, 4, 5, 2, 3, 0, 1],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ],
];

/// Where the byte at `address` of shared memory goes in a swizzling mode.
pub fn place(mode: u32, address: u32) -> u32 {
    let lines = LINES[mode as usize];
    let line = lines[(address / 128) as usize % lines.len()];
    address / 128 * 128 + line[(address / 16 % 8) as usize] * 16 + address % 16
}

/// Bytes of an element by data type of the driver, 0 to 12.
pub fn element_bytes(data_type: u32) -> usize {
    [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4][data_type as usize]
}

/// An element of a box.
pub struct Element {
    /// Bytes from the start of the box in shared memory, before swizzling.
    pub within: u32,
    /// Bytes from the tensor's address; `None` outside of the tensor.
    pub offset: Option<usize>,
}

/// The elements of the box at `start`.
pub fn elements(map: &TensorMap, start: &[i32]) -> Vec<Element> {
    let size = element_bytes(map.data_type);
    let rank = map.dims.len();
    let step = |dim: usize| {
        if dim == 0 {
            1
        } else {
            map.element_strides[dim]
        }
    };
    let mut out = Vec::new();
    let mut index = vec![0_u32; rank];
    loop {
        let mut offset = Some(0);
        for dim in 0..rank {
            let at = i64::from(start[dim]) + i64::from(index[dim]);
            let stride = if dim == 0 {
                size as u64
            } else {
                map.strides[dim - 1]
            };
            offset = match offset {
                Some(sum) if at >= 0 && (at as u64) < map.dims[dim] => {
                    Some(sum + at as usize * stride as usize)
                }
                _ => None,
            };
        }
        out.push(Element {
            within: (out.len() * size) as u32,
            offset,
        });
        let mut dim = 0;
        loop {
            if dim == rank {
                return out;
            }
            index[dim] += step(dim);
            if index[dim] < map.box_dims[dim] {
                break;
            }
            index[dim] = 0;
            dim += 1;
        }
    }
}
