//! `wgmma` against an f64 reference, with matrices laid out in shared memory as CuTe's headers
//! describe the canonical layouts (`mma_traits_sm90_gmma.hpp`).

use half::{bf16, f16};
use ptx_emulator::device::Numerics;
use ptx_emulator::exec::count::{KernelCounters, Kind};
use ptx_emulator::exec::{Fault, FaultKind};

use super::harness::{Arg, Machine};

/// Where A and B lie in shared memory, and its size.
const A_AT: usize = 0;
const B_AT: usize = 8192;
const BYTES: usize = 8192 + 32768;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::Tf32 => "tf32",
            Type::E4m3 => "e4m3",
            Type::E5m2 => "e5m2",
            Type::S8 => "s8",
            Type::U8 => "u8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Type::F16 | Type::Bf16 => 2,
            Type::Tf32 => 4,
            _ => 1,
        }
    }

    /// A small integer, exact in every format.
    fn encode(self, value: i32) -> Vec<u8> {
        let x = value as f32;
        match self {
            Type::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            Type::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            Type::Tf32 => x.to_le_bytes().to_vec(),
            Type::S8 | Type::U8 => vec![value as u8],
            Type::E5m2 => vec![f16::from_f32(x).to_le_bytes()[1]],
            Type::E4m3 => {
                let sign = if value < 0 { 0x80 } else { 0 };
                let magnitude = value.unsigned_abs();
                let Some(e) = magnitude.checked_ilog2() else {
                    return vec![sign];
                };
                vec![sign | ((e + 7) << 3) as u8 | ((magnitude << 3 >> e) & 7) as u8]
            }
        }
    }

    /// The integers of at most this size are exact, and so are sums of 32 products of them.
    fn most(self) -> i32 {
        if self == Type::E5m2 { 4 } else { 8 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    a: Type,
    b: Type,
    sum: &'static str,
    n: usize,
    /// Bytes of the swizzle's span; 16 for none.
    span: usize,
    transposed: [bool; 2],
    /// A in registers.
    registers: bool,
    /// The K step within wider rows that is multiplied.
    step: usize,
}

/// Offset of a coordinate in a CuTe layout with one nested mode: shapes and strides, first fastest.
fn mode(mut index: usize, shape: &[usize], stride: &[usize]) -> usize {
    let mut offset = 0;
    for (at, (extent, stride)) in shape.iter().zip(stride).enumerate() {
        let digit = if at + 1 == shape.len() {
            index
        } else {
            index % extent
        };
        offset += digit * stride;
        index /= extent.max(&1);
    }
    offset
}

/// A matrix of `extent` (M or N) by K in shared memory.
#[derive(Clone, Copy)]
struct Matrix {
    start: usize,
    ty: Type,
    span: usize,
    transposed: bool,
    extent: usize,
    step: usize,
}

impl Matrix {
    /// Leading and stride byte offsets.
    fn offsets(&self) -> [usize; 2] {
        match (self.span, self.transposed) {
            // The core matrices of eight rows lie one after the other; both halves of K apart.
            (16, false) => [16 * self.extent, 128],
            (16, true) => [16 * self.extent, 128],
            // Eight rows after the other.
            (span, false) => [16, 8 * span],
            // Blocks of a span's columns and eight k; those of the next k follow behind all
            // columns.
            (span, true) => [
                8 * span,
                8 * span * self.extent.div_ceil(span / self.ty.bytes()),
            ],
        }
    }

    /// Bytes from a descriptor's start to that of K step `step`.
    fn advance(&self) -> usize {
        match (self.span, self.transposed) {
            (16, _) => 0,
            (_, false) => 32 * self.step,
            (_, true) => 0,
        }
    }

    /// Byte address of an element.
    fn place(&self, row: usize, k: usize) -> usize {
        let size = self.ty.bytes();
        let t = 16 / size;
        let [lbo, sbo] = self.offsets().map(|bytes| bytes / size);
        let w = self.span / 16;
        let offset = match (self.span, self.transposed) {
            (16, false) => mode(row, &[8, 0], &[t, sbo]) + mode(k, &[t, 2], &[1, lbo]),
            (_, false) => mode(row, &[8, 0], &[w * t, sbo]) + mode(k, &[t, 2], &[1, t]),
            (16, true) => mode(row, &[t, 1, 0], &[1, t, sbo]) + mode(k, &[8, 0], &[t, lbo]),
            (_, true) => mode(row, &[t, w, 0], &[1, t, lbo]) + mode(k, &[8, 0], &[w * t, sbo]),
        };
        let at = self.start + self.advance() + offset * size;
        // Swizzle<B, 4, 3>.
        let bits = match self.span {
            16 => 0,
            32 => 1,
            64 => 3,
            _ => 7,
        };
        at ^ ((at >> 7 & bits) << 4)
    }

    fn descriptor(&self) -> u64 {
        let field = |bytes: usize| (bytes as u64) >> 4;
        let [lbo, sbo] = self.offsets();
        let swizzle = match self.span {
            16 => 0,
            32 => 3,
            64 => 2,
            _ => 1_u64,
        };
        swizzle << 62 | field(sbo) << 32 | field(lbo) << 16 | field(self.start + self.advance())
    }
}

impl Case {
    fn plain(ty: Type, n: usize) -> Case {
        Case {
            a: ty,
            b: ty,
            sum: if matches!(ty, Type::S8 | Type::U8) {
                "s32"
            } else {
                "f32"
            },
            n,
            span: 128,
            transposed: [false; 2],
            registers: false,
            step: 0,
        }
    }

    fn k(&self) -> usize {
        32 / self.a.bytes()
    }

    fn matrices(&self) -> [Matrix; 2] {
        let matrix = |start, ty, extent, transposed| Matrix {
            start,
            ty,
            span: self.span,
            transposed,
            extent,
            step: self.step,
        };
        [
            matrix(A_AT, self.a, 64, self.transposed[0]),
            matrix(B_AT, self.b, self.n, self.transposed[1]),
        ]
    }

    fn sums(&self) -> usize {
        if self.sum == "f16" {
            self.n / 4
        } else {
            self.n / 2
        }
    }

    fn opcode(&self) -> String {
        format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}.{}.{}.{}",
            self.n,
            self.k(),
            self.sum,
            self.a.word(),
            self.b.word()
        )
    }

    /// The instruction with signs of A and B.
    fn instruction(&self, signs: [i32; 2]) -> String {
        let list = |name: &str, count: usize| {
            let names: Vec<_> = (0..count).map(|i| format!("%{name}{i}")).collect();
            format!("{{{}}}", names.join(","))
        };
        let a = if self.registers {
            list("a", 4)
        } else {
            "%da".to_owned()
        };
        let mut text = format!("{} {}, {a}, %db, %p", self.opcode(), list("c", self.sums()));
        if self.sum != "s32" {
            text.push_str(&format!(", {}, {}", signs[0], signs[1]));
        }
        if self.a.bytes() == 2 {
            if !self.registers {
                text.push_str(&format!(", {}", i32::from(self.transposed[0])));
            }
            text.push_str(&format!(", {}", i32::from(self.transposed[1])));
        }
        text.push(';');
        text
    }
}

