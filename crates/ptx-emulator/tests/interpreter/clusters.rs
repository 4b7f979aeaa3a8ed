//! Clusters: where blocks are in them, the barrier of their threads, each other's shared memory.

use crate::harness::{Arg, Machine};

fn hopper(body: &str) -> Machine {
    Machine::hopper(&kernel(body))
}

/// A kernel `k` with `%o` its output plus four bytes for each thread of the grid, `%t` the thread,
/// `%b` the block, `%rank` the rank within the cluster, `tile` 1 KB of shared memory.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 8.6 .target sm_90a .address_size 64
        .visible .entry k(.param .u64 to, .param .u64 in) {{
            .reg .pred %p<9>;
            .reg .b32 %r<20>, %t, %b, %rank, %n;
            .reg .b64 %d<20>, %o, %i;
            .shared .align 16 .b8 tile[1024];
            .shared .align 8 .b64 bar;
            ld.param.u64 %o, [to];
            ld.param.u64 %i, [in];
            mov.u32 %t, %tid.x;
            mov.u32 %b, %ctaid.x;
            mov.u32 %n, %ntid.x;
            mad.lo.u32 %r1, %b, %n, %t;
            mul.wide.u32 %d1, %r1, 4;
            add.s64 %o, %o, %d1;
            mov.u32 %rank, %cluster_ctarank;
            {body}
            ret;
        }}"
    )
}

const SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn special_registers_tell_the_place_in_the_cluster() {
    let read = |name: &str| {
        let mut machine = hopper(&format!("mov.u32 %r2, {name}; st.global.u32 [%o], %r2;"));
        machine.cluster = Some([2, 1, 1]);
        machine.run("k", 6, 1, 6, &[Arg::Pointer(0)])
    };
    assert_eq!(read("%cluster_ctarank"), [0, 1, 0, 1, 0, 1]);
    assert_eq!(read("%cluster_ctaid.x"), [0, 1, 0, 1, 0, 1]);
    assert_eq!(read("%cluster_nctarank"), [2; 6]);
    assert_eq!(read("%cluster_nctaid.x"), [2; 6]);
    assert_eq!(read("%cluster_nctaid.y"), [1; 6]);
    assert_eq!(read("%clusterid.x"), [0, 0, 1, 1, 2, 2]);
    assert_eq!(read("%nclusterid.x"), [3; 6]);
    let explicit =
        "mov.pred %p1, %is_explicit_cluster; selp.u32 %r2, 1, 0, %p1; st.global.u32 [%o], %r2;";
    let mut machine = hopper(explicit);
    assert_eq!(machine.run("k", 2, 1, 2, &[Arg::Pointer(0)]), [0, 0]);
    machine.cluster = Some([2, 1, 1]);
    assert_eq!(machine.run("k", 2, 1, 2, &[Arg::Pointer(0)]), [1, 1]);
}

#[test]
fn a_block_reads_and_writes_the_memory_of_another() {
    // Each writes its own number, and reads that of its neighbour in all forms of addresses.
    let mut machine = hopper(&format!(
        "mov.u32 %r2, tile;
        shl.b32 %r3, %t, 2;
        add.u32 %r2, %r2, %r3;
        mad.lo.u32 %r4, %b, 100, %t;
        xor.b32 %r5, %rank, 1;
        mapa.shared::cluster.u32 %r6, %r2, %r5;
        st.shared::cluster.u32 [%r6+256], %r4;
        st.shared.u32 [%r2], %r4;
        {SYNC}
        ld.shared::cluster.u32 %r7, [%r6];
        cvt.u64.u32 %d2, %r2;
        cvta.shared.u64 %d2, %d2;
        mapa.u64 %d3, %d2, %r5;
        ld.u32 %r8, [%d3];
        ld.shared.u32 %r9, [%r2+256];
        getctarank.shared::cluster.u32 %r10, %r6;
        getctarank.u64 %r11, %d3;
        getctarank.u64 %r12, %d2;
        isspacep.shared::cluster %p1, %d3;
        isspacep.shared::cta %p2, %d3;
        isspacep.shared %p3, %d2;
        mapa.u64 %d4, %d2, %rank;
        isspacep.shared %p4, %d4;
        atom.shared::cluster.add.u32 %r14, [%r6], 1000;
        {SYNC}
        ld.u32 %r15, [%d4];
        sub.u32 %r15, %r15, %r4;
        set.eq.u32.u32 %r16, %r7, %r8;
        set.eq.u32.u32 %r17, %r7, %r9;
        and.b32 %r16, %r16, %r17;
        set.eq.u32.u32 %r17, %r10, %r5;
        and.b32 %r16, %r16, %r17;
        set.eq.u32.u32 %r17, %r11, %r5;
        and.b32 %r16, %r16, %r17;
        set.eq.u32.u32 %r17, %r12, %rank;
        and.b32 %r16, %r16, %r17;
        set.eq.u32.u32 %r17, %r14, %r7;
        and.b32 %r16, %r16, %r17;
        set.eq.u32.u32 %r17, %r15, 1000;
        and.b32 %r16, %r16, %r17;
        not.pred %p2, %p2;
        and.pred %p1, %p1, %p2;
        and.pred %p1, %p1, %p3;
        and.pred %p1, %p1, %p4;
        selp.b32 %r16, %r16, 0, %p1;
        and.b32 %r7, %r7, %r16;
        st.global.u32 [%o], %r7;"
    ));
    machine.cluster = Some([2, 1, 1]);
    let expected: Vec<u32> = [1, 0, 3, 2]
        .iter()
        .flat_map(|block| (0..40).map(move |thread| block * 100 + thread))
        .collect();
    assert_eq!(machine.run("k", 4, 40, 160, &[Arg::Pointer(0)]), expected);
}
