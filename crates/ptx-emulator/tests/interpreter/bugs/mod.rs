//! Planted bugs: each must be found, in the right place, and its repaired twin must run without a
//! finding.
//!
//! The kernels are in the text files beside this one. A header line gives a name, words of the
//! report, the numbers of blocks and of threads, and of blocks of a cluster. Lines with `-` belong
//! to the bug, lines with `+` to the repaired twin. `<<` marks the line that the report must name,
//! `<-` the other party's.

use std::sync::Arc;

use ptx_emulator::decode::Program;
use ptx_emulator::device::{A100, H100};
use ptx_emulator::exec::{Fault, LaunchConfig, LaunchOptions, LoadedModule, Schedule};
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

/// Registers: thread %t, block %b, both together %g; shared %tb (start), %s (own word), %n (own
/// word of the neighbouring warp); global %o (own word of the output), %q (its start), %i (own word
/// of the input), %w (own word of memory that nobody has written).
const PROLOGUE: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in, .param .u64 raw)
{
.shared .align 16 .b8 tile[4096];
.shared .align 8 .b64 bars[2];
.local .align 16 .b8 stack[64];
.reg .pred %p<9>;
.reg .b16 %h<9>;
.reg .b32 %r<40>, %f<9>, %t, %b, %g, %s, %n, %tb;
.reg .b64 %rd<9>, %o, %i, %w, %q;
mov.u32 %t, %tid.x;
mov.u32 %b, %ctaid.x;
mov.u32 %r1, %ntid.x;
mad.lo.u32 %g, %b, %r1, %t;
mov.u32 %tb, tile;
mad.lo.u32 %s, %t, 4, %tb;
xor.b32 %r1, %t, 32;
mad.lo.u32 %n, %r1, 4, %tb;
ld.param.u64 %q, [out];
mad.wide.u32 %o, %g, 4, %q;
ld.param.u64 %rd1, [in];
mad.wide.u32 %i, %g, 4, %rd1;
ld.param.u64 %rd1, [raw];
mad.wide.u32 %w, %g, 4, %rd1;
";

struct Pair<'a> {
    name: &'a str,
    report: &'a str,
    grid: u32,
    block: u32,
    /// Blocks of a cluster, on a device that has them.
    cluster: Option<u32>,
    lines: Vec<&'a str>,
}

fn pairs(text: &str) -> Vec<Pair<'_>> {
    let mut out: Vec<Pair<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("=== ") {
            let mut parts = header.split(" ; ");
            let mut next = || parts.next().expect("four parts").trim();
            out.push(Pair {
                name: next(),
                report: next(),
                grid: next().parse().expect("a number of blocks"),
                block: next().parse().expect("a number of threads"),
                cluster: parts
                    .next()
                    .map(|n| n.trim().parse().expect("a number of blocks")),
                lines: Vec::new(),
            });
        } else if let Some(pair) = out.last_mut() {
            pair.lines.push(line);
        }
    }
    out
}

/// The PTX of one of the two, and the lines marked `<<` and `<-`.
fn source(pair: &Pair<'_>, other: char) -> (String, Option<usize>, Option<usize>) {
    let mut ptx = PROLOGUE.to_owned();
    let (mut place, mut party) = (None, None);
    for line in pair.lines.iter().filter(|line| !line.starts_with(other)) {
        let number = ptx.lines().count() + 1;
        let line = line.trim_start_matches(['-', '+']);
        if line.contains("<<") {
            place = Some(number);
        }
        if line.contains("<-") {
            party = Some(number);
        }
        ptx.push_str(line.trim_end_matches("<<").trim_end_matches("<-"));
        ptx.push('\n');
    }
    ptx.push_str("ret;\n}\n");
    (ptx, place, party)
}

