//! What the launches of real layers ask of a device: ours from plans and counters, the peers' from
//! their structure. The rule that makes times of it is `lora_kernels_report::bound`.

mod case;
mod counts;
mod decode;
mod ours;
mod peers;
mod tensors;

use crate::Outcome;
use crate::gpu::Gpu;
use case::Case;
use lora_kernels_report::bound::Demands;

const TRAINING: [Case; 5] = [
    Case::new(8192, 4096, &[4096], 16),
    Case::new(8192, 4096, &[4096], 64),
    Case::new(2048, 4096, &[11008], 16),
    Case::new(8192, 8192, &[8192], 16),
    // q, k and v of Llama-3-8B.
    Case::new(4096, 4096, &[4096, 1024, 1024], 16),
];
const DECODE: [Case; 2] = [
    Case::new(1, 4096, &[4096], 16),
    Case::new(1, 4096, &[14336], 16),
];

/// Everything on the virtual device. The quick form has the first case of each kind.
pub fn demands(quick: bool) -> Outcome<Demands> {
    let gpu = Gpu::open()?;
    let device = gpu.device()?;
    let ours = ours::Ours::load(&gpu, device)?;
    let most = if quick { 1 } else { usize::MAX };
    let mut passes = Vec::new();
    for case in TRAINING.iter().take(most) {
        passes.extend(ours.training(case)?);
        passes.extend(peers::passes(case, &["forward", "backward"], &device)?);
    }
    let decodes = decode::decodes(&gpu, &device, quick)?;
    for case in DECODE.iter().take(most) {
        passes.push(decode::demand(case, &decodes, &device)?);
        passes.extend(peers::passes(case, &["decode"], &device)?);
    }
    Ok(Demands {
        device: device.key.to_owned(),
        passes,
        decode: decodes,
        waves: decode::waves(&gpu, &device)?,
    })
}
