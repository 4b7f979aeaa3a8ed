//! From addresses of any state space to host pointers, every access checked: alignment, then
//! bounds.

use super::block::Core;
use super::cluster::Peers;
use super::fault::FaultKind;
use super::registers::{FULL, LANES, Registers, Wides, collect, lanes};
use super::trap::Trap;
use crate::decode::op::{Reg, Window};
use crate::decode::{CLUSTER_WINDOW, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
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

    /// The eight bytes at an offset inside, a multiple of 8.
    pub fn word(&self, at: u32) -> u64 {
        let mut raw = [0; 8];
        self.read(at, &mut raw);
        u64::from_le_bytes(raw)
    }

    pub fn set_word(&mut self, at: u32, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Reads bytes inside that lie within one unit of 64.
    pub fn read(&self, at: u32, to: &mut [u8]) {
        let (unit, within) = (at as usize / 64, at as usize % 64);
        let from = self
            .units
            .get(unit)
            .and_then(|unit| unit.0.get(within..within + to.len()));
        if let Some(from) = from {
            to.copy_from_slice(from);
        }
    }

    /// Writes bytes inside that lie within one unit of 64.
    pub fn write(&mut self, at: u32, from: &[u8]) {
        let (unit, within) = (at as usize / 64, at as usize % 64);
        let unit = self.units.get_mut(unit);
        if let Some(to) = unit.and_then(|unit| unit.0.get_mut(within..within + from.len())) {
            to.copy_from_slice(from);
        }
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
            Window::Cluster => self.resolve_cluster(window, &addresses, mask, bytes),
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
            if high - base >= CLUSTER_WINDOW {
                return self.resolve_cluster(Window::Shared, addresses, mask, bytes);
            }
            return Err(outside("shared", addresses, base, len, mask, bytes));
        }
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = host + (addresses[lane] - base) as usize;
        }
        Ok(out)
    }

    /// Shared memory of any block of the cluster.
    #[cold]
    fn resolve_cluster(
        &mut self,
        window: Window,
        addresses: &Wides,
        mask: u32,
        bytes: u32,
    ) -> Result<Pointers, Box<Trap>> {
        let own = self.shared.len();
        let mut out = [0; LANES];
        let mut first = None;
        for lane in lanes(mask) {
            let spot = shared_spot(window, addresses[lane], bytes, lane, own, &mut self.peers)?;
            let base = match self.peers.core(spot.rank as usize) {
                Some(core) => core.shared.pointer(),
                None => self.shared.pointer(),
            };
            out[lane] = base as usize + spot.offset as usize;
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
                _ if block_of(Window::Generic, va).is_some() => {
                    self.resolve_cluster(Window::Generic, &single, only, bytes)?
                }
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

/// Where an address of shared memory leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Of the block within the cluster.
    pub rank: u32,
    /// Within its shared memory.
    pub offset: u32,
}

/// The block whose shared memory an address is in (`None` for the own one), and the offset there.
/// `None` for an address elsewhere.
pub(super) fn block_of(window: Window, va: u64) -> Option<(Option<u32>, u32)> {
    let linear = match window {
        Window::Shared | Window::Cluster => va,
        Window::Generic => va.checked_sub(SHARED_WINDOW)?,
        _ => return None,
    };
    let offset = (linear & (WINDOW_BYTES - 1)) as u32;
    if linear < WINDOW_BYTES {
        return Some((None, offset));
    }
    let rank = linear.checked_sub(CLUSTER_WINDOW)? / WINDOW_BYTES;
    (rank <= LARGEST_RANK).then_some((Some(rank as u32), offset))
}

/// The address of shared memory `va`, mapped to the block `rank`, in the same form; `None` for an
/// address elsewhere.
pub(super) fn mapped(window: Window, va: u64, rank: u32) -> Option<u64> {
    let (_, offset) = block_of(window, va)?;
    let base = if window == Window::Generic {
        SHARED_WINDOW
    } else {
        0
    };
    let rank = u64::from(rank).min(LARGEST_RANK);
    Some(base + CLUSTER_WINDOW + rank * WINDOW_BYTES + u64::from(offset))
}

/// Ranks that an address of 32 bits can hold.
const LARGEST_RANK: u64 = (u32::MAX as u64 - CLUSTER_WINDOW) / WINDOW_BYTES;

/// Checks that `bytes` bytes of shared memory of a block of the cluster lie at an address.
pub(super) fn shared_spot(
    window: Window,
    va: u64,
    bytes: u32,
    lane: usize,
    own: usize,
    peers: &mut Peers<'_>,
) -> Result<Spot, Box<Trap>> {
    let illegal = |message| Err(Trap::new(FaultKind::IllegalAddress, lane, message));
    let me = peers.rank() as u32;
    let Some((rank, offset)) = block_of(window, va) else {
        return illegal(format!("{va:#x} is no address of shared memory"));
    };
    let rank = rank.unwrap_or(me);
    if rank != me && window == Window::Shared {
        return illegal(format!(
            "{va:#x} is in the shared memory of the block of rank {rank}; .shared and .shared::cta \
             mean that of the own block, whose rank is {me}"
        ));
    }
    let len = if rank == me {
        own
    } else {
        peer(peers, rank, lane)?.shared.len()
    };
    if u64::from(offset) + u64::from(bytes) > len as u64 {
        return illegal(format!(
            "{bytes} bytes at {offset:#x} of shared memory, which has {len} bytes here"
        ));
    }
    Ok(Spot { rank, offset })
}

/// Another block of the cluster, whose shared memory is about to be used.
pub(super) fn peer<'a>(
    peers: &'a mut Peers<'_>,
    rank: u32,
    lane: usize,
) -> Result<&'a mut Core, Box<Trap>> {
    let size = peers.size();
    let Some(core) = peers.core(rank as usize) else {
        let message = format!("shared memory of rank {rank} of a cluster of {size} blocks");
        return Err(Trap::new(FaultKind::IllegalAddress, lane, message));
    };
    if core.live_threads == 0 {
        let message = format!(
            "shared memory of the block of rank {rank}, all of whose threads have exited; a block \
             must stay until the others of its cluster have done with its memory"
        );
        return Err(Trap::new(FaultKind::LaunchFailed, lane, message));
    }
    Ok(core)
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
