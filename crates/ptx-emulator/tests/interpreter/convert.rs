//! `cvt`, `mov` with packing, `cvta`.

use super::harness::check;

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn d(x: f64) -> u64 {
    x.to_bits()
}

#[test]
fn integers_truncate_extend_and_saturate() {
    check(
        "cvt.s64.s32 %d, %ra;",
        &[(0x8000_0000, 0, 0, 0xffff_ffff_8000_0000)],
    );
    check("cvt.u64.u32 %d, %ra;", &[(0xffff_ffff, 0, 0, 0xffff_ffff)]);
    check(
        "cvt.u32.u64 %r, %da;",
        &[(0x1_2345_6789, 0, 0, 0x2345_6789)],
    );
    check("cvt.s32.s8 %r, %ra;", &[(0x1280, 0, 0, 0xffff_ff80)]);
    check("cvt.u32.u8 %r, %ra;", &[(0x1280, 0, 0, 0x80)]);
    check("cvt.s16.s8 %h, %ha;", &[(0x80, 0, 0, 0xff80)]);
    check("cvt.u16.u32 %h, %ra;", &[(0x1_ffff, 0, 0, 0xffff)]);
    check("cvt.u8.u32 %r, %ra;", &[(0x1ff, 0, 0, 0xff)]);
    check("cvt.s8.s32 %r, %ra;", &[(0x80, 0, 0, 0xffff_ff80)]);
    check(
        "cvt.sat.s8.s32 %r, %ra;",
        &[(300, 0, 0, 127), (0xffff_ff00, 0, 0, 0xffff_ff80)],
    );
    check(
        "cvt.sat.u8.s32 %r, %ra;",
        &[(300, 0, 0, 255), (0xffff_ff00, 0, 0, 0)],
    );
    check(
        "cvt.sat.u32.s64 %r, %da;",
        &[(u64::MAX, 0, 0, 0), (1 << 40, 0, 0, 0xffff_ffff)],
    );
}

#[test]
fn registers_may_be_wider_than_the_types() {
    check(
        "cvt.s32.s8 %d, %ra;",
        &[(0x80, 0, 0, 0xffff_ffff_ffff_ff80)],
    );
    check("cvt.u32.u16 %r, %da;", &[(0x1_2345_6789, 0, 0, 0x6789)]);
    check(
        "cvt.s64.s32 %d, %da;",
        &[(0x1_8000_0000, 0, 0, 0xffff_ffff_8000_0000)],
    );
    check("cvt.rn.f32.s32 %r, %da;", &[(0x1_0000_0002, 0, 0, f(2.0))]);
}

#[test]
fn floats_to_integers_round_clamp_and_map_nan() {
    check(
        "cvt.rzi.s32.f32 %r, %ra;",
        &[
            (f(-1.9), 0, 0, 0xffff_ffff),
            (f(3e9), 0, 0, 0x7fff_ffff),
            (f(-3e9), 0, 0, 0x8000_0000),
            (f(f32::NAN), 0, 0, 0),
        ],
    );
    check(
        "cvt.rni.s32.f32 %r, %ra;",
        &[
            (f(2.5), 0, 0, 2),
            (f(3.5), 0, 0, 4),
            (f(-2.5), 0, 0, 0xffff_fffe),
        ],
    );
    check("cvt.rmi.s32.f32 %r, %ra;", &[(f(-1.1), 0, 0, 0xffff_fffe)]);
    check(
        "cvt.rpi.u32.f32 %r, %ra;",
        &[(f(1.1), 0, 0, 2), (f(-5.0), 0, 0, 0)],
    );
    check(
        "cvt.rzi.u64.f32 %d, %ra;",
        &[(f(f32::NAN), 0, 0, 1 << 63), (f(1e30), 0, 0, u64::MAX)],
    );
    check(
        "cvt.rzi.s64.f64 %d, %da;",
        &[(d(-1e300), 0, 0, 1 << 63), (d(123.9), 0, 0, 123)],
    );
    check("cvt.rzi.u16.f16 %h, %ha;", &[(0x4500, 0, 0, 5)]);
    check("cvt.rzi.u8.f32 %r, %ra;", &[(f(300.0), 0, 0, 255)]);
}

#[test]
fn integers_to_floats_round_in_every_mode() {
    check(
        "cvt.rn.f32.s32 %r, %ra;",
        &[
            (16_777_217, 0, 0, f(16_777_216.0)),
            (0xffff_ffff, 0, 0, f(-1.0)),
        ],
    );
    check(
        "cvt.rp.f32.u32 %r, %ra;",
        &[(16_777_217, 0, 0, f(16_777_218.0))],
    );
    check(
        "cvt.rz.f32.s64 %r, %da;",
        &[
            (i64::MIN as u64, 0, 0, f(-9.223_372e18)),
            ((1 << 62) + 1, 0, 0, f(4.611_686e18)),
        ],
    );
    check(
        "cvt.rn.f32.u64 %r, %da;",
        &[(u64::MAX, 0, 0, f(1.844_674_4e19))],
    );
    check(
        "cvt.rn.f64.s32 %d, %ra;",
        &[(0x8000_0000, 0, 0, d(-2_147_483_648.0))],
    );
    check(
        "cvt.rm.f64.u64 %d, %da;",
        &[(u64::MAX, 0, 0, d(1.844_674_407_370_955_2e19) - 1)],
    );
    check(
        "cvt.rn.f16.s32 %h, %ra;",
        &[
            (2049, 0, 0, 0x6800),
            (2051, 0, 0, 0x6802),
            (100_000, 0, 0, 0x7c00),
        ],
    );
    check("cvt.rn.f32.u8 %r, %ra;", &[(0x1ff, 0, 0, f(255.0))]);
}

