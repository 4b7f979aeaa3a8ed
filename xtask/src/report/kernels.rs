//! The compiled kernels: ptxas's result for each kernel and architecture.

use std::collections::BTreeMap;

use super::loops::{self, Math, Mix};
use super::resources::{self, Resources};
use super::sass::{self, Function, Instruction};
use super::wgmma::Wgmma;
use lora_kernels_report::document::Kernel;

/// One kernel on one architecture.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    pub resources: Resources,
    /// `None` for a kernel that no plan launches.
    pub host: Option<Kernel>,
    /// Resident blocks per multiprocessor.
    pub blocks: Option<u32>,
    pub main_loop: Option<(Math, Mix)>,
    /// `None` for a kernel without wgmma.
    pub wgmma: Option<Wgmma>,
    /// Steps in one iteration of the main loop, if the symbol names its tile. A fraction such as
    /// 0.5 means that the loop contains other math.
    pub steps: Option<f64>,
    pub float_atomics: usize,
}

/// Combines the two listings of cuobjdump for all images.
pub fn compiled(sass: &str, usage: &str, host: &[Kernel]) -> Result<Vec<Compiled>, String> {
    let mut code: BTreeMap<(String, String), Function> = sass::parse(sass)
        .into_iter()
        .map(|function| ((function.arch.clone(), function.symbol.clone()), function))
        .collect();
    let mut all = Vec::new();
    for resources in resources::parse(usage) {
        let key = (resources.arch.clone(), resources.symbol.clone());
        let function = code.remove(&key).ok_or(format!(
            "cuobjdump lists {} for sm_{} without its code",
            key.1, key.0
        ))?;
        all.push(kernel(resources, &function, host));
    }
    match code.into_keys().next() {
        Some((arch, symbol)) => Err(format!(
            "cuobjdump lists the code of {symbol} for sm_{arch} without its resources"
        )),
        None => Ok(all),
    }
}

fn kernel(resources: Resources, function: &Function, host: &[Kernel]) -> Compiled {
    let host = host
        .iter()
        .find(|kernel| kernel.symbol == resources.symbol)
        .cloned();
    let blocks = host.as_ref().and_then(|host| {
        resources::blocks_per_multiprocessor(&resources, host.threads, host.dynamic_shared)
    });
    let main_loop = loops::main_loop(function);
    let wgmma = Wgmma::of(function);
    let steps = (|| {
        let tile = tile(&resources.symbol)?;
        if let Some(wgmma) = &wgmma {
            return Some(f64::from(wgmma.depth) / f64::from(tile.2));
        }
        let (math, mix) = main_loop.as_ref()?;
        let per_step = math_per_step(*math, tile, host.as_ref()?.threads)?;
        Some(f64::from(mix.math) / per_step)
    })();
    Compiled {
        blocks,
        main_loop,
        wgmma,
        steps,
        float_atomics: function
            .instructions
            .iter()
            .filter(|i| Instruction::is_float_atomic(i))
            .count(),
        host,
        resources,
    }
}

/// The number of instructions per warp (`HMMA.16816`: 16 x 8 x 16 products) or per thread (`FFMA`)
/// in a step of a tile. `None` for wgmma, whose instructions differ in size.
fn math_per_step(math: Math, (m, n, k): (u32, u32, u32), threads: u32) -> Option<f64> {
    let products = f64::from(m) * f64::from(n) * f64::from(k) / f64::from(threads.max(1));
    match math {
        Math::Wgmma => None,
        Math::Mma => Some(products * 32.0 / (16.0 * 8.0 * 16.0)),
        Math::Fma => Some(products),
    }
}

/// The tile of a symbol: (128, 256, 64) for `..._m128n256k64_vec_kn`.
pub fn tile(symbol: &str) -> Option<(u32, u32, u32)> {
    symbol.split('_').find_map(|part| {
        let (m, rest) = part.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
    })
}

/// Whether a kernel copies 16 bytes at a time: `..._m128n256k64_vec_kn` does, `..._r64_any` does
/// not.
pub fn is_wide(symbol: &str) -> bool {
    symbol.split('_').any(|part| part == "vec")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_symbols() {
        assert_eq!(
            tile("lora_forward__sm80__bf16__m128n256k64_vec_kn"),
            Some((128, 256, 64))
        );
        assert_eq!(tile("lora_grad_a__sm80__bf16__r16_vec"), None);
    }

    #[test]
    fn kernels_with_wide_copies() {
        for symbol in [
            "lora_forward__sm80__bf16__m64n64k64_vec_kn",
            "lora_grad_a__sm80__bf16__r16_vec",
        ] {
            assert!(is_wide(symbol), "{symbol}");
        }
        assert!(!is_wide("lora_shrink__sm80__bf16__m16r64_any"));
    }

    #[test]
    fn math_of_a_step() {
        // CUTLASS's tile of 128 x 256 x 64 with 8 warps: 128 HMMA.
        let per_step = |math, tile| math_per_step(math, tile, 256);
        assert_eq!(per_step(Math::Mma, (128, 256, 64)), Some(128.0));
        assert_eq!(per_step(Math::Fma, (128, 128, 16)), Some(1024.0));
    }

    #[test]
    fn listings_that_do_not_belong_together_are_refused() {
        let usage = "arch = sm_80\n Function f:\n  REG:9 STACK:0 SHARED:0 LOCAL:0\n";
        let code = "code for sm_80\nFunction : f\n/*0000*/ EXIT ;\n";
        assert_eq!(compiled(code, usage, &[]).map(|all| all.len()), Ok(1));
        assert!(compiled("", usage, &[]).is_err());
        assert!(compiled(code, "", &[]).is_err());
    }
}
