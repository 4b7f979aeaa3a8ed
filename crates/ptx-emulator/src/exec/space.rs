//! From addresses of any state space to host pointers, every access checked: alignment, then
//! bounds.

use super::cluster::Peers;
use super::fault::FaultKind;
use super::registers::{FULL, LANES, Registers, Wides, collect, lanes};
use super::trap::Trap;
use crate::decode::op::{Reg, Window};
use crate::decode::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::memory::{AddressMap, DeviceMemory, FIRST_ADDRESS, GRANULE_SHIFT};

/// Zeroed bytes aligned for every access.
pub(crate) struct Bytes {
    units: Box<[Unit]>,
    len: usize,
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Unit([u8; 64]);

impl Bytes {
    pub fn new(len: usize) -> Bytes {
        Bytes {
            units: vec![Unit([0; 64]); len.div_ceil(64)].into(),
            len,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn pointer(&mut self) -> *mut u8 {
        self.units.as_mut_ptr().cast()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the units are bytes without gaps, at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.units.as_ptr().cast(), self.len) }
    }

    pub fn clear(&mut self) {
        self.units.fill(Unit([0; 64]));
    }
}

#[derive(Clone, Copy)]
pub(super) struct Cached {
    pub base: u64,
    pub size: u64,
    pub host: usize,
}

const CACHED: usize = 64;

/// Global memory as one worker sees it: a snapshot of the allocations, and the last ones used.
pub(crate) struct GlobalView<'a> {
    map: &'a AddressMap,
    memory: &'a DeviceMemory,
    cache: [Cached; CACHED],
}

impl<'a> GlobalView<'a> {
    pub fn new(map: &'a AddressMap, memory: &'a DeviceMemory) -> Self {
        GlobalView {
            map,
            memory,
            cache: [Cached {
                base: 0,
                size: 0,
                host: 0,
            }; CACHED],
        }
    }

    #[inline(always)]
    pub(super) fn find(&mut self, va: u64) -> Option<Cached> {
        let slot = (va >> GRANULE_SHIFT) as usize % CACHED;
        let cached = self.cache[slot];
        if va.wrapping_sub(cached.base) < cached.size {
            return Some(cached);
        }
        self.find_slowly(va, slot)
    }

    #[cold]
    fn find_slowly(&mut self, va: u64, slot: usize) -> Option<Cached> {
        let found = self.map.find(va)?;
        let cached = Cached {
            base: found.base,
            size: found.size,
            host: found.host() as usize,
        };
        self.cache[slot] = cached;
        Some(cached)
    }

    /// The host address of `bytes` bytes, which must lie in one allocation.
    pub(super) fn range(&mut self, lane: usize, va: u64, bytes: u64) -> Result<usize, Box<Trap>> {
        match self.find(va) {
            Some(found) if found.size - (va - found.base) >= bytes => {
                Ok(found.host + (va - found.base) as usize)
            }
            _ => Err(self.unmapped(lane, va, bytes)),
        }
    }

    #[cold]
    fn unmapped(&self, lane: usize, va: u64, bytes: u64) -> Box<Trap> {
        let what = if va < FIRST_ADDRESS {
            "no global address".to_owned()
        } else if let Some((base, size)) = self.memory.freed_range(va) {
            format!(
                "freed: it was byte {} of the {size} at {base:#x}",
                va - base
            )
        } else if let Some(below) = self.map.nearest_below(va) {
            let offset = va - below.base;
            if offset < below.size {
                format!(
                    "only {} bytes before the end of the {} at {:#x}",
                    below.size - offset,
                    below.size,
                    below.base
                )
            } else {
                format!(
                    "{} bytes behind the end of the {} at {:#x}",
                    offset - below.size,
                    below.size,
                    below.base
                )
            }
        } else {
            "no allocation".to_owned()
        };
        Trap::new(
            FaultKind::IllegalAddress,
            lane,
            format!("{bytes} bytes at {va:#x} are not allocated ({what})"),
        )
    }
}

/// The memory a warp can reach.
pub(crate) struct Spaces<'w, 'g> {
    pub global: &'w mut GlobalView<'g>,
    pub shared: &'w mut Bytes,
    /// Whose shared memory a block of a cluster reaches too.
    pub peers: Peers<'w>,
    pub local: &'w mut Bytes,
    /// Local bytes of each lane.
    pub local_each: u32,
    pub params: &'w [u8],
}

