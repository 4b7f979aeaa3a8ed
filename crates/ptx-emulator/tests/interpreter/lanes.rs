//! Which lanes access what, in every order and width: the interpreter has shorter ways for warps
//! whose accesses lie side by side, or in one allocation, and each must do and refuse the same.

use ptx_emulator::exec::{Fault, FaultKind};

use super::harness::{Arg, Machine};

const LANES: u32 = 32;
const POISON: u8 = 0xa5;

/// The type of one access, its registers' type, how many of them, and bytes in all.
const WIDTHS: [(&str, &str, usize, u32); 8] = [
    ("u8", "b32", 1, 1),
    ("u16", "b16", 1, 2),
    ("u32", "b32", 1, 4),
    ("u64", "b64", 1, 8),
    ("v2.u16", "b16", 2, 4),
    ("v2.u32", "b32", 2, 8),
    ("v4.u32", "b32", 4, 16),
    ("v2.u64", "b64", 2, 16),
];

/// From a lane to the place of its element among 64.
type Place = fn(u32) -> u32;

/// The same in PTX, `%t` to `%e`: side by side, backwards, every other one, all over.
const ORDERS: [(&str, Place); 4] = [
    ("mov.u32 %e, %t;", |lane| lane),
    ("xor.b32 %e, %t, 31;", |lane| lane ^ 31),
    ("shl.b32 %e, %t, 1;", |lane| 2 * lane),
    ("mul.lo.u32 %e, %t, 11; and.b32 %e, %e, 31;", |lane| {
        11 * lane % 32
    }),
];

/// Lanes that take part.
const MASKS: [u32; 4] = [u32::MAX, 0x5555_5555, 0x0001_0000, 0x7fff_fffe];

/// Copies an element of each lane of the mask from global to shared memory and back. Shared memory
/// holds just what 64 lanes need.
fn copy_kernel((kind, register, count, bytes): (&str, &str, usize, u32), order: &str) -> String {
    let list = |first: usize| {
        let names: Vec<_> = (first..first + count).map(|i| format!("%v{i}")).collect();
        if count == 1 {
            names[0].clone()
        } else {
            format!("{{{}}}", names.join(", "))
        }
    };
    let (loaded, read_back) = (list(0), list(count));
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry copy(.param .u64 from, .param .u64 to, .param .u32 mask, .param .u32 skew) {{
            .reg .pred %p;
            .reg .b32 %t, %e, %m, %k, %s;
            .reg .b64 %from, %to;
            .reg .{register} %v<8>;
            .shared .align 16 .b8 tile[{}];
            ld.param.u64 %from, [from];
            ld.param.u64 %to, [to];
            ld.param.u32 %m, [mask];
            ld.param.u32 %k, [skew];
            mov.u32 %t, %tid.x;
            shr.u32 %m, %m, %t;
            and.b32 %m, %m, 1;
            setp.ne.u32 %p, %m, 0;
            {order}
            mad.wide.u32 %from, %e, {bytes}, %from;
            mad.wide.u32 %to, %e, {bytes}, %to;
            mov.u32 %s, tile;
            add.u32 %s, %s, %k;
            mad.lo.u32 %s, %e, {bytes}, %s;
            @%p ld.global.{kind} {loaded}, [%from];
            @%p st.shared.{kind} [%s], {loaded};
            @%p ld.shared.{kind} {read_back}, [%s];
            @%p st.global.{kind} [%to], {read_back};
            ret;
        }}",
        64 * bytes
    )
}

/// Every width, order and mask, with the kernel for it; with checks, which look at accesses before
/// they are done, and without.
fn each_case(mut test: impl FnMut(&Machine, u32, Place, u32)) {
    for width in WIDTHS {
        for (order, place) in ORDERS {
            let mut machine = Machine::new(&copy_kernel(width, order));
            for (mask, checks) in MASKS
                .into_iter()
                .flat_map(|mask| [(mask, true), (mask, false)])
            {
                machine.options.checks = checks;
                test(&machine, width.3, place, mask);
            }
        }
    }
}

fn active(mask: u32) -> impl Iterator<Item = u32> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

fn copy(machine: &Machine, [from, to]: [u64; 2], mask: u32, skew: u32) -> Result<(), Fault> {
    let args = [
        Arg::Pointer(from),
        Arg::Pointer(to),
        Arg::Word(mask),
        Arg::Word(skew),
    ];
    machine.launch("copy", 1, LANES, &args).map(|_| ())
}

