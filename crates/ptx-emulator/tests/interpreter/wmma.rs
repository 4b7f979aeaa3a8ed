//! `wmma` as nvcc's own `nvcuda::wmma` writes it: the kernels of tests/fixtures/wmma.cu against the
//! product of the matrices in memory.

use half::{bf16, f16};

use super::harness::{Arg, Machine};

const PTX: &str = include_str!("../fixtures/wmma.ptx");

/// Elements in memory, and how a small integer looks as one.
#[derive(Clone, Copy)]
struct Element {
    bytes: usize,
    encode: fn(i32) -> u64,
}

const F16: Element = Element {
    bytes: 2,
    encode: |x| u64::from(f16::from_f32(x as f32).to_bits()),
};
const BF16: Element = Element {
    bytes: 2,
    encode: |x| u64::from(bf16::from_f32(x as f32).to_bits()),
};
const F32: Element = Element {
    bytes: 4,
    encode: |x| u64::from((x as f32).to_bits()),
};
const F64: Element = Element {
    bytes: 8,
    encode: |x| f64::from(x).to_bits(),
};
const INT8: Element = Element {
    bytes: 1,
    encode: |x| u64::from(x as u8),
};
const INT32: Element = Element {
    bytes: 4,
    encode: |x| u64::from(x as u32),
};

/// Rows and columns lie this many elements apart: more than any shape has, and as PTX wants it, a
/// multiple of 16 bytes.
const STRIDE: usize = 48;

/// Where element (row, column) is.
fn index(row: usize, column: usize, by_rows: bool) -> usize {
    if by_rows {
        STRIDE * row + column
    } else {
        STRIDE * column + row
    }
}

fn matrix(
    element: Element,
    size: [usize; 2],
    by_rows: bool,
    value: impl Fn(usize, usize) -> i32,
) -> Vec<u8> {
    // What is not of the matrix would be seen in the product.
    let mut bytes = vec![0x55; element.bytes * STRIDE * STRIDE];
    for row in 0..size[0] {
        for column in 0..size[1] {
            let at = element.bytes * index(row, column, by_rows);
            let encoded = (element.encode)(value(row, column)).to_le_bytes();
            bytes[at..at + element.bytes].copy_from_slice(&encoded[..element.bytes]);
        }
    }
    bytes
}

fn check(
    machine: &Machine,
    name: &str,
    [m, n, k]: [usize; 3],
    element: Element,
    sum: Element,
    least: i32,
) {
    let a = |row: usize, column: usize| (row * 7 + column * 3 + row * column) as i32 % 9 + least;
    let b =
        |row: usize, column: usize| (row * 5 + column * 2 + row * column + 1) as i32 % 7 + least;
    let c = |row: usize, column: usize| (row + 20 * column) as i32;
    let product = |row: usize, column: usize| {
        c(row, column) + (0..k).map(|x| a(row, x) * b(x, column)).sum::<i32>()
    };
    for (suffix, a_rows, b_rows) in [
        ("rr", true, true),
        ("rc", true, false),
        ("cr", false, true),
        ("cc", false, false),
    ] {
        // As the kernels have it.
        let sum_rows = b_rows;
        let kernel = format!("{name}_{suffix}");
        let inputs = [
            matrix(element, [m, k], a_rows, a),
            matrix(element, [k, n], b_rows, b),
            matrix(sum, [m, n], sum_rows, c),
        ];
        let [a_at, b_at, c_at] = inputs.map(|bytes| Arg::Pointer(machine.bytes(&bytes)));
        let bytes = sum.bytes * STRIDE * STRIDE;
        let d_at = machine.bytes(&vec![0x55; bytes]);
        let args = [
            Arg::Pointer(d_at),
            a_at,
            b_at,
            c_at,
            Arg::Word(STRIDE as u32),
        ];
        if let Err(fault) = machine.launch(&kernel, 1, 32, &args) {
            panic!("{kernel}: {fault}");
        }
        let expected = matrix(sum, [m, n], sum_rows, product);
        assert_eq!(machine.read_bytes(d_at, bytes), expected, "{kernel}");
    }
}

