//! The mistakes that are planted, each in one kind of instruction.

use crate::common::case::{LayerCase, OUTPUTS};
use crate::common::data::Placement::OddView;
use lora_kernels::Role;

/// The parts of a Hopper GEMM, in its PTX: what comes before the roles, the producer, and the
/// consumers with what comes after them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Start,
    Producer,
    Consumers,
}

/// Which of a part's lines are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    First,
    Last,
}

pub struct Mistake {
    pub name: &'static str,
    /// How the names of the kernels begin.
    pub kernel: &'static str,
    pub case: fn() -> LayerCase,
    /// The part of the kernel that the lines are in; anywhere if none.
    pub part: Option<Part>,
    /// What the lines that are changed contain.
    pub line: &'static str,
    pub which: Which,
    /// What a line becomes.
    pub change: fn(&str) -> String,
    /// What the emulated device, or the check of the layer's numbers, says of it.
    pub found: &'static str,
}

impl Mistake {
    /// The lines of a kernel that are to be changed.
    pub fn places(&self, kernel: &[&str]) -> Vec<usize> {
        let mut part = Part::Start;
        let mut places = Vec::new();
        for (at, line) in kernel.iter().enumerate() {
            if line.contains("setmaxnreg.dec") {
                part = Part::Producer;
            } else if line.contains("setmaxnreg.inc") {
                part = Part::Consumers;
            }
            let here = self.part.is_none_or(|wanted| wanted == part);
            if here && line.contains(self.line) {
                places.push(at);
            }
        }
        match self.which {
            Which::All => places,
            Which::First => places.into_iter().take(1).collect(),
            Which::Last => places.into_iter().next_back().into_iter().collect(),
        }
    }

    const fn of(kernel: &'static str, case: fn() -> LayerCase, name: &'static str) -> Self {
        Self {
            name,
            kernel,
            case,
            part: None,
            line: "",
            which: Which::All,
            change: left_out,
            found: "",
        }
    }

    const fn line(self, part: Option<Part>, line: &'static str) -> Self {
        Self { part, line, ..self }
    }

    const fn only(self, which: Which) -> Self {
        Self { which, ..self }
    }

    const fn becomes(self, change: fn(&str) -> String) -> Self {
        Self { change, ..self }
    }

    const fn found_by(self, found: &'static str) -> Self {
        Self { found, ..self }
    }
}

/// An instruction that isn't there.
fn left_out(line: &str) -> String {
    format!("// {line}")
}

/// The operand that an instruction ends with, before the semicolon.
fn last_operand(line: &str) -> &str {
    let end = line.rfind(';').expect("an instruction");
    line[..end].rsplit([' ', ',']).next().expect("an operand")
}

fn with_last_operand(line: &str, operand: &str) -> String {
    let last = last_operand(line);
    let at = line.rfind(last).expect("it is there");
    format!("{}{operand}{}", &line[..at], &line[at + last.len()..])
}

/// A wait that finds its phase complete at once: `mbarrier.try_wait... done, [at], parity;`.
fn not_waited(line: &str) -> String {
    let start = line.find("mbarrier").expect("a wait");
    let (_, rest) = line[start..].split_once(' ').expect("operands");
    let (done, _) = rest.split_once(',').expect("a predicate");
    format!("setp.eq.u32 {done}, 0, 0;")
}

/// A wait whose parity doesn't turn with the ring.
fn parity_1(line: &str) -> String {
    with_last_operand(line, "1")
}

/// An arrival that expects 16 bytes more than come.
fn more_bytes(line: &str) -> String {
    let bytes = last_operand(line);
    let with = with_last_operand(line, "more");
    format!("{{ .reg .b32 more; add.s32 more, {bytes}, 16; {with} }}")
}

/// A product whose B is described otherwise: `{D}, A, B, ...`.
fn other_b(line: &str, change: &str) -> String {
    let (sums, rest) = line.split_once("}, ").expect("sums");
    let mut operands = rest.splitn(3, ", ");
    let (a, b) = (operands.next().expect("A"), operands.next().expect("B"));
    let rest = operands.next().expect("scale-d");
    let instruction = change.replace("B", b);
    format!("{{ .reg .b64 other; {instruction}; {sums}}}, {a}, other, {rest} }}")
}

