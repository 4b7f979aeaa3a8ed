//! What a kernel with wgmma does around it: the consumers' main loop, the registers of its roles,
//! and its copies.

use std::collections::{BTreeMap, BTreeSet};

use super::loops::{self, Math};
use super::sass::{Function, Instruction};

/// Counts of a kernel's code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wgmma {
    /// Of the main loop: 256 of m64n256k16.
    pub columns: u32,
    /// `HGMMA` in a turn of the main loop.
    pub products: u32,
    /// Depth of a turn of the main loop.
    pub depth: u32,
    pub instructions: u32,
    /// Tests of an mbarrier's phase in a turn, without those of a wait that fails.
    pub waits: u32,
    /// Arrivals at an mbarrier in a turn.
    pub arrivals: u32,
    /// The most groups of wgmma in flight where the main loop waits for one of them.
    pub in_flight: Option<u32>,
    /// The other instructions of a turn by how often they occur, most frequent first.
    pub others: Vec<(String, u32)>,
    /// Registers of a thread after `setmaxnreg.dec`.
    pub fewer_registers: Option<u32>,
    /// Registers of a thread after `setmaxnreg.inc`.
    pub more_registers: Option<u32>,
    /// The following of the whole kernel.
    pub ldsm: u32,
    pub stsm: u32,
    /// Tensor loads of TMA.
    pub tma_loads: u32,
    /// Tensor stores of TMA.
    pub tma_stores: u32,
    /// Accesses to local memory, which spills are.
    pub local: u32,
}

impl Wgmma {
    /// `None` if the kernel has no wgmma in a loop.
    pub fn of(function: &Function) -> Option<Self> {
        let (Math::Wgmma, body) = loops::main_loop_body(function)? else {
            return None;
        };
        let in_loop =
            |name: &str| body.iter().filter(|i| i.opcode.starts_with(name)).count() as u32;
        let in_all = |name: &str| {
            let named = function.instructions.iter().filter(|i| i.name() == name);
            named.count() as u32
        };
        let products: Vec<&Instruction> = body
            .iter()
            .copied()
            .filter(|i| i.name() == Math::Wgmma.opcode())
            .collect();
        let (columns, depth) = products.iter().filter_map(|i| shape(&i.opcode)).max()?;
        // A warpgroup has an accumulator for each 64 rows of its part of the tile.
        let accumulators: BTreeSet<&str> = products
            .iter()
            .filter_map(|i| i.operands.split(',').next())
            .collect();
        let count = products.len() as u32;
        let groups_left = body
            .iter()
            .filter(|i| i.opcode.starts_with("WARPGROUP.DEPBAR"))
            .filter_map(|i| i.immediate());
        Some(Self {
            columns,
            products: count,
            depth: count / (accumulators.len() as u32).max(1) * depth,
            instructions: body.len() as u32,
            waits: in_loop("SYNCS.PHASECHK"),
            arrivals: in_loop("SYNCS.ARRIVE"),
            in_flight: groups_left
                .max()
                .and_then(|left| u32::try_from(left + 1).ok()),
            others: others(&body),
            fewer_registers: registers(function, "DEALLOC"),
            more_registers: registers(function, "TRY_ALLOC"),
            ldsm: in_all("LDSM"),
            stsm: in_all("STSM"),
            tma_loads: in_all("UTMALDG"),
            tma_stores: in_all("UTMASTG"),
            local: in_all("LDL") + in_all("STL"),
        })
    }

    pub fn instructions_per_product(&self) -> f64 {
        f64::from(self.instructions) / f64::from(self.products.max(1))
    }

    /// Waits and arrivals of a warp for each 64 of depth.
    pub fn barrier_operations(&self) -> f64 {
        64.0 * f64::from(self.waits + self.arrivals) / f64::from(self.depth.max(1))
    }
}