/// A kernel of one warpgroup: fills shared memory with `in`, loads D and A's fragment of each
/// thread from behind, runs `body`, and stores D. Descriptors are %da and %db, %p is true.
fn kernel(case: &Case, body: &str) -> String {
    let sums = case.sums();
    let each = 4 * (sums + 4);
    let (mut loads, mut stores) = (String::new(), String::new());
    for i in 0..sums {
        loads.push_str(&format!("ld.global.b32 %c{i}, [%in+{}];\n", BYTES + 4 * i));
        stores.push_str(&format!("st.global.b32 [%out+{}], %c{i};\n", 4 * i));
    }
    for i in 0..4 {
        loads.push_str(&format!(
            "ld.global.b32 %a{i}, [%in+{}];\n",
            BYTES + 4 * (sums + i)
        ));
    }
    format!(
        ".version 8.5 .target sm_90a .address_size 64
        .visible .entry k(.param .u64 to, .param .u64 from, .param .u64 da, .param .u64 db) {{
            .reg .pred %p, %q;
            .reg .b32 %t, %s, %x, %a<4>, %c<{sums}>;
            .reg .b64 %da, %db, %out, %in, %at, %each;
            .shared .align 1024 .b8 tile[{BYTES}];
            ld.param.u64 %out, [to];
            ld.param.u64 %in, [from];
            ld.param.u64 %da, [da];
            ld.param.u64 %db, [db];
            mov.u32 %t, %tid.x;
            shl.b32 %s, %t, 2;
            cvt.u64.u32 %at, %s;
            add.s64 %at, %at, %in;
        fill:
            ld.global.b32 %x, [%at];
            st.shared.b32 [%s], %x;
            add.s32 %s, %s, 512;
            add.s64 %at, %at, 512;
            setp.lt.u32 %q, %s, {BYTES};
            @%q bra fill;
            fence.proxy.async.shared::cta;
            bar.sync 0;
            mul.wide.u32 %each, %t, {each};
            add.s64 %in, %in, %each;
            mul.wide.u32 %each, %t, {};
            add.s64 %out, %out, %each;
            {loads}
            setp.eq.u32 %p, 0, 0;
            wgmma.fence.sync.aligned;
            {body}
            wgmma.commit_group.sync.aligned;
            wgmma.wait_group.sync.aligned 0;
            {stores}
            ret;
        }}",
        4 * sums
    )
}