/// Runs a kernel and returns the output's bytes.
fn launch(pair: &Pair<'_>, ptx: &str, options: &LaunchOptions) -> Result<Vec<u8>, Fault> {
    let memory = Arc::new(DeviceMemory::new(1 << 30));
    let parsed = parse_module(ptx).unwrap_or_else(|error| panic!("{}: {error}\n{ptx}", pair.name));
    let program =
        Program::decode(&parsed).unwrap_or_else(|error| panic!("{}: {error}\n{ptx}", pair.name));
    let module = LoadedModule::load(program, &memory).expect("the variables fit");
    let words = 1024_u32;
    let buffer = |values: &[u32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let va = memory.alloc(bytes.len() as u64).expect("room");
        memory.write(va, &bytes).expect("in bounds");
        va
    };
    let out = buffer(&vec![0; words as usize]);
    let input = buffer(&(1..=words).collect::<Vec<_>>());
    let raw = memory.alloc(4 * u64::from(words)).expect("room");
    let config = LaunchConfig {
        grid: [pair.grid, 1, 1],
        block: [pair.block, 1, 1],
        dynamic_shared: 0,
        params: [out, input, raw]
            .iter()
            .flat_map(|va| va.to_le_bytes())
            .collect(),
        cluster: pair.cluster.map(|size| [size, 1, 1]),
    };
    let device = if pair.cluster.is_some() { H100 } else { A100 };
    module.launch("k", &config, &device, options)?;
    let mut bytes = vec![0; 4 * words as usize];
    memory.read(out, &mut bytes).expect("in bounds");
    Ok(bytes)
}

fn one_worker() -> LaunchOptions {
    LaunchOptions {
        workers: 1,
        ..LaunchOptions::default()
    }
}