/// (256, 16) of `HGMMA.64x256x16.F32.BF16`.
fn shape(opcode: &str) -> Option<(u32, u32)> {
    let mut numbers = opcode.split('.').nth(1)?.split('x').skip(1);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// What `USETMAXREG` asks for, if all of that kind ask for the same.
fn registers(function: &Function, kind: &str) -> Option<u32> {
    let asked = function
        .instructions
        .iter()
        .filter(|i| i.name() == "USETMAXREG" && i.opcode.split('.').nth(1) == Some(kind));
    let asked: BTreeSet<u64> = asked.filter_map(Instruction::immediate).collect();
    let only = asked.first().filter(|_| asked.len() == 1)?;
    u32::try_from(*only).ok()
}

fn others(body: &[&Instruction]) -> Vec<(String, u32)> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let known = [Math::Wgmma.opcode(), "SYNCS", "WARPGROUP"];
    for instruction in body.iter().filter(|i| !known.contains(&i.name())) {
        *counts.entry(instruction.name()).or_default() += 1;
    }
    let mut counts: Vec<(String, u32)> = counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

#[cfg(test)]
mod tests {
    use super::super::sass;
    use super::*;

    /// A producer and a consumer as nvcc 13.0 compiles them, shortened: the loop of the consumer
    /// tries its wait again behind the last `EXIT`.
    const LISTING: &str = "
	code for sm_90a
		Function : lora_forward__sm90a__bf16__m256n128k64_vec
        /*0000*/                   ISETP.NE.AND P0, PT, R4, 0x100, PT ;
        /*0010*/              @!P0 BRA 0x0140 ;
        /*0020*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe8 ;
        /*0030*/              @!P1 BRA 0x20 ;
        /*0040*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR23], R11 ;
        /*0050*/              @!P0 BRA 0x1a0 ;
        /*0060*/                   WARPGROUP.ARRIVE ;
        /*0070*/                   UIADD3 UR32, UR23, 0x2, URZ ;
        /*0080*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR32], R24 ;
        /*0090*/                   UIADD3 UR32, UR23, 0x4, URZ ;
        /*00a0*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR32], R88, gsb0 ;
        /*00b0*/                   NOP ;
        /*00c0*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*00d0*/              @!P2 SYNCS.ARRIVE.TRANS64.RED.A1T0 RZ, [R12+URZ], RZ ;
        /*00e0*/               @P1 BRA 0x40 ;
        /*00f0*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0100*/                   STSM.16.M88.4 [R12+0x200], R4 ;
        /*0110*/                   UTMASTG.2D [UR40], [UR4] ;
        /*0120*/                   LDL R1, [R2] ;
        /*0130*/                   EXIT ;
        /*0140*/                   USETMAXREG.DEALLOC.CTAPOOL 0x28 ;
        /*0150*/                   SYNCS.ARRIVE.TRANS64 RZ, [UR5], R9 ;
        /*0160*/                   UTMALDG.2D.MULTICAST [UR4], [UR12], UR3 ;
        /*0170*/                   UTMALDG.2D [UR4], [UR12] ;
        /*0180*/               @P0 BRA 0x150 ;
        /*0190*/                   EXIT ;
        /*01a0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR23], R11 ;
        /*01b0*/              @!P0 BRA 0x1a0 ;
        /*01c0*/                   BRA 0x60 ;
        /*01d0*/                   BRA 0x1d0;
";

    fn counted() -> Wgmma {
        Wgmma::of(&sass::parse(LISTING)[0]).expect("a loop with wgmma")
    }

    #[test]
    fn the_consumers_main_loop() {
        let found = counted();
        assert_eq!((found.columns, found.products, found.depth), (128, 2, 16));
        assert_eq!(
            (found.instructions, found.waits, found.arrivals),
            (11, 1, 1)
        );
        assert_eq!(found.in_flight, Some(2));
        let others = [("BRA", 2), ("UIADD3", 2), ("NOP", 1)];
        assert_eq!(
            found.others,
            others.map(|(name, count)| (name.to_owned(), count))
        );
        assert_eq!(
            (found.instructions_per_product(), found.barrier_operations()),
            (5.5, 8.0)
        );
    }

    #[test]
    fn registers_and_copies_of_the_kernel() {
        let found = counted();
        assert_eq!(
            (found.fewer_registers, found.more_registers),
            (Some(40), Some(232))
        );
        assert_eq!((found.ldsm, found.stsm, found.local), (0, 1, 1));
        assert_eq!((found.tma_loads, found.tma_stores), (2, 1));
    }

    #[test]
    fn a_kernel_without_wgmma_has_none() {
        assert_eq!(Wgmma::of(&sass::function("HMMA @BRA:0 EXIT")), None);
        assert_eq!(Wgmma::of(&sass::function("HGMMA.64x8x16 EXIT")), None);
    }
}