/// Row and column of D that an element of a thread's registers holds: register, half of it.
fn sum_place(case: &Case, thread: usize, register: usize, half: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    let (g, t) = (lane / 4, lane % 4);
    let (part, i) = if case.sum == "f16" {
        (register / 2, 2 * (register % 2) + half)
    } else {
        (register / 4, register % 4)
    };
    (16 * warp + g + 8 * (i / 2), 8 * part + 2 * t + i % 2)
}

struct Inputs {
    /// 64 x K.
    a: Vec<Vec<i32>>,
    /// K x N.
    b: Vec<Vec<i32>>,
    /// 64 x N.
    c: Vec<Vec<i32>>,
}

fn pattern(rows: usize, columns: usize, most: i32, salt: usize, signed: bool) -> Vec<Vec<i32>> {
    let value = |row: usize, column: usize| {
        let mixed = (row * 31 + column * 17 + salt * 7 + row * column * 5) % 97;
        let value = mixed as i32 % (most + 1);
        if signed && (row + column + mixed) % 2 == 1 {
            -value
        } else {
            value
        }
    };
    (0..rows)
        .map(|row| (0..columns).map(|column| value(row, column)).collect())
        .collect()
}

impl Inputs {
    fn new(case: &Case) -> Inputs {
        Inputs {
            a: pattern(64, case.k(), case.a.most(), 1, case.a != Type::U8),
            b: pattern(case.k(), case.n, case.b.most(), 2, case.b != Type::U8),
            c: pattern(64, case.n, 9, 3, true),
        }
    }

    /// D of `scale` products, exact.
    fn expected(&self, scale: i32) -> Vec<Vec<i32>> {
        let (k, n) = (self.b.len(), self.c[0].len());
        let at = |row: usize, column: usize| {
            let products = (0..k).map(|k| self.a[row][k] * self.b[k][column]);
            self.c[row][column] + scale * products.sum::<i32>()
        };
        (0..64)
            .map(|row| (0..n).map(|column| at(row, column)).collect())
            .collect()
    }
}

struct Setting {
    numerics: Numerics,
    early: bool,
}

const SETTINGS: [Setting; 3] = [
    Setting {
        numerics: Numerics::F32Fma,
        early: false,
    },
    Setting {
        numerics: Numerics::Hopper,
        early: false,
    },
    Setting {
        numerics: Numerics::F32Fma,
        early: true,
    },
];

fn launch(
    case: &Case,
    inputs: &Inputs,
    body: &str,
    setting: &Setting,
) -> Result<Vec<Vec<f64>>, Fault> {
    counted(case, inputs, body, setting, None)
}