/// The distance between groups of 8 rows, twice as far.
fn other_stride(line: &str) -> String {
    other_b(line, "xor.b64 other, B, 824633720832")
}

/// The distance between atoms of 64 columns, another one.
fn other_leading(line: &str) -> String {
    other_b(line, "xor.b64 other, B, 33554432")
}

/// A swizzle of 64 bytes.
fn other_swizzle(line: &str) -> String {
    other_b(line, "xor.b64 other, B, -4611686018427387904")
}

/// A wait for all products but the youngest that leaves one more.
fn one_group_more(line: &str) -> String {
    with_last_operand(line, "2")
}

/// Arrivals that only the block itself gets, two of each warp: `mapa... to, at, rank;`.
fn own_block(line: &str) -> String {
    let with = with_last_operand(line, "own");
    format!("{{ .reg .b32 own; mov.u32 own, %cluster_ctarank; {with} }}")
}

/// Two turns of a block, ranks that end within a stage, and a scaling that the sums are divided by.
fn turns() -> LayerCase {
    LayerCase::new(300, 136, 520, 24)
        .scaling(2.0)
        .multiprocessors(2)
}

/// Turns of clusters, the last of which has a block without rows.
fn clusters() -> LayerCase {
    LayerCase::new(576, 128, 128, 24)
        .scaling(2.0)
        .multiprocessors(2)
}

/// The same with a weight whose tiles are MN-major.
fn turns_kn() -> LayerCase {
    turns().transposed(true)
}

fn added() -> LayerCase {
    turns().accumulate(&OUTPUTS)
}

/// Slices of the depth.
fn slices() -> LayerCase {
    LayerCase::new(128, 4096, 256, 24).multiprocessors(8)
}

/// The same of dx.
fn slices_of_dx() -> LayerCase {
    LayerCase::new(128, 256, 4096, 24).multiprocessors(8)
}

fn dropped() -> LayerCase {
    LayerCase::new(300, 520, 136, 24)
        .dropout(0.2)
        .multiprocessors(2)
}

fn dropped_clusters() -> LayerCase {
    clusters().dropout(0.2)
}

/// A lora_B whose rows no tensor map describes.
fn packed() -> LayerCase {
    turns().with_placement(Role::LoraB, OddView)
}

/// The layers of all mistakes.
pub const LAYERS: [fn() -> LayerCase; 9] = [
    turns,
    turns_kn,
    added,
    slices,
    slices_of_dx,
    clusters,
    dropped,
    dropped_clusters,
    packed,
];

const F: &str = "lora_forward__sm90a__bf16";
const X: &str = "lora_grad_x__sm90a__bf16";

const PRODUCER: Option<Part> = Some(Part::Producer);
const CONSUMERS: Option<Part> = Some(Part::Consumers);
const START: Option<Part> = Some(Part::Start);

const WAIT: &str = "mbarrier.try_wait";
const PRODUCT: &str = "wgmma.mma_async";

