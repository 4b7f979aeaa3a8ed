//! Tensor maps as kernels use and change them.

use super::illegal;
use super::operands::Operands;
use crate::decode::op::{MapField, Window};
use crate::decode::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::exec::fault::FaultKind;
use crate::exec::interpret::Run;
use crate::exec::registers::LANES;
use crate::exec::space::Spaces;
use crate::exec::trap::{Outcome, Trap};
use crate::tensor_map::{ALIGNMENT, TensorMap, WORDS, replace};

const BYTES: u32 = 8 * WORDS as u32;

impl Run<'_, '_, '_> {
    /// The map at a generic address.
    pub(super) fn tensor_map(&mut self, lane: usize, va: u64) -> Result<TensorMap, Box<Trap>> {
        let space = match va & !(WINDOW_BYTES - 1) {
            SHARED_WINDOW => Some("shared"),
            LOCAL_WINDOW => Some("local"),
            _ => None,
        };
        if let Some(space) = space {
            return Err(illegal(
                lane,
                format!(
                    "a tensor map in {space} memory, at {va:#x}: it must be a parameter of the \
                     kernel, a constant or in global memory"
                ),
            ));
        }
        let host = self.map_bytes(lane, Window::Generic, va)?;
        // SAFETY: `map_bytes` found the map's bytes in live memory of this launch.
        let words = unsafe { std::ptr::read_unaligned(host as *const [u64; WORDS]) };
        TensorMap::read(&words)
            .map_err(|error| illegal(lane, format!("tensor map at {va:#x}: {error}")))
    }

    /// Where the host has the bytes of a map.
    fn map_bytes(&mut self, lane: usize, window: Window, va: u64) -> Result<usize, Box<Trap>> {
        if !va.is_multiple_of(ALIGNMENT as u64) {
            let message = format!(
                "the address of a tensor map is {va:#x}: it must be a multiple of {ALIGNMENT}"
            );
            return Err(Trap::new(FaultKind::Misaligned, lane, message));
        }
        let mut spaces = Spaces {
            global: &mut self.worker.global,
            shared: &mut self.core.shared,
            peers: self.peers.reborrow(),
            local: &mut self.warp.local,
            local_each: self.launch.kernel.info.local_bytes,
            params: &self.launch.params,
        };
        let half = BYTES / 2;
        let only = 1 << lane;
        let host = spaces.resolve(window, [va; LANES], only, half)?[lane];
        let second = va + u64::from(half);
        spaces.resolve(window, [second; LANES], only, half)?;
        Ok(host)
    }

    pub(super) fn replace_field(
        &mut self,
        operands: &mut Operands,
        lane: usize,
        window: Window,
        field: MapField,
    ) -> Outcome {
        let (va, value) = (operands.address(), operands.wide());
        if window == Window::Generic
            && matches!(va & !(WINDOW_BYTES - 1), LOCAL_WINDOW | PARAM_WINDOW)
        {
            let message = format!(
                "tensormap.replace of a map at {va:#x}: it must be in global or shared memory"
            );
            return Err(illegal(lane, message));
        }
        let host = self.map_bytes(lane, window, va)?;
        // SAFETY: `map_bytes` found the map's bytes in writable memory of this launch.
        unsafe {
            let mut words = std::ptr::read_unaligned(host as *const [u64; WORDS]);
            replace(&mut words, field, value);
            std::ptr::write_unaligned(host as *mut [u64; WORDS], words);
        }
        Ok(())
    }

    /// Copies a map from shared to global memory.
    pub(super) fn publish_map(&mut self, operands: &mut Operands, lane: usize) -> Outcome {
        let (to, from) = (operands.address(), operands.address());
        let source = self.map_bytes(lane, Window::Shared, from)?;
        let target = self.map_bytes(lane, Window::Global, to)?;
        // SAFETY: `map_bytes` found both in live memory of this launch, and they lie in different
        // spaces.
        unsafe {
            std::ptr::copy_nonoverlapping(source as *const u8, target as *mut u8, BYTES as usize);
        }
        Ok(())
    }
}