/// Host addresses of each lane's access. Lanes outside the mask hold the first active lane's.
pub(crate) type Pointers = [usize; LANES];

/// The address operand plus offset, all lanes.
#[inline(always)]
pub(crate) fn addresses(regs: &Registers, base: Reg, offset: i32) -> Wides {
    let mut out = [0; LANES];
    if base.is_wide() {
        let wide = regs.wide(base);
        for lane in 0..LANES {
            out[lane] = wide[lane].wrapping_add(i64::from(offset) as u64);
        }
    } else {
        let words = regs.word(base);
        for lane in 0..LANES {
            out[lane] = u64::from(words[lane].wrapping_add(offset as u32));
        }
    }
    out
}

/// Lanes outside the mask repeat the first active one, so that whole-vector checks hold for all.
#[inline(always)]
fn fill_inactive(addresses: &mut Wides, mask: u32) {
    if mask == FULL {
        return;
    }
    let first = addresses[mask.trailing_zeros() as usize % LANES];
    for (lane, address) in addresses.iter_mut().enumerate() {
        *address = if mask >> lane & 1 == 1 {
            *address
        } else {
            first
        };
    }
}

#[inline(always)]
fn range(addresses: &Wides) -> (u64, u64) {
    // Signed comparison is what the host's vectors have; every valid address is below 2^63.
    let (mut low, mut high) = (i64::MAX, i64::MIN);
    for &address in addresses {
        low = low.min(address as i64);
        high = high.max(address as i64);
    }
    if low < 0 {
        (0, u64::MAX)
    } else {
        (low as u64, high as u64)
    }
}

impl Spaces<'_, '_> {
    /// Checks an access of `bytes` bytes (a power of two) per active lane and finds the host
    /// addresses.
    #[inline(always)]
    pub fn resolve(
        &mut self,
        window: Window,
        mut addresses: Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        fill_inactive(&mut addresses, mask);
        let low_bits = addresses.iter().fold(0, |all, a| all | a) & u64::from(bytes - 1);
        if low_bits != 0 {
            return Err(misaligned(&addresses, mask, bytes));
        }
        match window {
            Window::Global => self.resolve_global(&addresses, mask, bytes),
            Window::Shared => self.resolve_shared(&addresses, 0, mask, bytes),
            Window::Local => self.resolve_local(&addresses, 0, mask, bytes),
            Window::Param => self.resolve_param(&addresses, 0, mask, bytes),
            Window::Generic => self.resolve_generic(&addresses, mask, bytes),
        }
    }

    #[inline(always)]
    fn resolve_global(
        &mut self,
        addresses: &Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let (low, high) = range(addresses);
        let mut out = [0; LANES];
        if let Some(found) = self.global.find(low)
            && (high - found.base).saturating_add(u64::from(bytes)) <= found.size
        {
            let shift = (found.host as u64).wrapping_sub(found.base);
            for lane in 0..LANES {
                out[lane] = addresses[lane].wrapping_add(shift) as usize;
            }
            return Ok(out);
        }
        self.resolve_scattered(addresses, mask, bytes)
    }

    /// Lanes in different allocations, or a fault.
    #[cold]
    fn resolve_scattered(
        &mut self,
        addresses: &Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let mut out = [0; LANES];
        let mut first = None;
        for lane in lanes(mask) {
            let va = addresses[lane];
            let found = self
                .global
                .find(va)
                .filter(|f| f.size - (va - f.base) >= u64::from(bytes));
            let Some(found) = found else {
                return Err(self.global.unmapped(lane, va, u64::from(bytes)));
            };
            out[lane] = found.host + (va - found.base) as usize;
            first.get_or_insert(out[lane]);
        }
        let first = first.unwrap_or(0);
        for (lane, pointer) in out.iter_mut().enumerate() {
            if mask >> lane & 1 == 0 {
                *pointer = first;
            }
        }
        Ok(out)
    }

