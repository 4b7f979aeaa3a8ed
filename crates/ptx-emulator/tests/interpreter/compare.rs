//! `setp`, `set`, `selp`, `slct`.

use super::harness::{check, eval1};

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

#[test]
fn every_relation_of_every_sign() {
    let pairs = [
        (1_u64, 2_u64),
        (2, 1),
        (5, 5),
        (0xffff_ffff, 0),
        (0x8000_0000, 0x7fff_ffff),
    ];
    for (a, b) in pairs {
        let (s, t) = (a as i32, b as i32);
        let table = [
            ("eq.s32", s == t),
            ("ne.s32", s != t),
            ("lt.s32", s < t),
            ("le.s32", s <= t),
            ("gt.s32", s > t),
            ("ge.s32", s >= t),
            ("lt.u32", a < b),
            ("ge.u32", a >= b),
            ("hi.u32", a > b),
            ("ls.u32", a <= b),
            ("eq.b32", a == b),
        ];
        for (relation, expected) in table {
            assert_eq!(
                eval1(&format!("setp.{relation} %p, %ra, %rb;"), a, b, 0),
                u64::from(expected),
                "{a:#x} {relation} {b:#x}"
            );
        }
    }
    check("setp.lt.s64 %p, %da, %db;", &[(u64::MAX, 0, 0, 1)]);
    check("setp.lt.u64 %p, %da, %db;", &[(u64::MAX, 0, 0, 0)]);
    check("setp.lt.s16 %p, %ha, %hb;", &[(0xffff, 0, 0, 1)]);
}

#[test]
fn unordered_relations_accept_nan() {
    let nan = f(f32::NAN);
    for relation in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
        check(
            &format!("setp.{relation}.f32 %p, %ra, %rb;"),
            &[(nan, f(1.0), 0, 0), (f(1.0), nan, 0, 0)],
        );
    }
    for relation in ["equ", "neu", "ltu", "leu", "gtu", "geu", "nan"] {
        check(
            &format!("setp.{relation}.f32 %p, %ra, %rb;"),
            &[(nan, f(1.0), 0, 1), (nan, nan, 0, 1)],
        );
    }
    check("setp.eq.f32 %p, %ra, %rb;", &[(f(0.0), f(-0.0), 0, 1)]);
    check("setp.eq.ftz.f32 %p, %ra, %rb;", &[(f(1e-40), f(0.0), 0, 1)]);
    check(
        "setp.gtu.f64 %p, %da, %db;",
        &[(2.0_f64.to_bits(), 1.0_f64.to_bits(), 0, 1)],
    );
    check("setp.lt.f16 %p, %ha, %hb;", &[(0xbc00, 0x3c00, 0, 1)]);
    check("setp.ge.bf16 %p, %ha, %hb;", &[(0xbf80, 0x3f80, 0, 0)]);
}

#[test]
fn results_combine_with_a_predicate() {
    check(
        "setp.eq.and.s32 %p, %ra, %rb, %pc;",
        &[(1, 1, 1, 1), (1, 1, 0, 0), (1, 2, 1, 0)],
    );
    check(
        "setp.eq.or.s32 %p, %ra, %rb, %pc;",
        &[(1, 2, 1, 1), (1, 2, 0, 0)],
    );
    check(
        "setp.eq.xor.s32 %p, %ra, %rb, !%pc;",
        &[(1, 1, 1, 1), (1, 1, 0, 0)],
    );
    check("setp.lt.s32 %p|%q, %ra, %rb;", &[(1, 2, 0, 1)]);
    check("setp.lt.s32 %q|%p, %ra, %rb;", &[(1, 2, 0, 0)]);
    check(
        "setp.lt.and.s32 %q|%p, %ra, %rb, %pc;",
        &[(3, 2, 1, 1), (3, 2, 0, 0)],
    );
    check(
        "setp.lt.f16x2 %p|%q, %ra, %rb;",
        &[(0x4000_3c00, 0x3c00_4000, 0, 1)],
    );
    check(
        "setp.lt.f16x2 %q|%p, %ra, %rb;",
        &[(0x4000_3c00, 0x3c00_4000, 0, 0)],
    );
}

#[test]
fn selections() {
    check("selp.b32 %r, %ra, %rb, %pc;", &[(1, 2, 1, 1), (1, 2, 0, 2)]);
    check("selp.f64 %d, %da, %db, %pc;", &[(1, 2, 1, 1), (1, 2, 0, 2)]);
    check("selp.b16 %h, %ha, %hb, %pc;", &[(1, 2, 0, 2)]);
    check(
        "slct.u32.s32 %r, %ra, %rb, %rc;",
        &[(1, 2, 0, 1), (1, 2, 0xffff_ffff, 2)],
    );
    check(
        "slct.b64.f32 %d, %da, %db, %rc;",
        &[(1, 2, f(-0.0), 1), (1, 2, f(f32::NAN), 2)],
    );
    check(
        "set.lt.u32.s32 %r, %ra, %rb;",
        &[(1, 2, 0, 0xffff_ffff), (2, 1, 0, 0)],
    );
    check(
        "set.lt.f32.f32 %r, %ra, %rb;",
        &[(f(1.0), f(2.0), 0, f(1.0))],
    );
    check(
        "set.gt.f16x2.f16x2 %r, %ra, %rb;",
        &[(0x4000_3c00, 0x3c00_4000, 0, 0x3c00_0000)],
    );
}