fn counted(
    case: &Case,
    inputs: &Inputs,
    body: &str,
    setting: &Setting,
    counters: Option<&mut KernelCounters>,
) -> Result<Vec<Vec<f64>>, Fault> {
    let mut machine = Machine::new(&kernel(case, body));
    machine.options.numerics = setting.numerics;
    machine.options.early_copies = setting.early;
    // What is no element of a matrix is NaN in every float format.
    let mut image = vec![0xff_u8; BYTES];
    let [a, b] = case.matrices();
    let mut put = |matrix: &Matrix, row: usize, k: usize, value: i32| {
        let at = matrix.place(row, k);
        let bytes = matrix.ty.encode(value);
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    for k in 0..case.k() {
        for row in 0..64 {
            put(&a, row, k, inputs.a[row][k]);
        }
        for column in 0..case.n {
            put(&b, column, k, inputs.b[k][column]);
        }
    }
    let halves = if case.sum == "f16" { 2 } else { 1 };
    for thread in 0..128 {
        for register in 0..case.sums() {
            for half in 0..halves {
                let (row, column) = sum_place(case, thread, register, half);
                let value = inputs.c[row][column];
                let bytes = match case.sum {
                    "f16" => f16::from_f32(value as f32).to_le_bytes().to_vec(),
                    "s32" => value.to_le_bytes().to_vec(),
                    _ => (value as f32).to_le_bytes().to_vec(),
                };
                image.extend(bytes);
            }
        }
        // A's fragment: word t + 4 (i / 2) of row g + 8 (i % 2).
        for i in 0..4 {
            let (g, t) = (thread % 32 / 4, thread % 4);
            let row = 16 * (thread / 32) + g + 8 * (i % 2);
            let per = 4 / case.a.bytes();
            let first = per * (t + 4 * (i / 2));
            let bytes = (first..first + per).flat_map(|k| case.a.encode(inputs.a[row][k]));
            image.extend(bytes);
        }
    }
    let count = 128 * case.sums();
    let (from, to) = (machine.bytes(&image), machine.words(&vec![0; count]));
    let args = [to, from, a.descriptor(), b.descriptor()].map(Arg::Pointer);
    machine.options.count = counters.is_some();
    let report = machine.launch("k", 1, 128, &args)?;
    if let (Some(counters), Some(found)) = (counters, report.counters) {
        *counters = *found;
    }
    let mut out = vec![vec![f64::NAN; case.n]; 64];
    for (index, word) in machine.read_words(to, count).into_iter().enumerate() {
        let (thread, register) = (index / case.sums(), index % case.sums());
        for half in 0..halves {
            let (row, column) = sum_place(case, thread, register, half);
            out[row][column] = match case.sum {
                "f16" => f16::from_bits((word >> (16 * half)) as u16).to_f64(),
                "s32" => f64::from(word as i32),
                _ => f64::from(f32::from_bits(word)),
            };
        }
    }
    Ok(out)
}

#[track_caller]
fn check(case: &Case, inputs: &Inputs, body: &str, scale: i32) {
    let expected = inputs.expected(scale);
    for setting in &SETTINGS {
        let got = match launch(case, inputs, body, setting) {
            Ok(got) => got,
            Err(fault) => panic!("{case:?}: {fault}"),
        };
        for (row, column) in (0..64).flat_map(|row| (0..case.n).map(move |column| (row, column))) {
            assert_eq!(
                got[row][column],
                f64::from(expected[row][column]),
                "{case:?} ({row}, {column})"
            );
        }
    }
}

const ALL: [Type; 7] = [
    Type::F16,
    Type::Bf16,
    Type::Tf32,
    Type::E4m3,
    Type::E5m2,
    Type::S8,
    Type::U8,
];

#[test]
fn every_type_and_shape_is_the_product() {
    for ty in ALL {
        let integer = matches!(ty, Type::S8 | Type::U8);
        for n in [8, 16, 24, 32, 48, 64, 96, 128, 192, 240, 256] {
            let case = Case::plain(ty, n);
            check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
        }
        if !integer {
            for n in [40, 104, 248] {
                let case = Case::plain(ty, n);
                check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
            }
        }
    }
}

#[test]
fn elements_of_eight_bits_mix() {
    let pairs = [
        (Type::E4m3, Type::E5m2),
        (Type::E5m2, Type::E4m3),
        (Type::S8, Type::U8),
        (Type::U8, Type::S8),
    ];
    for (a, b) in pairs {
        let case = Case {
            a,
            b,
            ..Case::plain(a, 32)
        };
        check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
    }
}

#[test]
fn sums_may_be_f16() {
    for ty in [Type::F16, Type::E4m3, Type::E5m2] {
        for n in [8, 24, 128] {
            let mut case = Case::plain(ty, n);
            case.sum = "f16";
            let mut inputs = Inputs::new(&case);
            // Small enough to be exact in 11 bits.
            let rows = inputs.a.iter_mut().chain(&mut inputs.b).flatten();
            rows.for_each(|x| *x %= 4);
            check(&case, &inputs, &case.instruction([1, 1]), 1);
        }
    }
}

#[test]
fn a_may_be_in_registers() {
    for ty in ALL {
        let case = Case {
            registers: true,
            ..Case::plain(ty, 64)
        };
        check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
    }
}

/// The layouts that a type has: neighbours along K, and of 16-bit types also along M and N.
fn layouts(ty: Type) -> impl Iterator<Item = Case> {
    let majors = if ty.bytes() == 2 { 4 } else { 1 };
    [16, 32, 64, 128].into_iter().flat_map(move |span| {
        (0..majors).map(move |major| Case {
            span,
            transposed: [major & 1 == 1, major & 2 == 2],
            ..Case::plain(ty, 96)
        })
    })
}

#[test]
fn layouts_of_both_majors_and_all_swizzles() {
    for ty in ALL {
        for case in layouts(ty) {
            check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
        }
    }
}

/// One element of A that is not zero picks a row of B, and one of B a column of A.
#[test]
fn single_elements_lie_where_the_layout_says() {
    for ty in [Type::Bf16, Type::Tf32, Type::S8] {
        for case in layouts(ty) {
            let dense = Inputs::new(&case);
            let last = case.k() - 1;
            for (row, column, k) in [(0, 0, 0), (9, 9, 1), (63, 95, last), (17, 70, last / 2)] {
                let zeros = |rows: usize, columns: usize| vec![vec![0; columns]; rows];
                let mut a = Inputs {
                    a: zeros(64, case.k()),
                    c: zeros(64, case.n),
                    ..Inputs::new(&case)
                };
                a.a[row][k] = 3;
                check(&case, &a, &case.instruction([1, 1]), 1);
                let mut b = Inputs {
                    a: dense.a.clone(),
                    b: zeros(case.k(), case.n),
                    c: zeros(64, case.n),
                };
                b.b[k][column] = 3;
                check(&case, &b, &case.instruction([1, 1]), 1);
            }
        }
    }
}

/// Rows of 128 bytes hold the K of four instructions: the descriptor's start moves by 32 bytes
/// within the swizzle's pattern.
#[test]
fn a_start_address_may_lie_within_a_pattern() {
    for (span, steps) in [(64, 2), (128, 4)] {
        for step in 0..steps {
            for ty in [Type::Bf16, Type::Tf32, Type::E4m3] {
                let case = Case {
                    span,
                    step,
                    ..Case::plain(ty, 64)
                };
                check(&case, &Inputs::new(&case), &case.instruction([1, 1]), 1);
            }
        }
    }
}

#[test]
fn matrices_may_be_negated() {
    for registers in [false, true] {
        let case = Case {
            registers,
            ..Case::plain(Type::F16, 16)
        };
        let inputs = Inputs::new(&case);
        check(&case, &inputs, &case.instruction([-1, 1]), -1);
        check(&case, &inputs, &case.instruction([1, -1]), -1);
        check(&case, &inputs, &case.instruction([-1, -1]), 1);
    }
}

#[test]
fn scale_d_keeps_or_drops_the_sum() {
    for ty in [Type::Bf16, Type::S8] {
        let case = Case::plain(ty, 16);
        let mut inputs = Inputs::new(&case);
        let text = case.instruction([1, 1]);
        check(&case, &inputs, &text.replace("%p", "1"), 1);
        check(&case, &inputs, &text.replace("%p", "-1"), 1);
        let twice = format!("{text}\n{text}");
        check(&case, &inputs, &twice, 2);
        inputs.c.iter_mut().flatten().for_each(|c| *c = 0);
        let given = Inputs {
            c: Inputs::new(&case).c,
            ..Inputs::new(&case)
        };
        for dropped in ["0", "!%p"] {
            let expected = inputs.expected(1);
            let got = launch(&case, &given, &text.replace("%p", dropped), &SETTINGS[0]).unwrap();
            let expected: Vec<Vec<f64>> = expected
                .iter()
                .map(|row| row.iter().map(|&x| f64::from(x)).collect())
                .collect();
            assert_eq!(got, expected, "{dropped}");
        }
    }
}

#[test]
fn integers_wrap_or_saturate() {
    let case = Case::plain(Type::S8, 8);
    let mut inputs = Inputs::new(&case);
    inputs.a.iter_mut().flatten().for_each(|x| *x = 100);
    inputs.b.iter_mut().flatten().for_each(|x| *x = 100);
    inputs
        .c
        .iter_mut()
        .flatten()
        .for_each(|x| *x = i32::MAX - 5);
    let text = case.instruction([1, 1]);
    let wrapped = f64::from((i32::MAX - 5).wrapping_add(32 * 10_000));
    let got = launch(&case, &inputs, &text, &SETTINGS[0]).unwrap();
    assert!(got.iter().flatten().all(|&x| x == wrapped));
    for place in [".s8.s8.satfinite ", ".satfinite.s32.s8.s8 "] {
        let at = if place.starts_with(".s8") {
            ".s8.s8 "
        } else {
            ".s32.s8.s8 "
        };
        let got = launch(&case, &inputs, &text.replace(at, place), &SETTINGS[0]).unwrap();
        assert!(got.iter().flatten().all(|&x| x == f64::from(i32::MAX)));
    }
}

/// Values over many exponents against f64: Hopper's sums are near the truth, but not the same as
/// those of f32.
#[test]
fn sums_of_both_models_are_near_the_truth() {
    // The reference is in f64 from the operands as the formats have them.
    let case = Case::plain(Type::Tf32, 64);
    let mut inputs = Inputs::new(&case);
    // Not exact in the 11 bits of tf32: the low bits are cut.
    inputs
        .a
        .iter_mut()
        .flatten()
        .for_each(|x| *x = *x * 40_009 + 17);
    inputs
        .b
        .iter_mut()
        .flatten()
        .for_each(|x| *x = *x * 30_011 + 5);
    let cut = |x: i32| f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_e000));
    for setting in &SETTINGS[..2] {
        let got = launch(&case, &inputs, &case.instruction([1, 1]), setting).unwrap();
        for (row, column) in (0..64).flat_map(|row| (0..64).map(move |column| (row, column))) {
            let terms = (0..8).map(|k| cut(inputs.a[row][k]) * cut(inputs.b[k][column]));
            let (sum, size) = terms.fold(
                (f64::from(inputs.c[row][column]), 9.0),
                |(sum, size), term| (sum + term, size + term.abs()),
            );
            let error = (got[row][column] - sum).abs();
            assert!(
                error <= 1.5 * 8.0 * size * 2.0_f64.powi(-24),
                "{error} of {size}"
            );
        }
    }
}

