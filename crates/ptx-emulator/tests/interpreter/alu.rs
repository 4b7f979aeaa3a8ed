//! Integer arithmetic, logic and bit fields.

use super::harness::{check, eval};

const I32_MIN: u64 = 0x8000_0000;
const NEG1: u64 = 0xffff_ffff;

/// Operands with every interesting sign and width.
fn spread() -> Vec<[u64; 3]> {
    let values = [
        0_u64,
        1,
        5,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        I32_MIN,
        NEG1,
        0x1_2345_6789,
        1 << 63,
        u64::MAX,
        0xdead_beef_cafe_f00d,
    ];
    let mut all = Vec::new();
    for (i, &a) in values.iter().enumerate() {
        for (j, &b) in values.iter().enumerate() {
            all.push([a, b, values[(i + j) % values.len()]]);
        }
    }
    all
}

#[track_caller]
fn same(line: &str, f: impl Fn(u64, u64, u64) -> u64) {
    for operands in spread().chunks(64) {
        for (got, &[a, b, c]) in eval(line, operands).into_iter().zip(operands) {
            let expected = f(a, b, c);
            assert_eq!(
                got, expected,
                "{line} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {expected:#x}"
            );
        }
    }
}

fn w(x: u64) -> u32 {
    x as u32
}

fn i(x: u64) -> i32 {
    x as i32
}

fn u(x: i32) -> u64 {
    u64::from(x as u32)
}

#[test]
fn arithmetic_wraps_at_every_width() {
    same("add.s32 %r, %ra, %rb;", |a, b, _| {
        u64::from(w(a).wrapping_add(w(b)))
    });
    same("sub.u32 %r, %ra, %rb;", |a, b, _| {
        u64::from(w(a).wrapping_sub(w(b)))
    });
    same("mul.lo.s32 %r, %ra, %rb;", |a, b, _| {
        u64::from(w(a).wrapping_mul(w(b)))
    });
    same("add.s64 %d, %da, %db;", |a, b, _| a.wrapping_add(b));
    same("sub.s64 %d, %da, %db;", |a, b, _| a.wrapping_sub(b));
    same("mul.lo.u64 %d, %da, %db;", |a, b, _| a.wrapping_mul(b));
    same("add.u16 %h, %ha, %hb;", |a, b, _| {
        u64::from((a as u16).wrapping_add(b as u16))
    });
    same("mul.lo.s16 %h, %ha, %hb;", |a, b, _| {
        u64::from((a as u16).wrapping_mul(b as u16))
    });
    same("neg.s16 %h, %ha;", |a, _, _| {
        u64::from((a as u16).wrapping_neg())
    });
    same("abs.s32 %r, %ra;", |a, _, _| u(i(a).wrapping_abs()));
    same("neg.s64 %d, %da;", |a, _, _| a.wrapping_neg());
    same("mad.lo.s32 %r, %ra, %rb, %rc;", |a, b, c| {
        u64::from(w(a).wrapping_mul(w(b)).wrapping_add(w(c)))
    });
    same("mad.lo.s64 %d, %da, %db, %dc;", |a, b, c| {
        a.wrapping_mul(b).wrapping_add(c)
    });
}