fn check(text: &str) -> usize {
    let pairs = pairs(text);
    let mut wrong = Vec::new();
    for pair in &pairs {
        let (buggy, place, party) = source(pair, '+');
        match launch(pair, &buggy, &one_worker()) {
            Ok(_) => wrong.push(format!("{}: not found in\n{buggy}", pair.name)),
            Err(fault) => {
                // A spinning thread is somewhere in its loop, at most two lines before the mark.
                let near = if pair.report == "deadlock" { 2 } else { 0 };
                let line = fault.place.ptx_line as usize;
                let found = fault.message.contains(pair.report)
                    && place.is_some_and(|place| (place - near..=place).contains(&line))
                    && party.is_none_or(|line| fault.message.contains(&format!("PTX line {line}")));
                if !found {
                    wrong.push(format!(
                        "{}: expected {place:?} {party:?}, got {fault}",
                        pair.name
                    ));
                }
            }
        }
        let (repaired, ..) = source(pair, '-');
        if let Err(fault) = launch(pair, &repaired, &one_worker()) {
            wrong.push(format!("{}, repaired: {fault}", pair.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    pairs.len()
}

#[test]
fn reads_of_memory_never_written_and_wrong_addresses_are_found() {
    assert!(check(include_str!("memory.txt")) >= 15);
}

#[test]
fn races_are_found() {
    assert!(check(include_str!("races.txt")) >= 15);
}

#[test]
fn every_byte_keeps_all_parties_that_nothing_orders() {
    assert!(check(include_str!("bytes.txt")) >= 20);
}

#[test]
fn missing_waits_and_divergent_barriers_are_found() {
    assert!(check(include_str!("waits.txt")) >= 10);
}

/// Seeds of the orders in which a bug between blocks must be found at least once.
const SEEDS: u64 = 10;

fn orders() -> impl Iterator<Item = String> {
    let seeds = (1..=SEEDS).map(|seed| format!("seed:{seed}"));
    std::iter::once("fair".to_owned()).chain(seeds)
}

/// Bugs that not every order of turns shows, and of which either party may be the later one.
#[test]
fn missing_order_between_threads_is_found() {
    let mut wrong = Vec::new();
    for pair in pairs(include_str!("order.txt")) {
        let (buggy, place, party) = source(&pair, '+');
        let mut seen = Vec::new();
        for order in orders() {
            let schedule = order.parse().expect("a schedule");
            let options = LaunchOptions {
                schedule,
                ..one_worker()
            };
            let Err(fault) = launch(&pair, &buggy, &options) else {
                continue;
            };
            let lines = [place, party].map(|line| line.expect("both lines are marked"));
            let line = fault.place.ptx_line as usize;
            let other = lines[usize::from(line == lines[0])];
            let right = lines.contains(&line)
                && fault.message.contains(pair.report)
                && fault.message.contains(&format!("PTX line {other}"));
            if !right {
                wrong.push(format!(
                    "{} in order {order}: {lines:?}, {fault}",
                    pair.name
                ));
            }
            seen.push(order);
        }
        if seen.is_empty() {
            wrong.push(format!("{}: not found in\n{buggy}", pair.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bugs that are found in at least one of the orders, wherever; `any` stands for every report.
#[test]
fn misuse_of_mbarriers_and_clusters_is_found() {
    let mut wrong = Vec::new();
    for pair in pairs(include_str!("mbarrier.txt")) {
        let (buggy, ..) = source(&pair, '+');
        let mut seen = Vec::new();
        for order in orders() {
            let schedule = order.parse().expect("a schedule");
            let options = LaunchOptions {
                schedule,
                ..one_worker()
            };
            if let Err(fault) = launch(&pair, &buggy, &options) {
                seen.push(fault.message);
            }
            let (repaired, ..) = source(&pair, '-');
            if let Err(fault) = launch(&pair, &repaired, &options) {
                wrong.push(format!("{}, repaired: {fault}", pair.name));
            }
        }
        let is_found = |found: &String| pair.report == "any" || found.contains(pair.report);
        if !seen.iter().any(is_found) {
            wrong.push(format!("{}: {seen:?} in\n{buggy}", pair.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bulk_copies_in_flight_are_followed() {
    assert!(check(include_str!("tma.txt")) >= 15);
}

#[test]
fn right_kernels_give_the_same_in_every_order() {
    let texts = [
        include_str!("memory.txt"),
        include_str!("races.txt"),
        include_str!("waits.txt"),
        include_str!("order.txt"),
        include_str!("bytes.txt"),
        include_str!("mbarrier.txt"),
        include_str!("tma.txt"),
    ];
    let schedules = [
        "fair",
        "seed:1",
        "seed:2",
        "seed:3",
        "last-block-first",
        "one-ahead",
        "starve-warp",
    ];
    let schedules = schedules.map(|text| text.parse::<Schedule>().expect("a schedule"));
    let of_wgmma = of_wgmma(include_str!("wgmma.txt"));
    let all = texts.into_iter().chain([of_wgmma.as_str()]);
    for pair in all.flat_map(pairs) {
        let (repaired, ..) = source(&pair, '-');
        let fair = launch(&pair, &repaired, &one_worker());
        for (schedule, early_copies) in schedules.into_iter().flat_map(|s| [(s, false), (s, true)])
        {
            let options = LaunchOptions {
                schedule,
                early_copies,
                ..LaunchOptions::default()
            };
            assert_eq!(
                launch(&pair, &repaired, &options),
                fair,
                "{} in order {schedule:?}, early copies: {early_copies}",
                pair.name
            );
        }
    }
}

/// What the kernels of `wgmma.txt` have in common: A (64 x 16 ones) and B (16 x 8, or 16 x 16) of
/// bf16 in core matrices from the start of shared memory on, with descriptors in %rd1 and %rd2.
fn of_wgmma(text: &str) -> String {
    let fill: String = (0..5)
        .map(|i| format!("st.shared.b32 [%s+{}], 0x3f803f80;\n", 512 * i))
        .collect();
    let end = "fence.proxy.async.shared::cta;\nbar.sync 0;\n\
               mov.b64 %rd1, 0x800400000;\nmov.b64 %rd2, 0x800080080;";
    let zeros: Vec<String> = (1..5).map(|i| format!("mov.b32 %f{i}, 0;")).collect();
    let ones: Vec<String> = (10..14)
        .map(|i| format!("mov.b32 %r{i}, 0x3f803f80;"))
        .collect();
    let opcode = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}";
    text.replace(
        "RMMA",
        &format!("{opcode}, {{%r10,%r11,%r12,%r13}}, %rd2, 1, 1, 1, 0;"),
    )
    .replace("MMA", &format!("{opcode}, %rd1, %rd2, 1, 1, 1, 0, 0;"))
    .replace("FILL", &format!("{fill}{end}"))
    .replace("ZERO", &zeros.join("\n"))
    .replace("+ONES", &format!("+{}", ones.join("\n+")))
    .replace("ONES", &ones.join("\n"))
}

#[test]
fn misuse_of_wgmma_is_found() {
    assert!(check(&of_wgmma(include_str!("wgmma.txt"))) >= 25);
}
