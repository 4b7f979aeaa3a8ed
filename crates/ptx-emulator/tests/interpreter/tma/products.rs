//! Boxes as operands of `wgmma`: what a bulk copy swizzles, the descriptor's swizzle undoes.

use ptx_emulator::exec::Fault;
use ptx_emulator::tensor_map::TensorMap;

use super::boxes::BF16;
use super::{Arg, Machine};

/// Rows of A and of B.
const ROWS: usize = 64;

/// A (64 x K) and B (64 x K) of rows of `span` bytes, which is also the swizzle of the maps. `said`
/// is the span that the descriptors say.
fn product(span: usize, said: usize, early: bool) -> Result<(), Fault> {
    let k = span / 2;
    let mode = |span: usize| match span {
        32 => (1, 3_u64),
        64 => (2, 2),
        _ => (3, 1),
    };
    let bytes = ROWS * span;
    let descriptor = mode(said).1 << 62 | ((8 * said as u64) >> 4) << 32 | 1 << 16;
    let sums: Vec<String> = (0..32).map(|i| format!("%c{i}")).collect();
    let sums = sums.join(",");
    let mut body = format!(
        ".reg .b32 %c<32>;\n.shared .align 1024 .b8 tile[{}];\n.shared .align 8 .b64 bar;\n\
         mov.u32 %r1, %tid.x;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra ISSUED;\n\
         mov.b64 %rd1, a;\ncvta.param.u64 %rd1, %rd1;\nmov.b64 %rd2, b;\n\
         cvta.param.u64 %rd2, %rd2;\n\
         mbarrier.init.shared::cta.b64 [bar], 1;\nfence.mbarrier_init.release.cluster;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {};\n",
        2 * 128 * ROWS,
        2 * bytes
    );
    for (map, at) in [("%rd1", 0), ("%rd2", bytes)] {
        body.push_str(&format!(
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
             [tile+{at}], [{map}, {{0, 0}}], [bar];\n"
        ));
    }
    body.push_str(
        "ISSUED:\nbar.sync 0;\nWAIT:\n\
         mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;\n@!%p2 bra WAIT;\n\
         setp.ne.u32 %p3, %r1, %r1;\n\
         mov.u32 %r2, tile;\nshr.u32 %r2, %r2, 4;\ncvt.u64.u32 %rd3, %r2;\n",
    );
    body.push_str(&format!(
        "or.b64 %rd3, %rd3, {descriptor};\nadd.s64 %rd4, %rd3, {};\nwgmma.fence.sync.aligned;\n",
        bytes / 16
    ));
    for step in 0..k / 16 {
        let keeps = if step == 0 { "%p3" } else { "1" };
        body.push_str(&format!(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{sums}}}, %rd3, %rd4, {keeps}, \
             1, 1, 0, 0;\nadd.s64 %rd3, %rd3, 2;\nadd.s64 %rd4, %rd4, 2;\n"
        ));
    }
    body.push_str(
        "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
         ld.param.u64 %rd5, [out];\nmul.wide.u32 %rd6, %r1, 128;\nadd.s64 %rd5, %rd5, %rd6;\n",
    );
    for i in 0..32 {
        body.push_str(&format!("st.global.b32 [%rd5+{}], %c{i};\n", 4 * i));
    }
    let params = ".param .align 64 .b8 a[128], .param .align 64 .b8 b[128], .param .u64 out";
    let mut machine = Machine::new(params, &body);
    machine.options.early_copies = early;
    let value = |row: usize, column: usize, salt: usize| {
        ((row * 7 + column * 3 + salt + row * column) % 9) as f32 - 4.0
    };
    let matrix = |salt: usize| {
        let values = (0..ROWS).flat_map(|row| (0..k).map(move |column| value(row, column, salt)));
        let bytes: Vec<u8> = values
            .flat_map(|x| half::bf16::from_f32(x).to_le_bytes())
            .collect();
        TensorMap {
            data_type: BF16,
            address: machine.bytes(&bytes),
            dims: vec![k as u64, ROWS as u64],
            strides: vec![2 * k as u64],
            box_dims: vec![k as u32, ROWS as u32],
            element_strides: vec![1, 1],
            interleave: 0,
            swizzle: mode(span).0,
            l2_promotion: 0,
            fill: 0,
        }
    };
    let (a, b) = (matrix(1), matrix(5));
    let out = machine.words(&vec![0; 128 * 32]);
    machine.launch(1, 128, &[Arg::Map(&a), Arg::Map(&b), Arg::Pointer(out)])?;
    for (index, word) in machine.read_words(out, 128 * 32).into_iter().enumerate() {
        let (thread, i) = (index / 32, index % 32);
        let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i % 4 / 2);
        let column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
        let expected: f32 = (0..k).map(|k| value(row, k, 1) * value(column, k, 5)).sum();
        assert_eq!(f32::from_bits(word), expected, "{span}: ({row}, {column})");
    }
    Ok(())
}

#[test]
fn boxes_are_operands_of_wgmma_in_every_swizzle() {
    for span in [32, 64, 128] {
        for early in [false, true] {
            if let Err(fault) = product(span, span, early) {
                panic!("{span}: {fault}");
            }
        }
    }
}

/// The bug's twin is above.
#[test]
fn a_descriptor_with_another_swizzle_than_the_map_is_found() {
    for (span, said) in [(128, 64), (64, 128), (64, 32), (32, 64)] {
        let fault = product(span, said, false).expect_err("another swizzle");
        let words = format!("says a swizzle of {said} bytes");
        assert!(
            fault.message.contains(&words)
                && fault.message.contains(&format!("with a swizzle of {span}")),
            "{fault}"
        );
    }
}
