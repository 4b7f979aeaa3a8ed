//! `ldmatrix` and `mma.sync` against the layouts of PTX ISA section 9.7.14, element by element.

use half::{bf16, f16};
use ptx_emulator::device::Numerics;
use ptx_emulator::exec::FaultKind;

use super::harness::{Arg, Machine};

/// One warp: loads `a`, `b`, `c` words for each lane from `in`, runs `line`, stores `d` words.
/// Registers %a0.., %b0.., %c0.., %d0...
fn fragment_kernel(line: &str, counts: [usize; 4]) -> String {
    let [a, b, c, d] = counts;
    let mut loads = String::new();
    let names = [("a", a), ("b", b), ("c", c)];
    let registers = names
        .iter()
        .flat_map(|&(name, count)| (0..count).map(move |i| format!("%{name}{i}")));
    for (index, register) in registers.enumerate() {
        loads.push_str(&format!("ld.global.u32 {register}, [%in+{}];\n", 4 * index));
    }
    let stores: String = (0..d)
        .map(|i| format!("st.global.u32 [%to+{}], %d{i};\n", 4 * i))
        .collect();
    let (read, written) = (4 * (a + b + c), 4 * d);
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 to, .param .u64 in) {{
            .reg .b32 %lane, %a<8>, %b<8>, %c<8>, %d<8>;
            .reg .b64 %to, %in, %at;
            .shared .align 16 .b8 tile[512];
            ld.param.u64 %to, [to];
            ld.param.u64 %in, [in];
            mov.u32 %lane, %tid.x;
            mul.wide.u32 %at, %lane, {read};
            add.s64 %in, %in, %at;
            mul.wide.u32 %at, %lane, {written};
            add.s64 %to, %to, %at;
            {loads}
            {line}
            {stores}
            ret;
        }}"
    )
}

/// Element `index` of register `register` of lane `lane` in the A, B or C fragment with `p`
/// elements to a register: (row, column).
fn a_place(lane: usize, register: usize, index: usize, p: usize) -> (usize, usize) {
    (
        lane / 4 + 8 * (register % 2),
        p * (lane % 4) + index + 4 * p * (register / 2),
    )
}

fn b_place(lane: usize, register: usize, index: usize, p: usize) -> (usize, usize) {
    (p * (lane % 4) + index + 4 * p * register, lane / 4)
}

fn c_place(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2)
}

/// Small integers in the 8-bit floats.
fn e4m3(x: i32) -> u32 {
    let magnitude = [0x00, 0x38, 0x40, 0x44, 0x48][x.unsigned_abs() as usize];
    magnitude | u32::from(x < 0) << 7
}

fn e5m2(x: i32) -> u32 {
    let magnitude = [0x00, 0x3c, 0x40, 0x42, 0x44][x.unsigned_abs() as usize];
    magnitude | u32::from(x < 0) << 7
}

struct Case {
    opcode: &'static str,
    k: usize,
    /// Elements to a register of A and B.
    per_register: usize,
    /// An element of A, and one of B.
    encode: [fn(i32) -> u32; 2],
    is_integer: bool,
}

/// Small integers: exact in every format, so that the sum has one right answer.
fn value(row: usize, column: usize, salt: usize) -> i32 {
    ((row * 7 + column * 3 + salt * 5 + row * column) % 9) as i32 - 4
}

