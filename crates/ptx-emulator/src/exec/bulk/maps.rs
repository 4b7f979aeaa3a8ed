//! Tensor maps as kernels use and change them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::flight::Issuer;
use super::illegal;
use super::operands::Operands;
use crate::decode::op::{Inst, MapField, Window};
use crate::decode::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::exec::fault::FaultKind;
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, lanes};
use crate::exec::space::addresses;
use crate::exec::trap::{Outcome, Trap};
use crate::memory::FIRST_ADDRESS;
use crate::tensor_map::{ALIGNMENT, TensorMap, WORDS, replace};

const BYTES: u32 = 8 * WORDS as u32;

/// The tensor maps in global memory that a launch has changed, by address.
#[derive(Default)]
pub(crate) struct ChangedMaps(Mutex<HashMap<u64, Change>>);

#[derive(Clone, Copy)]
struct Change {
    /// How many changes there have been.
    count: u32,
    /// Whether a release fence of the tensormap proxy has followed.
    released: bool,
    by: Issuer,
}

impl ChangedMaps {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Change>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, va: u64, by: Issuer, released: bool) {
        let mut all = self.lock();
        let count = all.get(&va).map_or(0, |change| change.count) + 1;
        all.insert(
            va,
            Change {
                count,
                released,
                by,
            },
        );
    }

    /// A thread of a block has fenced its changes, and what it knows of other threads'.
    fn release(&self, block: u64) {
        let mut all = self.lock();
        let own = all.values_mut().filter(|change| change.by.block == block);
        own.for_each(|change| change.released = true);
    }

    fn find(&self, va: u64) -> Option<Change> {
        self.lock().get(&va).copied()
    }
}

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
        self.check_map(lane, va)?;
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
        let (_, _, mut spaces) = self.parts();
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
        if self.core.checks.is_some() && va >= FIRST_ADDRESS {
            self.launch.maps.change(va, self.issuer(lane), false);
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
        if self.core.checks.is_some() {
            self.launch.maps.change(to, self.issuer(lane), true);
        }
        Ok(())
    }

    /// `fence.proxy.tensormap::generic`; with `acquire` for the map at the instruction's address.
    #[cold]
    pub(in crate::exec) fn fence_maps(&mut self, inst: &Inst, active: u32, acquire: bool) {
        if self.core.checks.is_none() {
            return;
        }
        if !acquire {
            return self.launch.maps.release(self.core.linear);
        }
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        for lane in lanes(active) {
            if let Some(change) = self.launch.maps.find(targets[lane]) {
                self.core.acquired_maps.insert(targets[lane], change.count);
            }
        }
    }

    /// Finds a map that this launch has changed with no fence since.
    fn check_map(&self, lane: usize, va: u64) -> Outcome {
        let change = self
            .core
            .checks
            .as_ref()
            .and_then(|_| self.launch.maps.find(va));
        let Some(change) = change else {
            return Ok(());
        };
        let missing = if !change.released {
            "release.gpu after the change"
        } else if self.core.acquired_maps.get(&va) != Some(&change.count) {
            "acquire.gpu of the map before the use"
        } else {
            return Ok(());
        };
        let line = self
            .launch
            .kernel
            .places
            .get(change.by.pc)
            .map_or(0, |place| place.ptx_line);
        let message = format!(
            "missing fence: the tensor map at {va:#x}, which was changed at PTX line {line}, is \
             used, and nothing made the change visible: it needs \
             fence.proxy.tensormap::generic.{missing}"
        );
        Err(Trap::new(FaultKind::LaunchFailed, lane, message))
    }
}
