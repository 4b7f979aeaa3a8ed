//! Parses the output of `cuobjdump -res-usage`, and computes how many blocks fit a multiprocessor.

/// The resources of a kernel on an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// As in `sm_<arch>`.
    pub arch: String,
    pub symbol: String,
    pub registers: u32,
    /// Local memory per thread in bytes: the stack, which includes spills, and indexed arrays.
    pub local_bytes: u32,
    /// Static shared memory per block in bytes, without the part that the system reserves.
    pub static_shared: u32,
}

/// Shared memory that the system reserves in each block. Some architectures list it as the kernel's
/// own.
const RESERVED_SHARED: u32 = 1 << 10;

pub fn parse(listing: &str) -> Vec<Resources> {
    let mut found = Vec::new();
    let (mut arch, mut symbol) = (String::new(), None);
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("arch = sm_") {
            name.clone_into(&mut arch);
        } else if let Some(name) = line
            .strip_prefix("Function ")
            .and_then(|name| name.strip_suffix(':'))
        {
            symbol = Some(name.to_owned());
        } else if let (Some(registers), Some(name)) = (value(line, "REG"), &symbol) {
            let bytes = |name| value(line, name).unwrap_or(0);
            let reserved = if number(&arch) >= 90 {
                RESERVED_SHARED
            } else {
                0
            };
            found.push(Resources {
                arch: arch.clone(),
                symbol: name.clone(),
                registers,
                local_bytes: bytes("STACK") + bytes("LOCAL"),
                static_shared: bytes("SHARED").saturating_sub(reserved),
            });
            symbol = None;
        }
    }
    found
}

/// `REG:90 STACK:0 ...`
fn value(line: &str, name: &str) -> Option<u32> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix(':')?.parse().ok())
}

/// 90 of `90a`.
pub fn number(arch: &str) -> u32 {
    arch.trim_end_matches(|c: char| c.is_ascii_alphabetic())
        .parse()
        .unwrap_or(0)
}

/// The limits of a multiprocessor: CUDA C++ Programming Guide, "Technical Specifications per
/// Compute Capability".
struct Limits {
    threads: u32,
    blocks: u32,
    shared: u32,
}

const REGISTERS: u32 = 64 << 10;

fn limits(arch: &str) -> Option<Limits> {
    let (threads, blocks, shared) = match number(arch) {
        80 => (2048, 32, 164 << 10),
        86 => (1536, 16, 100 << 10),
        89 => (1536, 24, 100 << 10),
        90 | 100 | 103 => (2048, 32, 228 << 10),
        120 | 121 => (1536, 24, 100 << 10),
        _ => return None,
    };
    Some(Limits {
        threads,
        blocks,
        shared,
    })
}

/// The number of resident blocks of a kernel per multiprocessor, 0 if not even one fits. `None` for
/// an unknown architecture.
///
/// Registers are allocated to warps in units of 256, a quarter of them for each of the four
/// schedulers. Shared memory is allocated to blocks in units of 128 bytes.
pub fn blocks_per_multiprocessor(
    kernel: &Resources,
    threads: u32,
    dynamic_shared: u32,
) -> Option<u32> {
    let limits = limits(&kernel.arch)?;
    let warps = threads.div_ceil(32).max(1);
    let per_warp = (32 * kernel.registers).next_multiple_of(256).max(256);
    let by_registers = REGISTERS / 4 / per_warp * 4 / warps;
    let shared = (kernel.static_shared + dynamic_shared).next_multiple_of(128) + RESERVED_SHARED;
    let by_threads = limits.threads / 32 / warps;
    Some(
        by_registers
            .min(limits.shared / shared)
            .min(by_threads)
            .min(limits.blocks),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
Fatbin elf code:
================
arch = sm_80

Resource usage:
 Common:
  GLOBAL:0
 Function first:
  REG:219 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:464 TEXTURE:0 SURFACE:0 SAMPLER:0
arch = sm_90a
 Function first:
  REG:225 STACK:0 SHARED:1536 LOCAL:8 CONSTANT[0]:640 TEXTURE:0 SURFACE:0 SAMPLER:0
";

    #[test]
    fn registers_stack_and_shared_memory() {
        let found = parse(LISTING);
        let numbers: Vec<_> = found
            .iter()
            .map(|r| (r.arch.as_str(), r.registers, r.local_bytes, r.static_shared))
            .collect();
        assert_eq!(numbers, [("80", 219, 16, 0), ("90a", 225, 8, 512)]);
    }

    fn blocks(arch: &str, registers: u32, threads: u32, shared: u32) -> Option<u32> {
        let kernel = Resources {
            arch: arch.to_owned(),
            symbol: String::new(),
            registers,
            local_bytes: 0,
            static_shared: 0,
        };
        blocks_per_multiprocessor(&kernel, threads, shared)
    }

    /// Each limit decides once.
    #[test]
    fn blocks_by_each_limit() {
        assert_eq!(blocks("80", 219, 128, 64 << 10), Some(2)); // shared memory and registers
        assert_eq!(blocks("90a", 32, 128, 64 << 10), Some(3)); // shared memory
        assert_eq!(blocks("80", 242, 256, 144 << 10), Some(1));
        assert_eq!(blocks("80", 255, 128, 0), Some(2)); // 8 warps of 8192 registers
        assert_eq!(blocks("80", 32, 1024, 0), Some(2)); // threads
        assert_eq!(blocks("89", 32, 1024, 0), Some(1));
        assert_eq!(blocks("86", 16, 32, 0), Some(16)); // slots
        assert_eq!(blocks("89", 16, 32, 100 << 10), Some(0));
        assert_eq!(blocks("70", 16, 32, 0), None);
    }
}