#[test]
fn high_and_wide_products_keep_all_bits() {
    same("mul.hi.s32 %r, %ra, %rb;", |a, b, _| {
        u(((i64::from(i(a)) * i64::from(i(b))) >> 32) as i32)
    });
    same("mul.hi.u32 %r, %ra, %rb;", |a, b, _| {
        (u64::from(w(a)) * u64::from(w(b))) >> 32
    });
    same("mul.hi.u64 %d, %da, %db;", |a, b, _| {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    });
    same("mul.hi.s64 %d, %da, %db;", |a, b, _| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
    same("mul.hi.s16 %h, %ha, %hb;", |a, b, _| {
        u64::from(((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16)
    });
    same("mul.wide.s32 %d, %ra, %rb;", |a, b, _| {
        (i64::from(i(a)) * i64::from(i(b))) as u64
    });
    same("mul.wide.u32 %d, %ra, %rb;", |a, b, _| {
        u64::from(w(a)) * u64::from(w(b))
    });
    same("mul.wide.s16 %r, %ha, %hb;", |a, b, _| {
        u(i32::from(a as i16) * i32::from(b as i16))
    });
    same("mul.wide.u16 %r, %ha, %hb;", |a, b, _| {
        ((a & 0xffff) * (b & 0xffff)) & NEG1
    });
    same("mad.wide.s32 %d, %ra, %rb, %dc;", |a, b, c| {
        ((i64::from(i(a)) * i64::from(i(b))) as u64).wrapping_add(c)
    });
    same("mad.hi.u32 %r, %ra, %rb, %rc;", |a, b, c| {
        u64::from((((u64::from(w(a)) * u64::from(w(b))) >> 32) as u32).wrapping_add(w(c)))
    });
    same("mul24.lo.s32 %r, %ra, %rb;", |a, b, _| {
        let cut = |x: u64| i64::from((w(x) << 8) as i32 >> 8);
        (cut(a) * cut(b)) as u64 & NEG1
    });
}

#[test]
fn division_truncates_and_survives_zero_and_overflow() {
    same("div.s32 %r, %ra, %rb;", |a, b, _| {
        if w(b) == 0 {
            NEG1
        } else {
            u(i(a).wrapping_div(i(b)))
        }
    });
    same("rem.s32 %r, %ra, %rb;", |a, b, _| {
        if w(b) == 0 {
            u64::from(w(a))
        } else {
            u(i(a).wrapping_rem(i(b)))
        }
    });
    same("div.u32 %r, %ra, %rb;", |a, b, _| {
        u64::from(w(a).checked_div(w(b)).unwrap_or(u32::MAX))
    });
    same("rem.u64 %d, %da, %db;", |a, b, _| {
        a.checked_rem(b).unwrap_or(a)
    });
    same("div.s64 %d, %da, %db;", |a, b, _| {
        if b == 0 {
            u64::MAX
        } else {
            (a as i64).wrapping_div(b as i64) as u64
        }
    });
    same("div.s16 %h, %ha, %hb;", |a, b, _| {
        let (a, b) = (a as i16, b as i16);
        u64::from(if b == 0 {
            0xffff
        } else {
            a.wrapping_div(b) as u16
        })
    });
}

#[test]
fn minimum_maximum_and_saturation_respect_signs() {
    same("min.s32 %r, %ra, %rb;", |a, b, _| u(i(a).min(i(b))));
    same("max.u32 %r, %ra, %rb;", |a, b, _| u64::from(w(a).max(w(b))));
    same("max.s64 %d, %da, %db;", |a, b, _| {
        (a as i64).max(b as i64) as u64
    });
    same("min.u64 %d, %da, %db;", |a, b, _| a.min(b));
    same("min.s16 %h, %ha, %hb;", |a, b, _| {
        u64::from((a as i16).min(b as i16) as u16)
    });
    same("add.sat.s32 %r, %ra, %rb;", |a, b, _| {
        u(i(a).saturating_add(i(b)))
    });
    same("sub.sat.s32 %r, %ra, %rb;", |a, b, _| {
        u(i(a).saturating_sub(i(b)))
    });
    same("sad.s32 %r, %ra, %rb, %rc;", |a, b, c| {
        u64::from(i(a).abs_diff(i(b)).wrapping_add(w(c)))
    });
}

#[test]
fn carries_chain_through_the_condition_code() {
    let line = "mov.b64 {%u3, %u4}, %da; mov.b64 {%u5, %u6}, %db; add.cc.u32 %u3, %u3, %u5; addc.cc.u32 %u4, %u4, %u6; addc.u32 %r, 0, 0;";
    for (got, [a, b, _]) in eval_result(line).into_iter().zip(spread()) {
        assert_eq!(
            got,
            u64::from(a.checked_add(b).is_none()),
            "carry of {a:#x} + {b:#x}"
        );
    }
    let line = "mov.b64 {%u3, %u4}, %da; mov.b64 {%u5, %u6}, %db; sub.cc.u32 %u3, %u3, %u5; subc.u32 %r, %u4, %u6;";
    for (got, [a, b, _]) in eval_result(line).into_iter().zip(spread()) {
        assert_eq!(got, a.wrapping_sub(b) >> 32, "{a:#x} - {b:#x}");
    }
    let line = "mad.lo.cc.u32 %u3, %ra, %rb, %rc; madc.hi.u32 %r, %ra, %rb, 7;";
    for (got, [a, b, c]) in eval_result(line).into_iter().zip(spread()) {
        let exact = u64::from(w(a)) * u64::from(w(b)) + u64::from(w(c));
        assert_eq!(got, ((exact >> 32) + 7) & NEG1, "{a:#x} * {b:#x} + {c:#x}");
    }
}

/// Several instructions whose result is in %r.
fn eval_result(lines: &str) -> Vec<u64> {
    spread()
        .chunks(64)
        .flat_map(|chunk| eval(&format!("mov.u32 %r, 0; {lines}"), chunk))
        .collect()
}

#[test]
fn shifts_clamp_their_amount() {
    let amounts = [0_u64, 1, 15, 16, 31, 32, 63, 64, 200];
    for by in amounts {
        check(
            &format!("shl.b32 %r, %ra, {by};"),
            &[(NEG1, 0, 0, if by < 32 { NEG1 << by & NEG1 } else { 0 })],
        );
        check(
            &format!("shr.u32 %r, %ra, {by};"),
            &[(NEG1, 0, 0, if by < 32 { NEG1 >> by } else { 0 })],
        );
        check(
            &format!("shr.s32 %r, %ra, {by};"),
            &[(I32_MIN, 0, 0, u(i(I32_MIN) >> by.min(31)))],
        );
        check(
            &format!("shl.b64 %d, %da, {by};"),
            &[(u64::MAX, 0, 0, if by < 64 { u64::MAX << by } else { 0 })],
        );
        check(
            &format!("shr.s64 %d, %da, {by};"),
            &[(1 << 63, 0, 0, ((1_u64 << 63) as i64 >> by.min(63)) as u64)],
        );
        check(
            &format!("shl.b16 %h, %ha, {by};"),
            &[(
                0xffff,
                0,
                0,
                if by < 16 { 0xffff << by & 0xffff } else { 0 },
            )],
        );
        check(
            &format!("shr.s16 %h, %ha, {by};"),
            &[(0x8000, 0, 0, u64::from((i16::MIN >> by.min(15)) as u16))],
        );
    }
    same("shf.l.wrap.b32 %r, %ra, %rb, %rc;", |a, b, c| {
        ((u64::from(w(b)) << 32 | u64::from(w(a))) << (c & 31)) >> 32
    });
    same("shf.r.clamp.b32 %r, %ra, %rb, %rc;", |a, b, c| {
        (u64::from(w(b)) << 32 | u64::from(w(a))) >> u64::from(w(c)).min(32) & NEG1
    });
}

#[test]
fn logic_and_tables() {
    same("and.b32 %r, %ra, %rb;", |a, b, _| a & b & NEG1);
    same("or.b64 %d, %da, %db;", |a, b, _| a | b);
    same("xor.b16 %h, %ha, %hb;", |a, b, _| (a ^ b) & 0xffff);
    same("not.b16 %h, %ha;", |a, _, _| !a & 0xffff);
    same("not.b64 %d, %da;", |a, _, _| !a);
    same("cnot.b32 %r, %ra;", |a, _, _| u64::from(w(a) == 0));
    // Tables: a ^ b ^ c, (a & b) | c, and b alone.
    same("lop3.b32 %r, %ra, %rb, %rc, 0x96;", |a, b, c| {
        (a ^ b ^ c) & NEG1
    });
    same("lop3.b32 %r, %ra, %rb, %rc, 0xEA;", |a, b, c| {
        (a & b | c) & NEG1
    });
    same("lop3.b32 %r, %ra, %rb, %rc, 0xCC;", |_, b, _| b & NEG1);
    same("and.pred %p, %pa, %pb;", |a, b, _| {
        u64::from(a != 0 && b != 0)
    });
    same("xor.pred %p, %pa, %pb;", |a, b, _| {
        u64::from((a != 0) != (b != 0))
    });
    same("not.pred %p, %pa;", |a, _, _| u64::from(a == 0));
}

#[test]
fn bit_fields_at_and_beyond_the_edges() {
    check(
        "bfe.u32 %r, %ra, %rb, %rc;",
        &[
            (0xabcd_ef01, 8, 12, 0xdef),
            (0xabcd_ef01, 28, 8, 0xa),
            (0xabcd_ef01, 0, 32, 0xabcd_ef01),
            (NEG1, 5, 0, 0),
            (NEG1, 40, 4, 0),
        ],
    );
    check(
        "bfe.s32 %r, %ra, %rb, %rc;",
        &[
            (0x0000_0f00, 8, 4, NEG1),
            (0x0000_0700, 8, 4, 7),
            (0x8000_0000, 28, 8, 0xffff_fff8),
            (0x8000_0000, 40, 4, NEG1),
        ],
    );
    check(
        "bfe.s64 %d, %da, %rb, %rc;",
        &[(0x80 << 40, 40, 8, !0x7f), (0x7f << 40, 40, 8, 0x7f)],
    );
    check(
        "bfi.b32 %r, %ra, 0x11111111, %rb, %rc;",
        &[
            (0xff, 8, 4, 0x1111_1f11),
            (0xff, 28, 8, 0xf111_1111),
            (0xff, 0, 32, 0xff),
            (0xff, 3, 0, 0x1111_1111),
            (0xff, 32, 4, 0x1111_1111),
        ],
    );
    check("bfi.b64 %d, %da, %db, 60, 16;", &[(0xab, 0, 0, 0xb << 60)]);
    check(
        "bfind.u32 %r, %ra;",
        &[(0, 0, 0, NEG1), (1, 0, 0, 0), (NEG1, 0, 0, 31)],
    );
    check(
        "bfind.s32 %r, %ra;",
        &[(NEG1, 0, 0, NEG1), (0xffff_fff0, 0, 0, 3), (4, 0, 0, 2)],
    );
    check(
        "bfind.shiftamt.u32 %r, %ra;",
        &[(1, 0, 0, 31), (0, 0, 0, NEG1)],
    );
    check("bfind.u64 %r, %da;", &[(1 << 40, 0, 0, 40)]);
    check("clz.b32 %r, %ra;", &[(0, 0, 0, 32), (1, 0, 0, 31)]);
    check("clz.b64 %r, %da;", &[(0, 0, 0, 64), (1, 0, 0, 63)]);
    check("popc.b64 %r, %da;", &[(u64::MAX, 0, 0, 64)]);
    check(
        "brev.b32 %r, %ra;",
        &[(1, 0, 0, I32_MIN), (0xf0, 0, 0, 0x0f00_0000)],
    );
    check("brev.b64 %d, %da;", &[(1, 0, 0, 1 << 63)]);
    check(
        "fns.b32 %r, %ra, %rb, %rc;",
        &[
            (0b1010_1000, 0, 2, 5),
            (0b1010_1000, 7, NEG1, 7),
            (0b1010_1000, 4, 0, NEG1),
        ],
    );
    check(
        "bmsk.clamp.b32 %r, %ra, %rb;",
        &[(4, 8, 0, 0xff0), (30, 8, 0, 0xc000_0000), (0, 32, 0, NEG1)],
    );
}

#[test]
fn bytes_are_permuted_in_every_mode() {
    let (a, b) = (0x3322_1100, 0x7766_5544);
    check("prmt.b32 %r, %ra, %rb, 0x7531;", &[(a, b, 0, 0x7755_3311)]);
    check(
        "prmt.b32 %r, %ra, %rb, 0x00a8;",
        &[(0x00ff_0080, b, 0, 0x8080_ffff)],
    );
    check("prmt.b32.f4e %r, %ra, %rb, %rc;", &[(a, b, 1, 0x4433_2211)]);
    check("prmt.b32.b4e %r, %ra, %rb, %rc;", &[(a, b, 1, 0x6677_0011)]);
    check("prmt.b32.rc8 %r, %ra, %rb, %rc;", &[(a, b, 2, 0x2222_2222)]);
    check("prmt.b32.ecl %r, %ra, %rb, %rc;", &[(a, b, 2, 0x3322_2222)]);
    check("prmt.b32.ecr %r, %ra, %rb, %rc;", &[(a, b, 1, 0x1111_1100)]);
    check(
        "prmt.b32.rc16 %r, %ra, %rb, %rc;",
        &[(a, b, 1, 0x3322_3322)],
    );
}

#[test]
fn packed_dot_products() {
    check(
        "dp4a.s32.s32 %r, %ra, %rb, %rc;",
        &[(0x01ff_027f, 0x0302_8001, 10, u(3 - 2 - 256 + 127 + 10))],
    );
    check("dp4a.u32.u32 %r, %ra, %rb, %rc;", &[(0xff, 0xff, 1, 65026)]);
    check(
        "dp2a.lo.s32.s32 %r, %ra, %rb, %rc;",
        &[(0xffff_0003, 0x0000_05fe, 100, u(3 * -2 - 5 + 100))],
    );
}

#[test]
fn halves_of_a_word_are_integers_of_their_own() {
    let (a, b) = (0x7fff_8001_u64, 0x0001_fffe);
    check("add.u16x2 %r, %ra, %rb;", &[(a, b, 0, 0x8000_7fff)]);
    check("add.s16x2 %r, %ra, %rb;", &[(a, b, 0, 0x8000_7fff)]);
    check("min.u16x2 %r, %ra, %rb;", &[(a, b, 0, 0x0001_8001)]);
    check("max.u16x2 %r, %ra, %rb;", &[(a, b, 0, 0x7fff_fffe)]);
    check("min.s16x2 %r, %ra, %rb;", &[(a, b, 0, 0x0001_8001)]);
    check("max.s16x2 %r, %ra, %rb;", &[(a, b, 0, 0x7fff_fffe)]);
    check("max.relu.s16x2 %r, %ra, %rb;", &[(a, b, 0, 0x7fff_0000)]);
    check("min.relu.s16x2 %r, %ra, %rb;", &[(a, b, 0, 0x0001_0000)]);
    let minus = u64::from(-5_i32 as u32);
    check(
        "max.relu.s32 %r, %ra, %rb;",
        &[(minus, minus, 0, 0), (minus, 7, 0, 7)],
    );
    check(
        "min.relu.s32 %r, %ra, %rb;",
        &[(minus, 7, 0, 0), (9, 7, 0, 7)],
    );
}

#[test]
fn packing_saturates_and_shifts_in() {
    let minus = u64::from(-70_000_i32 as u32);
    check(
        "cvt.pack.sat.u16.s32 %r, %ra, %rb;",
        &[(70_000, minus, 0, 0xffff_0000), (5, 6, 0, 0x0005_0006)],
    );
    check(
        "cvt.pack.sat.s16.s32 %r, %ra, %rb;",
        &[(70_000, minus, 0, 0x7fff_8000)],
    );
    check(
        "cvt.pack.sat.u8.s32.b32 %r, %ra, %rb, %rc;",
        &[(300, minus, 0x1122_3344, 0x3344_ff00)],
    );
    check(
        "cvt.pack.sat.s8.s32.b32 %r, %ra, %rb, %rc;",
        &[(300, minus, 0x1122_3344, 0x3344_7f80)],
    );
    check(
        "cvt.pack.sat.u4.s32.b32 %r, %ra, %rb, %rc;",
        &[(9, 99, 0x1122_3344, 0x2233_449f)],
    );
    check(
        "cvt.pack.sat.s2.s32.b32 %r, %ra, %rb, %rc;",
        &[(1, minus, 0x1122_3344, 0x1223_3446)],
    );
}