#[test]
fn products_of_every_shape_type_and_layout() {
    let machine = Machine::new(PTX);
    check(&machine, "f16_f32_16x16x16", [16, 16, 16], F16, F32, -4);
    check(&machine, "f16_f32_32x8x16", [32, 8, 16], F16, F32, -4);
    check(&machine, "f16_f32_8x32x16", [8, 32, 16], F16, F32, -4);
    check(&machine, "f16_f16_16x16x16", [16, 16, 16], F16, F16, -4);
    check(&machine, "f16_f16_8x32x16", [8, 32, 16], F16, F16, -4);
    check(&machine, "bf16_f32_16x16x16", [16, 16, 16], BF16, F32, -4);
    check(&machine, "bf16_f32_32x8x16", [32, 8, 16], BF16, F32, -4);
    check(&machine, "bf16_f32_8x32x16", [8, 32, 16], BF16, F32, -4);
    check(&machine, "tf32_f32_16x16x8", [16, 16, 8], F32, F32, -4);
    check(&machine, "s8_s32_16x16x16", [16, 16, 16], INT8, INT32, -4);
    check(&machine, "s8_s32_32x8x16", [32, 8, 16], INT8, INT32, -4);
    check(&machine, "u8_s32_8x32x16", [8, 32, 16], INT8, INT32, 0);
    check(&machine, "f64_f64_8x8x4", [8, 8, 4], F64, F64, -4);
}

#[test]
fn fragments_can_be_changed_element_by_element() {
    let machine = Machine::new(PTX);
    let tile: Vec<u8> = (0..256)
        .flat_map(|x| f16::from_f32(x as f32).to_bits().to_le_bytes())
        .collect();
    let at = machine.bytes(&tile);
    let out = machine.run("scaled", 1, 32, 256, &[Arg::Pointer(at)]);
    let expected: Vec<u32> = (0..256).map(|x| (2.0 * x as f32).to_bits()).collect();
    assert_eq!(out, expected);
}

/// The registers of D may be those of A, B or C in another order.
#[test]
fn a_result_in_the_operands_registers() {
    let [a, b, c] = [0, 4, 8].map(|from| {
        (from..from + 4)
            .map(|i| format!("%r{i}"))
            .collect::<Vec<_>>()
            .join(",")
    });
    let kernel = |d: &str| {
        format!(
            ".version 8.0 .target sm_80 .address_size 64
            .visible .entry k(.param .u64 to, .param .u64 in) {{
                .reg .b32 %r<40>, %lane;
                .reg .b64 %to, %in;
                ld.param.u64 %to, [to];
                ld.param.u64 %in, [in];
                wmma.load.a.sync.aligned.row.m16n16k16.bf16 {{{a}}}, [%in];
                wmma.load.b.sync.aligned.row.m16n16k16.bf16 {{{b}}}, [%in];
                wmma.load.c.sync.aligned.row.m16n16k16.f32 {{{c},%r12,%r13,%r14,%r15}}, [%to];
                wmma.mma.sync.aligned.row.row.m16n16k16.f32.bf16.bf16.f32 {{{d}}}, {{{a}}}, {{{b}}}, {{{c},%r12,%r13,%r14,%r15}};
                wmma.store.d.sync.aligned.row.m16n16k16.f32 [%to], {{{d}}};
                ret;
            }}"
        )
    };
    let input = matrix(BF16, [16, 16], true, |row, column| {
        (row * 3 + column * 5) as i32 % 7 - 3
    });
    let packed: Vec<u8> = input
        .chunks(2 * STRIDE)
        .take(16)
        .flat_map(|row| row[..32].to_vec())
        .collect();
    let [apart, aliased] = [
        "%r20,%r21,%r22,%r23,%r24,%r25,%r26,%r27",
        "%r7,%r6,%r15,%r4,%r3,%r8,%r1,%r0",
    ]
    .map(|d| {
        let machine = Machine::new(&kernel(d));
        let at = machine.bytes(&packed);
        let to = machine.words(&(0..256).map(|x| (x as f32).to_bits()).collect::<Vec<_>>());
        if let Err(fault) = machine.launch("k", 1, 32, &[Arg::Pointer(to), Arg::Pointer(at)]) {
            panic!("{fault}");
        }
        machine.read_words(to, 256)
    });
    assert_eq!(apart, aliased);
}