fn run(case: &Case, numerics: Numerics) {
    let Case {
        opcode,
        k,
        per_register: p,
        encode,
        is_integer,
    } = *case;
    let (a_count, b_count) = (16 * k / 32 / p, 8 * k / 32 / p);
    let list = |name: &str, n: usize| {
        (0..n)
            .map(|i| format!("%{name}{i}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let line = format!(
        "{opcode} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
        list("d", 4),
        list("a", a_count),
        list("b", b_count),
        list("c", 4)
    );
    let mut machine = Machine::new(&fragment_kernel(&line, [a_count, b_count, 4, 4]));
    machine.options.numerics = numerics;
    let pack = |elements: Vec<u32>| {
        elements
            .iter()
            .enumerate()
            .fold(0, |word, (i, e)| word | e << (32 / p * i))
    };
    let sum_bits = |x: i32| {
        if is_integer {
            x as u32
        } else {
            (x as f32).to_bits()
        }
    };
    let mut words = Vec::new();
    for lane in 0..32 {
        for register in 0..a_count {
            words.push(pack(
                (0..p)
                    .map(|i| a_place(lane, register, i, p))
                    .map(|(r, c)| encode[0](value(r, c, 1)))
                    .collect(),
            ));
        }
        for register in 0..b_count {
            words.push(pack(
                (0..p)
                    .map(|i| b_place(lane, register, i, p))
                    .map(|(r, c)| encode[1](value(r, c, 2)))
                    .collect(),
            ));
        }
        for register in 0..4 {
            let (row, column) = c_place(lane, register);
            words.push(sum_bits(100 * value(row, column, 3)));
        }
    }
    let input = machine.words(&words);
    let out = machine.run("k", 1, 32, 128, &[Arg::Pointer(input)]);
    for (at, got) in out.into_iter().enumerate() {
        let (row, column) = c_place(at / 4, at % 4);
        let products: i32 = (0..k).map(|x| value(row, x, 1) * value(x, column, 2)).sum();
        let expected = sum_bits(100 * value(row, column, 3) + products);
        assert_eq!(
            got, expected,
            "{opcode} {numerics:?} row {row} column {column}"
        );
    }
}

#[test]
fn every_mma_shape_multiplies_the_right_elements_under_every_model() {
    let f16_bits = |x: i32| u32::from(f16::from_f32(x as f32).to_bits());
    let bf16_bits = |x: i32| u32::from(bf16::from_f32(x as f32).to_bits());
    let tf32_bits = |x: i32| (x as f32).to_bits();
    let s8_bits = |x: i32| u32::from(x as u8);
    let both = |opcode, k, per_register, encode| Case {
        opcode,
        k,
        per_register,
        encode,
        is_integer: false,
    };
    let float = |opcode, k, per_register, encode| both(opcode, k, per_register, [encode; 2]);
    let cases = [
        float(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            16,
            2,
            bf16_bits,
        ),
        float(
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
            8,
            2,
            bf16_bits,
        ),
        float(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            16,
            2,
            f16_bits,
        ),
        float(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
            8,
            2,
            f16_bits,
        ),
        float(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
            8,
            1,
            tf32_bits,
        ),
        float(
            "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32",
            4,
            1,
            tf32_bits,
        ),
        both(
            "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
            32,
            4,
            [e4m3; 2],
        ),
        both(
            "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32",
            32,
            4,
            [e4m3, e5m2],
        ),
        both(
            "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32",
            32,
            4,
            [e5m2, e4m3],
        ),
        both(
            "mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e5m2.f32",
            16,
            4,
            [e5m2; 2],
        ),
        Case {
            opcode: "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
            k: 32,
            per_register: 4,
            encode: [s8_bits; 2],
            is_integer: true,
        },
        Case {
            opcode: "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32",
            k: 16,
            per_register: 4,
            encode: [s8_bits; 2],
            is_integer: true,
        },
    ];
    for case in &cases {
        for numerics in [Numerics::F32Fma, Numerics::Ampere, Numerics::Hopper] {
            run(case, numerics);
        }
    }
}

#[test]
fn f16_sums_are_packed_in_pairs() {
    let line = "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%d0,%d1}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1};";
    let bits = |x: i32| u32::from(f16::from_f32(x as f32).to_bits());
    let pair = |(low, high)| bits(low) | bits(high) << 16;
    let of = |place: fn(usize, usize, usize, usize) -> (usize, usize), lane, register, salt| {
        let element = |i| {
            let (row, column) = place(lane, register, i, 2);
            value(row, column, salt)
        };
        pair((element(0), element(1)))
    };
    let mut words = Vec::new();
    for lane in 0..32 {
        words.extend((0..4).map(|r| of(a_place, lane, r, 1)));
        words.extend((0..2).map(|r| of(b_place, lane, r, 2)));
        words.extend((0..2).map(|r| pair((r + lane as i32, r - lane as i32))));
    }
    let machine = Machine::new(&fragment_kernel(line, [4, 2, 2, 2]));
    let input = machine.words(&words);
    let out = machine.run("k", 1, 32, 64, &[Arg::Pointer(input)]);
    for (at, got) in out.into_iter().enumerate() {
        let (lane, register) = (at / 2, at % 2);
        let sum = |column: usize, c: i32| {
            let row = lane / 4 + 8 * register;
            c + (0..16)
                .map(|x| value(row, x, 1) * value(x, column, 2))
                .sum::<i32>()
        };
        let (first, r) = (2 * (lane % 4), register as i32);
        assert_eq!(
            got,
            pair((sum(first, r + lane as i32), sum(first + 1, r - lane as i32))),
            "lane {lane} register {register}"
        );
    }
}

/// Four matrices, matrix m row r holding 100 m + 10 r + column; lane l points to row l % 8 of
/// matrix l / 8.
fn matrices(modifiers: &str, count: usize) -> Vec<u32> {
    let list = (0..count)
        .map(|i| format!("%d{i}"))
        .collect::<Vec<_>>()
        .join(",");
    let line = format!(
        "mov.u32 %b0, tile; mad.lo.s32 %b0, %lane, 16, %b0; st.shared.v4.u32 [%b0], {{%a0,%a1,%a2,%a3}}; bar.warp.sync -1;
         ldmatrix.sync.aligned.m8n8.{modifiers}.b16 {{{list}}}, [%b0];"
    );
    let machine = Machine::new(&fragment_kernel(&line, [4, 0, 0, count]));
    let mut words = Vec::new();
    for lane in 0..32_u32 {
        let element = |column: u32| 100 * (lane / 8) + 10 * (lane % 8) + column;
        words.extend((0..4).map(|i| element(2 * i) | element(2 * i + 1) << 16));
    }
    let input = machine.words(&words);
    machine.run("k", 1, 32, 32 * count, &[Arg::Pointer(input)])
}

#[test]
fn ldmatrix_spreads_rows_over_lanes_and_trans_columns() {
    for (name, count) in [("x1", 1), ("x2", 2), ("x4", 4)] {
        for transposed in [false, true] {
            let modifiers = if transposed {
                format!("{name}.trans.shared")
            } else {
                format!("{name}.shared")
            };
            for (at, got) in matrices(&modifiers, count).into_iter().enumerate() {
                let (lane, matrix) = (at / count, at % count);
                let element = |i: usize| {
                    let (row, column) = (lane / 4, 2 * (lane % 4) + i);
                    let (row, column) = if transposed {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    (100 * matrix + 10 * row + column) as u32
                };
                assert_eq!(
                    got,
                    element(0) | element(1) << 16,
                    "{modifiers} lane {lane} matrix {matrix}"
                );
            }
        }
    }
}

/// 1 plus `count` products of 2^-exponent each.
fn small_sum(numerics: Numerics, count: usize, exponent: i32) -> f32 {
    let line = "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%d0,%d1,%d2,%d3}, {%a0,%a1}, {%b0}, {%c0,%c1,%c2,%c3};";
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    let mut machine = Machine::new(&fragment_kernel(line, [2, 1, 4, 4]));
    machine.options.numerics = numerics;
    let mut words = Vec::new();
    for lane in 0..32 {
        let [low, high] = [0, 1].map(|i| {
            if 2 * (lane % 4) + i < count {
                bits(2.0_f32.powi(-exponent))
            } else {
                0
            }
        });
        words.extend([low | high << 16, 0, bits(1.0) | bits(1.0) << 16]);
        words.extend([1.0_f32.to_bits(); 4]);
    }
    let input = machine.words(&words);
    f32::from_bits(machine.run("k", 1, 32, 128, &[Arg::Pointer(input)])[0])
}

#[test]
fn the_models_differ_where_tensor_cores_keep_or_cut_small_terms() {
    let next = 1.0 + f32::EPSILON;
    // Two halves of a last place: each alone rounds away in f32, both models keep them to the end.
    assert_eq!(small_sum(Numerics::F32Fma, 2, 24), 1.0);
    assert_eq!(small_sum(Numerics::Ampere, 2, 24), next);
    assert_eq!(small_sum(Numerics::Hopper, 2, 24), next);
    // Four quarters: only the model with 25 fraction bits keeps them.
    assert_eq!(small_sum(Numerics::Ampere, 4, 25), 1.0);
    assert_eq!(small_sum(Numerics::Hopper, 4, 25), next);
}

#[test]
fn a_warp_that_lacks_lanes_cannot_multiply() {
    let line = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%d0}, [tile];";
    let machine = Machine::new(&fragment_kernel(line, [0, 0, 0, 1]));
    let out = machine.words(&[0; 32]);
    let fault = machine
        .launch("k", 1, 20, &[Arg::Pointer(out), Arg::Pointer(0)])
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::IllegalInstruction, "{fault}");
}

/// The upper left element of D, where A's first row is `a` in e4m3, B's first column ones, and C
/// has `c`, with f32 or f16 sums.
fn small_sum_fp8(numerics: Numerics, a: &[u8; 32], c: f32, to_f16: bool) -> f32 {
    let (line, counts) = if to_f16 {
        (
            "mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%d0,%d1}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1};",
            [4, 2, 2, 2],
        )
    } else {
        (
            "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%d0,%d1,%d2,%d3}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};",
            [4, 2, 4, 4],
        )
    };
    let mut machine = Machine::new(&fragment_kernel(line, counts));
    machine.options.numerics = numerics;
    let [a_count, b_count, c_count, d_count] = counts;
    let each = a_count + b_count + c_count;
    let mut words = vec![0_u32; 32 * each];
    for lane in 0..4 {
        for (register, half) in [(0, 0), (2, 1)] {
            let from = 16 * half + 4 * lane;
            let bytes = a[from..from + 4].try_into().expect("four bytes");
            words[lane * each + register] = u32::from_le_bytes(bytes);
        }
        // Ones in e4m3.
        words[lane * each + a_count] = 0x3838_3838;
        words[lane * each + a_count + 1] = 0x3838_3838;
    }
    words[a_count + b_count] = if to_f16 {
        u32::from(f16::from_f32(c).to_bits())
    } else {
        c.to_bits()
    };
    let input = machine.words(&words);
    let out = machine.run("k", 1, 32, 32 * d_count, &[Arg::Pointer(input)]);
    if to_f16 {
        f16::from_bits(out[0] as u16).to_f32()
    } else {
        f32::from_bits(out[0])
    }
}

#[test]
fn sums_of_8_bit_floats_keep_what_each_model_keeps() {
    // 2^-9 in e4m3, its smallest number, beside 256.
    let mut a = [1_u8; 32];
    a[0] = 0x78;
    let exact = 256.0 + 31.0 / 512.0;
    assert_eq!(small_sum_fp8(Numerics::F32Fma, &a, 0.0, false), exact);
    assert_eq!(small_sum_fp8(Numerics::Hopper, &a, 0.0, false), exact);
    // 13 bits below 256 are units of 1/32: 1/512 is cut from each product.
    assert_eq!(small_sum_fp8(Numerics::Ampere, &a, 0.0, false), 256.0);
    // The second 16 products are summed for themselves, with the first sum.
    a[0] = 1;
    a[16] = 0x78;
    assert_eq!(
        small_sum_fp8(Numerics::Ampere, &a, 0.0, false),
        256.0 + 1.0 / 32.0
    );
    // An f32 result has 13 fraction bits: 1 of 8192 + 1 is left, 1/2 is not.
    let mut a = [0_u8; 32];
    a[0] = 0x38;
    assert_eq!(small_sum_fp8(Numerics::Ampere, &a, 8192.0, false), 8193.0);
    a[0] = 0x30;
    assert_eq!(small_sum_fp8(Numerics::Ampere, &a, 8192.0, false), 8192.0);
    // f16 sums are rounded to nearest.
    a = [0x38; 32];
    assert_eq!(small_sum_fp8(Numerics::Hopper, &a, 2048.0, true), 2080.0);
    // 0x7f is NaN, and no number comes of it.
    a[5] = 0x7f;
    for numerics in [Numerics::F32Fma, Numerics::Ampere, Numerics::Hopper] {
        assert!(small_sum_fp8(numerics, &a, 0.0, false).is_nan());
    }
}

#[test]
fn products_of_f64_with_sixteen_rows() {
    for k in [4, 8, 16] {
        let list = |name: &str, n: usize| {
            let all: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
            all.join(",")
        };
        let (a_count, b_count) = (k / 2, k / 4);
        let loads: String = [("a", a_count), ("b", b_count), ("c", 4)]
            .iter()
            .flat_map(|&(name, n)| (0..n).map(move |i| format!("%{name}{i}")))
            .enumerate()
            .map(|(at, register)| format!("ld.global.f64 {register}, [%in+{}];\n", 8 * at))
            .collect();
        let read = 8 * (a_count + b_count + 4);
        let ptx = format!(
            ".version 8.0 .target sm_90 .address_size 64
            .visible .entry k(.param .u64 to, .param .u64 in) {{
                .reg .b32 %lane; .reg .b64 %to, %in, %at;
                .reg .f64 %a<8>, %b<4>, %c<4>, %d<4>;
                ld.param.u64 %to, [to]; ld.param.u64 %in, [in];
                mov.u32 %lane, %tid.x;
                mul.wide.u32 %at, %lane, {read}; add.s64 %in, %in, %at;
                mul.wide.u32 %at, %lane, 32; add.s64 %to, %to, %at;
                {loads}
                mma.sync.aligned.m16n8k{k}.row.col.f64.f64.f64.f64 {{{}}}, {{{}}}, {{{}}}, {{{}}};
                st.global.v2.f64 [%to], {{%d0,%d1}};
                st.global.v2.f64 [%to+16], {{%d2,%d3}};
                ret;
            }}",
            list("d", 4),
            list("a", a_count),
            list("b", b_count),
            list("c", 4)
        );
        let mut values = Vec::new();
        for lane in 0..32 {
            values.extend((0..a_count).map(|r| {
                let (row, column) = a_place(lane, r, 0, 1);
                value(row, column, 1)
            }));
            values.extend((0..b_count).map(|r| {
                let (row, column) = b_place(lane, r, 0, 1);
                value(row, column, 2)
            }));
            values.extend((0..4).map(|r| {
                let (row, column) = c_place(lane, r);
                100 * value(row, column, 3)
            }));
        }
        let machine = Machine::new(&ptx);
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&x| f64::from(x).to_le_bytes())
            .collect();
        let input = machine.bytes(&bytes);
        let out = machine.run("k", 1, 32, 256, &[Arg::Pointer(input)]);
        for (at, words) in out.chunks(2).enumerate() {
            let (row, column) = c_place(at / 4, at % 4);
            let products: i32 = (0..k).map(|x| value(row, x, 1) * value(x, column, 2)).sum();
            let expected = f64::from(100 * value(row, column, 3) + products);
            let got = f64::from_bits(u64::from(words[1]) << 32 | u64::from(words[0]));
            assert_eq!(got, expected, "k {k} row {row} column {column}");
        }
    }
}