#[test]
fn floats_change_width_with_one_rounding() {
    check(
        "cvt.f32.f16 %r, %ha;",
        &[
            (0x3555, 0, 0, f(0.333_251_95)),
            (0x0001, 0, 0, f(5.960_464_5e-8)),
            (0x7e00, 0, 0, 0x7fff_ffff),
        ],
    );
    check("cvt.f32.bf16 %r, %ha;", &[(0x3f80, 0, 0, f(1.0))]);
    check(
        "cvt.rn.f16.f32 %h, %ra;",
        &[
            (f(65520.0), 0, 0, 0x7c00),
            (f(1.0 + 1.0 / 2048.0), 0, 0, 0x3c00),
            (f(f32::NAN), 0, 0, 0x7fff),
        ],
    );
    check(
        "cvt.rz.f16.f32 %h, %ra;",
        &[(f(65520.0), 0, 0, 0x7bff), (f(-1e-10), 0, 0, 0x8000)],
    );
    check(
        "cvt.rn.bf16.f32 %h, %ra;",
        &[
            (0x3f80_8000, 0, 0, 0x3f80),
            (0x3f81_8000, 0, 0, 0x3f82),
            (f(f32::MAX), 0, 0, 0x7f80),
        ],
    );
    check(
        "cvt.rn.bf16x2.f32 %r, %ra, %rb;",
        &[(f(1.0), f(2.0), 0, 0x3f80_4000)],
    );
    check(
        "cvt.rn.f16x2.f32 %r, %ra, %rb;",
        &[(f(1.0), f(-2.0), 0, 0x3c00_c000)],
    );
    check(
        "cvt.rn.relu.bf16x2.f32 %r, %ra, %rb;",
        &[(f(-1.0), f(2.0), 0, 0x0000_4000)],
    );
    check(
        "cvt.rna.tf32.f32 %r, %ra;",
        &[
            (0x3f80_1000, 0, 0, 0x3f80_2000),
            (0x3f80_0fff, 0, 0, 0x3f80_0000),
        ],
    );
    check(
        "cvt.rn.f32.f64 %r, %da;",
        &[
            (d(1.0 + 1e-9), 0, 0, f(1.0)),
            (d(1e300), 0, 0, f(f32::INFINITY)),
        ],
    );
    check(
        "cvt.rp.f32.f64 %r, %da;",
        &[(d(1.0 + 1e-9), 0, 0, f(1.0) + 1)],
    );
    check(
        "cvt.f64.f32 %d, %ra;",
        &[(f(0.1), 0, 0, d(f64::from(0.1_f32)))],
    );
    check("cvt.ftz.f64.f32 %d, %ra;", &[(f(1e-40), 0, 0, 0)]);
    check(
        "cvt.rni.f32.f32 %r, %ra;",
        &[(f(2.5), 0, 0, f(2.0)), (f(-0.3), 0, 0, f(-0.0))],
    );
    check("cvt.rmi.f64.f64 %d, %da;", &[(d(-0.5), 0, 0, d(-1.0))]);
    check(
        "cvt.sat.f32.f32 %r, %ra;",
        &[
            (f(1.5), 0, 0, f(1.0)),
            (f(f32::NAN), 0, 0, 0),
            (f(0.25), 0, 0, f(0.25)),
        ],
    );
}

#[test]
fn eight_bit_floats() {
    check(
        "cvt.rn.satfinite.e4m3x2.f32 %h, %ra, %rb;",
        &[
            (f(1.0), f(1000.0), 0, 0x387e),
            (f(-0.0005), f(448.0), 0, 0x807e),
        ],
    );
    check(
        "cvt.rn.satfinite.e5m2x2.f32 %h, %ra, %rb;",
        &[(f(1.0), f(1e6), 0, 0x3c7b)],
    );
    check(
        "cvt.rn.f16x2.e4m3x2 %r, %ha;",
        &[(0x387e, 0, 0, 0x3c00_5f00), (0x0180, 0, 0, 0x1800_8000)],
    );
    check(
        "cvt.rn.f16x2.e5m2x2 %r, %ha;",
        &[(0x3c7b, 0, 0, 0x3c00_7b00)],
    );
}

#[test]
fn moves_pack_and_unpack() {
    check("mov.b64 %d, {%ra, %rb};", &[(1, 2, 0, 0x2_0000_0001)]);
    check(
        "mov.b32 %r, {%ha, %hb};",
        &[(0x1111, 0x2222, 0, 0x2222_1111)],
    );
    check(
        "mov.b64 %d, {%ha, %hb, %hc, %ha};",
        &[(1, 2, 3, 0x0001_0003_0002_0001)],
    );
    check("mov.b64 {%r, %r1}, %da;", &[(0x2_0000_0001, 0, 0, 1)]);
    check("mov.f32 %r, 0f3FC00000;", &[(0, 0, 0, f(1.5))]);
    check("mov.f64 %d, 0d3FF8000000000000;", &[(0, 0, 0, d(1.5))]);
    check("mov.pred %p, %pa;", &[(0, 0, 0, 0), (1, 0, 0, 1)]);
}