#[test]
fn every_lane_copies_its_own_element_and_no_other() {
    each_case(|machine, bytes, place, mask| {
        let size = (64 * bytes) as usize;
        let input: Vec<u8> = (0..size).map(|i| (i * 7 + i / 256) as u8).collect();
        let (from, to) = (machine.bytes(&input), machine.bytes(&vec![POISON; size]));
        copy(machine, [from, to], mask, 0).unwrap_or_else(|fault| panic!("{fault}"));
        let mut expected = vec![POISON; size];
        for lane in active(mask) {
            let at = (place(lane) * bytes) as usize;
            expected[at..at + bytes as usize].copy_from_slice(&input[at..at + bytes as usize]);
        }
        assert_eq!(
            machine.read_bytes(to, size),
            expected,
            "{bytes} bytes, mask {mask:#x}"
        );
    });
}

/// Memory ends within the element that is furthest back: global memory, whether read or written,
/// and shared memory.
#[test]
fn the_one_lane_past_the_end_is_found() {
    each_case(|machine, bytes, place, mask| {
        let last = active(mask)
            .max_by_key(|&lane| place(lane))
            .expect("a lane");
        let short = (place(last) * bytes) as usize;
        let long = short + bytes as usize;
        let buffer = |size: usize| machine.bytes(&vec![1; size]);
        copy(machine, [buffer(long), buffer(long)], mask, 0)
            .unwrap_or_else(|fault| panic!("{fault}"));
        let mut found = Vec::new();
        if short > 0 {
            found.push(copy(machine, [buffer(short), buffer(long)], mask, 0));
            found.push(copy(machine, [buffer(long), buffer(short)], mask, 0));
        }
        found.push(copy(
            machine,
            [buffer(long), buffer(long)],
            mask,
            (64 - place(last)) * bytes,
        ));
        for found in found {
            let fault = found.expect_err("a fault");
            assert_eq!(
                (fault.kind, fault.thread),
                (FaultKind::IllegalAddress, [last, 0, 0]),
                "{fault}"
            );
        }
    });
}

#[test]
fn an_element_off_its_alignment_is_found_wherever_it_is() {
    each_case(|machine, bytes, _, mask| {
        if bytes == 1 {
            return;
        }
        let [from, to] = [(); 2].map(|()| machine.bytes(&vec![1; (65 * bytes) as usize]));
        let off = bytes / 2;
        let starts = [
            (from + u64::from(off), to, 0),
            (from, to + u64::from(off), 0),
            (from, to, off),
        ];
        for (from, to, skew) in starts {
            let fault = copy(machine, [from, to], mask, skew).expect_err("a fault");
            let lead = active(mask).next();
            assert_eq!(
                (fault.kind, Some(fault.thread[0])),
                (FaultKind::Misaligned, lead),
                "{fault}"
            );
        }
    });
}

/// Two allocations cannot be one row, however near; nor can one address be reached from an offset
/// in another's.
#[test]
fn lanes_may_be_in_allocations_of_their_own() {
    let mut machine = Machine::new(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry swap(.param .u64 even, .param .u64 odd) {
            .reg .pred %p;
            .reg .b32 %t, %v;
            .reg .b64 %even, %odd, %at;
            ld.param.u64 %even, [even];
            ld.param.u64 %odd, [odd];
            mov.u32 %t, %tid.x;
            and.b32 %v, %t, 1;
            setp.eq.u32 %p, %v, 1;
            selp.b64 %at, %odd, %even, %p;
            mad.wide.u32 %at, %t, 4, %at;
            ld.global.u32 %v, [%at];
            add.u32 %v, %v, 1;
            st.global.u32 [%at], %v;
            ret;
        }",
    );
    let [even, odd] =
        [1000, 2000].map(|first| machine.words(&(first..first + LANES).collect::<Vec<_>>()));
    for pointers in [[even, odd], [odd, even]] {
        machine
            .launch("swap", 1, LANES, &pointers.map(Arg::Pointer))
            .unwrap_or_else(|fault| panic!("{fault}"));
    }
    for (va, first) in [(even, 1001), (odd, 2001)] {
        assert_eq!(
            machine.read_words(va, 32),
            (first..first + LANES).collect::<Vec<_>>()
        );
    }
    // An address whose lower 32 bits alone are right.
    for checks in [true, false] {
        machine.options.checks = checks;
        let fault = machine.launch(
            "swap",
            1,
            LANES,
            &[Arg::Pointer(even), Arg::Pointer(even + (1 << 32))],
        );
        let fault = fault.expect_err("a fault");
        assert_eq!(
            (fault.kind, fault.thread[0]),
            (FaultKind::IllegalAddress, 1),
            "{fault}"
        );
    }
}