    #[inline(always)]
    fn resolve_shared(
        &mut self,
        addresses: &Wides,
        base: u64,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let len = self.shared.len() as u64;
        let host = self.shared.pointer() as usize;
        let (low, high) = range(addresses);
        if low < base || (high - base).saturating_add(u64::from(bytes)) > len {
            return Err(outside("shared", addresses, base, len, mask, bytes));
        }
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = host + (addresses[lane] - base) as usize;
        }
        Ok(out)
    }

    fn resolve_local(
        &mut self,
        addresses: &Wides,
        base: u64,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let each = u64::from(self.local_each);
        let host = self.local.pointer() as usize;
        let (low, high) = range(addresses);
        if low < base || (high - base).saturating_add(u64::from(bytes)) > each {
            return Err(outside("local", addresses, base, each, mask, bytes));
        }
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = host + lane * self.local_each as usize + (addresses[lane] - base) as usize;
        }
        Ok(out)
    }

    fn resolve_param(
        &mut self,
        addresses: &Wides,
        base: u64,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let len = self.params.len() as u64;
        let host = self.params.as_ptr() as usize;
        let (low, high) = range(addresses);
        if low < base || (high - base).saturating_add(u64::from(bytes)) > len {
            return Err(outside("parameter", addresses, base, len, mask, bytes));
        }
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = host + (addresses[lane] - base) as usize;
        }
        Ok(out)
    }

    /// Generic addresses: usually all lanes are in one window.
    fn resolve_generic(
        &mut self,
        addresses: &Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let (low, high) = range(addresses);
        if low >= FIRST_ADDRESS {
            return self.resolve_global(addresses, mask, bytes);
        }
        let whole = |base: u64| low >= base && high < base + WINDOW_BYTES;
        if whole(SHARED_WINDOW) {
            return self.resolve_shared(addresses, SHARED_WINDOW, mask, bytes);
        }
        if whole(LOCAL_WINDOW) {
            return self.resolve_local(addresses, LOCAL_WINDOW, mask, bytes);
        }
        if whole(PARAM_WINDOW) {
            return self.resolve_param(addresses, PARAM_WINDOW, mask, bytes);
        }
        self.resolve_mixed(addresses, mask, bytes)
    }

    #[cold]
    fn resolve_mixed(
        &mut self,
        addresses: &Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let mut out = [0; LANES];
        let mut first = None;
        for lane in lanes(mask) {
            let va = addresses[lane];
            let mut single = [va; LANES];
            let only = 1 << lane;
            fill_inactive(&mut single, only);
            let resolved = match va & !(WINDOW_BYTES - 1) {
                SHARED_WINDOW => self.resolve_shared(&single, SHARED_WINDOW, only, bytes)?,
                LOCAL_WINDOW => self.resolve_local(&single, LOCAL_WINDOW, only, bytes)?,
                PARAM_WINDOW => self.resolve_param(&single, PARAM_WINDOW, only, bytes)?,
                _ => self.resolve_scattered(&single, only, bytes)?,
            };
            out[lane] = resolved[lane];
            first.get_or_insert(out[lane]);
        }
        let first = first.unwrap_or(0);
        for (lane, pointer) in out.iter_mut().enumerate() {
            if mask >> lane & 1 == 0 {
                *pointer = first;
            }
        }
        Ok(out)
    }
}

#[cold]
fn misaligned(addresses: &Wides, mask: u32, bytes: u32) -> Box<Trap> {
    let wrong = collect(|lane| addresses[lane] & u64::from(bytes - 1) != 0) & mask;
    let lane = wrong.trailing_zeros() as usize % LANES;
    let va = addresses[lane];
    Trap::new(
        FaultKind::Misaligned,
        lane,
        format!("{va:#x} is not a multiple of {bytes}, the size of the access"),
    )
}

#[cold]
fn outside(
    space: &str,
    addresses: &Wides,
    base: u64,
    len: u64,
    mask: u32,
    bytes: u32,
) -> Box<Trap> {
    let inside = |va: u64| va >= base && (va - base).saturating_add(u64::from(bytes)) <= len;
    let wrong = collect(|lane| !inside(addresses[lane])) & mask;
    let lane = wrong.trailing_zeros() as usize % LANES;
    let offset = addresses[lane].wrapping_sub(base);
    Trap::new(
        FaultKind::IllegalAddress,
        lane,
        format!("{bytes} bytes at {offset:#x} of {space} memory, which has {len} bytes here"),
    )
}
