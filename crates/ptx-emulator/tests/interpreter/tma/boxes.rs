//! Boxes of 1 to 5 dimensions, in every swizzling mode, of elements of every size, inside and
//! across every edge of the tensor, to shared memory and back.

use ptx_emulator::tensor_map::TensorMap;

use super::reference::{element_bytes, elements, place};
use super::{Arg, EMPTY, FILL, Machine, noise};

const U8: u32 = 0;
const U16: u32 = 1;
const U64: u32 = 4;
pub const F16: u32 = 6;
pub const F32: u32 = 7;
pub const F64: u32 = 8;
pub const BF16: u32 = 9;

/// A tensor, a box, and where in shared memory it goes.
pub struct Case {
    pub map: TensorMap,
    pub start: Vec<i32>,
    /// Multiple of 128.
    pub to: u32,
}

pub fn case(data_type: u32, dims: &[u64], box_dims: &[u32], start: &[i32]) -> Case {
    let mut strides = Vec::new();
    let mut stride = dims[0] * element_bytes(data_type) as u64;
    for &size in &dims[1..] {
        // Some room between rows, planes and so on.
        stride = stride.next_multiple_of(16) + 16;
        strides.push(stride);
        stride *= size;
    }
    Case {
        map: TensorMap {
            data_type,
            address: 0,
            dims: dims.to_vec(),
            strides,
            box_dims: box_dims.to_vec(),
            element_strides: vec![1; dims.len()],
            interleave: 0,
            swizzle: 0,
            l2_promotion: 0,
            fill: 0,
        },
        start: start.to_vec(),
        to: 0,
    }
}

/// Every rank inside and across each edge, then swizzling modes, element sizes, steps, fills.
pub fn cases() -> Vec<Case> {
    let dims: [&[u64]; 5] = [
        &[40],
        &[40, 9],
        &[24, 7, 5],
        &[16, 5, 4, 3],
        &[16, 4, 3, 3, 2],
    ];
    let boxes: [&[u32]; 5] = [
        &[16],
        &[16, 6],
        &[16, 4, 3],
        &[8, 3, 2, 2],
        &[8, 3, 2, 2, 2],
    ];
    let mut out = Vec::new();
    for (dims, box_dims) in dims.into_iter().zip(boxes) {
        let rank = dims.len();
        let inside = vec![1; rank];
        out.push(case(F16, dims, box_dims, &inside));
        for dim in 0..rank {
            for at in [-3, dims[dim] as i32 - 2, dims[dim] as i32 + 1, -300] {
                let mut start = inside.clone();
                start[dim] = at;
                out.push(case(F16, dims, box_dims, &start));
            }
        }
        out.push(case(F16, dims, box_dims, &vec![-1; rank]));
    }
    for (swizzle, span) in [(1, 32), (2, 64), (3, 128)] {
        for (data_type, inner) in [
            (U8, span),
            (BF16, span / 2),
            (F32, span / 4),
            (U64, span / 8),
        ] {
            for (to, start) in [(0, [0, 0]), (128, [3, -2]), (384, [inner as i32 - 1, 30])] {
                let mut case = case(data_type, &[200, 40], &[inner, 20], &start);
                case.map.swizzle = swizzle;
                case.to = to;
                out.push(case);
            }
        }
        // Less than the span of the mode.
        let mut case = case(F16, &[64, 40], &[8, 21], &[2, 1]);
        case.map.swizzle = swizzle;
        out.push(case);
    }
    for data_type in [U8, U16, F64, 2, 3, 5] {
        let inner = 32 / element_bytes(data_type) as u32;
        out.push(case(data_type, &[50, 6], &[inner, 4], &[30, 3]));
    }
    for (element_strides, box_dims) in [(vec![1, 2, 3], [16, 8, 7]), (vec![5, 8, 1], [8, 17, 3])] {
        let mut case = case(F32, &[40, 30, 20], &box_dims, &[2, 5, 15]);
        case.map.element_strides = element_strides;
        out.push(case);
    }
    out
}

pub fn tensor_bytes(map: &TensorMap) -> usize {
    let last: u64 = (1..map.dims.len())
        .map(|dim| (map.dims[dim] - 1) * map.strides[dim - 1])
        .sum();
    (last + map.dims[0] * element_bytes(map.data_type) as u64) as usize
}

pub fn coordinates(rank: usize) -> String {
    let all: Vec<String> = (0..rank).map(|dim| format!("%r{}", 10 + dim)).collect();
    all.join(", ")
}

/// A kernel with a tile of shared memory, the map, the tile's bytes before and after, and the
/// box's coordinates.
pub fn machine(rank: usize, tile: usize, copy: &str) -> Machine {
    let params: String = (0..rank)
        .map(|dim| format!(", .param .u32 c{dim}"))
        .collect();
    let reads: String = (0..rank)
        .map(|dim| format!("ld.param.u32 %r{}, [c{dim}];\n", 10 + dim))
        .collect();
    Machine::new(
        &format!(".param .align 64 .b8 map[128], .param .u64 before, .param .u64 after{params}"),
        &format!(
            ".shared .align 1024 .b8 tile[{tile}];\n.shared .align 8 .b64 bar;\n\
             {reads}ld.param.u64 %rd1, [before];\nld.param.u64 %rd2, [after];\n\
             mov.u64 %rd3, map;\ncvta.param.u64 %rd3, %rd3;\nmov.u32 %r3, {tile};\n\
             {FILL}\nmov.u32 %r1, %tid.x;\nsetp.ne.u32 %p2, %r1, 0;\n{copy}{EMPTY}"
        ),
    )
}

pub fn tile_bytes(case: &Case, count: usize) -> usize {
    let bytes = count * element_bytes(case.map.data_type);
    case.to as usize + bytes.next_multiple_of(128)
}

pub fn arguments<'a>(case: &'a Case, before: u64, after: u64) -> Vec<Arg<'a>> {
    let mut args = vec![
        Arg::Map(&case.map),
        Arg::Pointer(before),
        Arg::Pointer(after),
    ];
    args.extend(case.start.iter().map(|&at| Arg::Word(at)));
    args
}

fn stored(mut case: Case, early: bool) {
    let elements = elements(&case.map, &case.start);
    let (rank, tile) = (case.map.dims.len(), tile_bytes(&case, elements.len()));
    let copy = format!(
        "@%p2 bra ISSUED;\n\
         cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group \
         [%rd3, {{{}}}], [tile+{}];\n\
         cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nISSUED:\nbar.sync 0;\n",
        coordinates(rank),
        case.to
    );
    let mut machine = machine(rank, tile, &copy);
    machine.options.early_copies = early;
    let size = element_bytes(case.map.data_type);
    let (shared, mut expected) = (noise(1, tile), noise(2, tensor_bytes(&case.map)));
    case.map.address = machine.bytes(&expected);
    let (before, after) = (machine.bytes(&shared), machine.bytes(&vec![0; tile]));
    machine.run(1, 32, &arguments(&case, before, after));
    for element in elements {
        if let Some(offset) = element.offset {
            for byte in 0..size {
                let at = place(case.map.swizzle, case.to + element.within + byte as u32);
                expected[offset + byte] = shared[at as usize];
            }
        }
    }
    let got = machine.read(case.map.address, expected.len());
    assert!(got == expected, "{:?} at {:?}", case.map, case.start);
}

#[test]
fn stores_put_each_element_where_it_belongs() {
    for (index, case) in cases().into_iter().enumerate() {
        stored(case, index % 2 == 1);
    }
}