pub const FORWARD: &[Mistake] = &[
    Mistake::of(F, turns, "consumers don't wait for a full stage")
        .line(CONSUMERS, WAIT)
        .becomes(not_waited)
        .found_by("asynchronous read in flight: write to shared memory"),
    Mistake::of(F, turns, "consumers wait for the wrong phase")
        .line(CONSUMERS, WAIT)
        .becomes(parity_1)
        .found_by("asynchronous read in flight: write to shared memory"),
    Mistake::of(F, turns, "the producer doesn't wait for an empty stage")
        .line(PRODUCER, WAIT)
        .becomes(not_waited)
        .found_by("race: write to shared memory"),
    Mistake::of(F, turns, "the producer's phase doesn't turn")
        .line(PRODUCER, WAIT)
        .becomes(parity_1)
        .found_by("deadlock: no thread can go on"),
    Mistake::of(F, turns, "more bytes are expected than come")
        .line(PRODUCER, "arrive.expect_tx")
        .becomes(more_bytes)
        .found_by("deadlock: no thread can go on"),
    Mistake::of(F, turns, "a stage is given back while products read it")
        .line(None, "wgmma.wait_group.sync.aligned 1;")
        .becomes(one_group_more)
        .found_by("race: write to shared memory"),
    Mistake::of(F, turns, "sums are read before they are done")
        .line(None, "wgmma.wait_group.sync.aligned 0;")
        .found_by("wgmma in flight"),
    Mistake::of(F, turns, "products are not committed")
        .line(None, "wgmma.commit_group")
        .found_by("which was not committed to a group"),
    Mistake::of(F, turns, "no wgmma.fence after the sums have been scaled")
        .line(None, "wgmma.fence")
        .found_by("missing wgmma.fence"),
    Mistake::of(F, turns, "a descriptor's stride is wrong")
        .line(None, PRODUCT)
        .becomes(other_stride)
        .found_by("asynchronous write in flight: access to shared memory"),
    Mistake::of(F, turns_kn, "a descriptor's leading distance is wrong")
        .line(None, PRODUCT)
        .becomes(other_leading)
        .found_by("elements beyond their bound"),
    Mistake::of(F, turns, "a descriptor's swizzle is wrong")
        .line(None, PRODUCT)
        .becomes(other_swizzle)
        .found_by("swizzle: the descriptor of B"),
    Mistake::of(F, turns, "no proxy fence before a tile is stored")
        .line(None, "fence.proxy.async")
        .found_by("no fence.proxy.async since then"),
    Mistake::of(F, turns, "staging is written while a store reads it")
        .line(None, "wait_group.read")
        .found_by("which an operation not yet complete reads"),
    Mistake::of(F, turns, "stores are not committed to a group")
        .line(None, "cp.async.bulk.commit_group")
        .found_by("which an operation not yet complete reads"),
    Mistake::of(F, added, "what is added to has not come yet")
        .line(CONSUMERS, WAIT)
        .only(Which::Last)
        .becomes(not_waited)
        .found_by("asynchronous write in flight: access to shared memory"),
    Mistake::of(F, slices, "the ticket of a slice without a fence before it")
        .line(None, "membar.gl")
        .only(Which::First)
        .found_by("race: read of global memory"),
    Mistake::of(
        F,
        clusters,
        "a block copies before its peer has made its barriers",
    )
    .line(START, "barrier.cluster")
    .found_by("race: mbarrier at"),
    Mistake::of(F, clusters, "a block leaves while its peer copies into it")
        .line(CONSUMERS, "barrier.cluster")
        .found_by("of its cluster"),
    Mistake::of(F, clusters, "a copy goes to a peer whose stage is not free")
        .line(None, "mapa")
        .becomes(own_block)
        .found_by("race: write to shared memory"),
];

pub const GRAD_X: &[Mistake] = &[
    Mistake::of(X, dropped, "sums are masked before they are done")
        .line(None, "wgmma.wait_group.sync.aligned 0;")
        .only(Which::First)
        .found_by("wgmma in flight"),
    Mistake::of(X, dropped, "no wgmma.fence after the mask")
        .line(None, "wgmma.fence")
        .found_by("missing wgmma.fence"),
    Mistake::of(X, dropped, "a descriptor's leading distance is wrong")
        .line(None, PRODUCT)
        .becomes(other_leading)
        .found_by("elements beyond their bound"),
    Mistake::of(
        X,
        slices_of_dx,
        "the ticket of a slice without a fence before it",
    )
    .line(None, "membar.gl")
    .only(Which::First)
    .found_by("race: read of global memory"),
    Mistake::of(
        X,
        dropped_clusters,
        "a block leaves while its peer copies into it",
    )
    .line(CONSUMERS, "barrier.cluster")
    .found_by("of its cluster"),
];

/// Which of the two launches the race is reported to depends on which of them came first.
const RACE: &str = ": race: ";

/// Of what the forward's GEMM has to wait for, since it begins before the shrink has ended.
pub const OVERLAP: &[Mistake] = &[
    Mistake::of(F, turns, "S is read before it is written")
        .line(None, "griddepcontrol.wait")
        .found_by(RACE),
    Mistake::of(F, slices, "counters are used before they are zero")
        .line(CONSUMERS, "griddepcontrol.wait")
        .found_by(RACE),
    Mistake::of(F, packed, "a packed lora_B is read before it is written")
        .line(PRODUCER, "griddepcontrol.wait")
        .found_by(RACE),
];