#[test]
fn wrong_forms_are_refused_by_name() {
    let refused = |line: &str| {
        let ptx = format!(
            ".version 8.5 .target sm_90a .address_size 64 .entry k() {{
            .reg .pred %p; .reg .b32 %c<128>, %a<4>; .reg .b64 %d; {line} ret; }}"
        );
        let module = ptx_emulator::parse::parse_module(&ptx).expect("it parses");
        match ptx_emulator::decode::Program::decode(&module) {
            Ok(_) => panic!("{line} was taken"),
            Err(error) => error.to_string(),
        }
    };
    let m = "wgmma.mma_async.sync.aligned";
    let four = "{%c0,%c1,%c2,%c3}";
    let cases = [
        (
            format!(
                "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 {four}, %d, %d, %c4, 0, %p, 1, 1, 0, 0;"
            ),
            "sparse",
        ),
        (
            format!("{m}.m64n8k256.s32.b1.b1.and.popc {four}, %d, %d, %p;"),
            "single bits",
        ),
        (
            format!("{m}.m64n12k16.f32.bf16.bf16 {four}, %d, %d, %p, 1, 1, 0, 0;"),
            "N is 12",
        ),
        (
            format!("{m}.m64n264k16.f32.bf16.bf16 {four}, %d, %d, %p, 1, 1, 0, 0;"),
            "N is 264",
        ),
        (
            format!("{m}.m64n40k32.s32.s8.s8 {four}, %d, %d, %p;"),
            "N is 40",
        ),
        (
            format!("{m}.m64n8k8.f32.bf16.bf16 {four}, %d, %d, %p, 1, 1, 0, 0;"),
            "K of these types is 16",
        ),
        (
            format!("{m}.m64n8k16.f32.f16.bf16 {four}, %d, %d, %p, 1, 1, 0, 0;"),
            "not supported together",
        ),
        (
            format!("{m}.m64n8k16.f32.bf16.bf16 {four}, %d, %d, %p, 2, 1, 0, 0;"),
            "must be 1 or -1",
        ),
        (
            format!("{m}.m64n8k16.f32.bf16.bf16 {{%c0,%c1}}, %d, %d, %p, 1, 1, 0, 0;"),
            "2 registers, 4 expected",
        ),
        (
            format!("{m}.m64n8k8.f32.tf32.tf32 {four}, %d, %d, %p, 1, 1, 0, 0;"),
            "operands",
        ),
        ("wgmma.wait_group.sync.aligned %c0;".to_owned(), "immediate"),
        ("wgmma.fence.aligned;".to_owned(), "sync"),
    ];
    for (line, word) in cases {
        let error = refused(&line);
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn descriptors_are_held_to_shared_memory_and_to_what_is_supported() {
    let case = Case::plain(Type::Bf16, 64);
    let inputs = Inputs::new(&case);
    let faulted = |change: &str| {
        let body = format!("{change}\n{}", case.instruction([1, 1]));
        launch(&case, &inputs, &body, &SETTINGS[0]).expect_err(change)
    };
    let fault = faulted("add.s64 %db, %db, 2400;");
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert!(
        fault.message.contains("of B at 0xb") && fault.message.contains("0xa000"),
        "{fault}"
    );
    let fault = faulted("or.b64 %da, %da, 0x2000000000000;");
    assert_eq!(fault.kind, FaultKind::IllegalInstruction);
    assert!(fault.message.contains("base offset 1"), "{fault}");
    let fault = faulted("cvt.u64.u32 %at, %t; add.s64 %db, %db, %at;");
    assert!(
        fault.message.contains("lanes of the warp give different"),
        "{fault}"
    );
    let fault = faulted("and.b32 %x, %t, 32; cvt.u64.u32 %at, %x; add.s64 %db, %db, %at;");
    assert!(
        fault
            .message
            .contains("warps of a warpgroup give different"),
        "{fault}"
    );
}

/// One product is four warps' instructions; its matrices are read once, 128 bytes a wavefront.
#[test]
fn work_and_operands_are_counted() {
    for span in [16, 32, 64, 128] {
        for (registers, transposed) in [(false, false), (true, false), (false, true)] {
            let case = Case {
                span,
                registers,
                transposed: [transposed; 2],
                ..Case::plain(Type::Bf16, 96)
            };
            let mut counters = KernelCounters::default();
            let (inputs, text) = (Inputs::new(&case), case.instruction([1, 1]));
            let twice = format!("{text}\n{text}");
            counted(&case, &inputs, &twice, &SETTINGS[0], Some(&mut counters)).unwrap();
            let found = counters.kind(Kind::Wgmma);
            assert_eq!(found.warp_instructions, 2 * 4);
            assert_eq!(found.lanes, 2 * 128);
            assert_eq!(found.mma_flops, 2 * 2 * 64 * 96 * 16);
            let bytes = 2 * 32 * if registers { 96 } else { 64 + 96 };
            assert_eq!(found.ideal_wavefronts, bytes / 128, "{case:?}");
            assert_eq!(found.bank_conflicts(), 0, "{case:?}");
            assert_eq!(counters.kind(Kind::WgmmaGroup).warp_instructions, 3 * 4);
            assert_eq!(counters.total.mma_flops, found.mma_flops);
        }
    }
}
