//! Order within a block and between blocks, copies in flight, undefined data: `ampere.cu`.

use super::{Buffers, Gpu, Pair, Suite, T, Type, WORKSPACE};
use crate::gpu::Arg;
use crate::numbers::Random;

pub fn suite() -> Suite {
    Suite {
        ptx: include_str!("ampere.ptx"),
        pairs: pairs(),
        arguments,
    }
}

fn arguments(gpu: &Gpu, pair: &Pair) -> Result<Buffers, String> {
    let input = gpu.upload(Type::I32, &pair.input)?;
    let out = if pair.fresh {
        gpu.fresh(Type::I32, pair.wanted.len())?
    } else {
        gpu.output(Type::I32, pair.wanted.len())?
    };
    let workspace = gpu.upload(Type::I32, &[0.0; WORKSPACE])?;
    let arguments = vec![input.arg(), out.arg(), workspace.arg(), Arg::int(pair.n)];
    Ok(Buffers {
        held: vec![input, out, workspace],
        result: 1,
        arguments,
    })
}

/// What thread `t` of the first block has to write, in terms of the input.
type Wanted = fn(&[f64], usize) -> f64;

fn pairs() -> Vec<Pair> {
    let input = Random::new(3).values(Type::I32, 8 * T, -100.0, 100.0);
    let backwards: Wanted = |x, t| x[T - 1 - t];
    let own: Wanted = |x, t| x[t];
    let of_four_producers: Wanted = |x, t| (0..4).map(|b| x[b * T + t]).sum();
    let one_block: [(&str, &str, Wanted); 28] = [
        ("bug_sh_nosync", "ok_sh_nosync", backwards),
        ("bug_sh_volatile", "ok_sh_volatile", backwards),
        ("bug_sh_war", "ok_sh_war", own),
        ("bug_sh_lane", "ok_sh_lane", |x, t| x[t ^ 5]),
        ("bug_sh_halfwarp", "ok_sh_halfwarp", |x, t| x[t ^ 16]),
        ("bug_sh_halfvote", "ok_sh_halfvote", |x, t| x[t ^ 16]),
        ("bug_sh_3readers", "ok_sh_3readers", |x, t| {
            if t < 96 { x[5] } else { 0.0 }
        }),
        ("bug_sh_3readers_first", "ok_sh_3readers_first", |x, t| {
            if t >= 32 { x[5] } else { 0.0 }
        }),
        ("bug_sh_bytes", "ok_sh_bytes", |_, t| {
            // Thread u stores its number at (u % 4) * 32 + u / 4; all bytes then move on by 32.
            let at = (t + T - 32) % T;
            (at % 32 * 4 + at / 32) as f64
        }),
        ("bug_sh_half16", "ok_sh_half16", |_, t| {
            (t % 32 + (t / 32 + 1) % 4 * 32) as f64
        }),
        ("bug_sh_atomic_lane", "ok_sh_atomic_lane", |x, t| {
            if t == 64 { x[3] } else { 0.0 }
        }),
        ("bug_sh_acquire_lane", "ok_sh_acquire_lane", |x, t| {
            if t == 1 { x[3] } else { 0.0 }
        }),
        ("bug_sh_named", "ok_sh_named", |x, t| {
            if t >= 64 { x[t - 64] } else { x[t ^ 32] }
        }),
        ("bug_bar_counts", "ok_bar_counts", own),
        ("bug_bar_producer", "ok_bar_producer", |x, t| {
            if t >= 64 { 3.0 * x[t - 64] + 3.0 } else { 0.0 }
        }),
        ("bug_cp_source", "ok_cp_source", backwards),
        ("bug_cp_store", "ok_cp_store", |x, t| {
            if t == 63 { 5.0 } else { x[T - 1 - t] }
        }),
        ("bug_cp_two", "ok_cp_two", |x, t| x[t % 64]),
        ("bug_cp_wait", "ok_cp_wait", backwards),
        ("bug_cp_bar", "ok_cp_bar", backwards),
        ("bug_cp_ring", "ok_cp_ring", |x, t| {
            (0..6).map(|r| (r + 1) as f64 * x[r * T + T - 1 - t]).sum()
        }),
        ("bug_shfl_mask", "ok_shfl_mask", |x, t| {
            if t % 32 < 16 {
                x[t / 32 * 32 + 4]
            } else {
                x[t]
            }
        }),
        ("bug_shfl_exited", "ok_shfl_exited", |x, t| {
            if t % 32 >= 24 {
                x[t]
            } else {
                x[t / 32 * 32 + 3]
            }
        }),
        ("bug_out_unwritten", "ok_out_unwritten", |x, t| {
            if t == 77 { 0.0 } else { x[t] }
        }),
        ("bug_sh_unwritten", "ok_sh_unwritten", backwards),
        ("bug_hfma2_half", "ok_hfma2_half", |x, t| {
            x[t] % 64.0 * 2.0 + 1.0
        }),
        ("bug_long_poll", "ok_long_poll", own),
        ("bug_silent", "ok_silent", |_, _| 3.0),
    ];
    let blocks: [(&str, &str, usize, Wanted); 14] = [
        ("bug_g_acq_cta", "ok_g_acq_cta", 2, own),
        ("bug_g_atom_cta", "ok_g_atom_cta", 2, own),
        ("bug_g_fence_prod", "ok_g_fence_prod", 2, own),
        ("bug_g_fence_cons", "ok_g_fence_cons", 2, own),
        ("bug_g_fence_all", "ok_g_fence_all", 2, own),
        ("bug_g_nc", "ok_g_nc", 2, own),
        ("bug_g_red_release", "ok_g_red_release", 2, own),
        ("bug_g_each", "ok_g_each", 2, own),
        ("bug_g_lane_order", "ok_g_lane_order", 2, own),
        ("bug_g_chain", "ok_g_chain", 3, own),
        ("bug_g_rmw_chain", "ok_g_rmw_chain", 3, own),
        ("bug_g_count", "ok_g_count", 5, of_four_producers),
        ("bug_g_mixed", "ok_g_mixed", 2, |_, _| 3.0),
        ("bug_g_bytes", "ok_g_bytes", 4, |_, t| t as f64),
    ];
    let one_block = one_block
        .into_iter()
        .map(|(bug, twin, wanted)| (bug, twin, 1, wanted));
    let mut pairs: Vec<Pair> = one_block
        .chain(blocks)
        .map(|(bug, twin, blocks, wanted)| {
            // Every block writes the whole of it, or block by block.
            let copies = if bug == "bug_g_bytes" { blocks } else { 1 };
            let one: Vec<f64> = (0..T).map(|t| wanted(&input, t)).collect();
            Pair {
                bug: Some(bug),
                twin,
                blocks,
                threads: T,
                shared: 0,
                n: T,
                input: input.clone(),
                wanted: one.repeat(copies),
                fresh: bug == "bug_out_unwritten",
            }
        })
        .collect();
    // Two blocks write neighbouring elements of 16 bits, a third one reads them.
    let sums = (0..T).map(|t| 2.0 * input[t] + 1.0);
    pairs.push(Pair {
        bug: Some("bug_g_half16"),
        twin: "ok_g_half16",
        blocks: 3,
        threads: T,
        shared: 0,
        n: T,
        wanted: vec![0.0; 2 * T].into_iter().chain(sums).collect(),
        input,
        fresh: false,
    });
    pairs
}
