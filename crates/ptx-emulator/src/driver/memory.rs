//! Device and page-locked host memory.

use std::alloc::Layout;

use super::abi::{Host, In, Out};
use super::code::Code;
use super::state::{Allocation, Driver, Handle, HostAllocation, State, current};
use super::work::refused;
use super::{Outcome, api, stream};

const PAGE: usize = 4096;

/// Allocates device memory for the current context, from a pool or by itself.
pub(super) fn allocate(address: Out<u64>, bytes: usize, pool: Option<Handle>) -> Outcome {
    let (driver, context) = current()?;
    if address.is_null() || bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let start = driver.memory.alloc(bytes as u64).map_err(refused)?;
    let mut state = driver.state();
    let bytes = bytes as u64;
    if let Some(pool) = pool.and_then(|pool| state.pools.get_mut(&pool)) {
        pool.used += bytes;
        pool.used_high = pool.used_high.max(pool.used);
    }
    state.allocations.insert(
        start,
        Allocation {
            context,
            bytes,
            pool,
        },
    );
    address.set(start)
}

/// Frees device memory, while nothing else is done on the device.
pub(super) fn free(driver: &Driver, address: u64) -> Outcome {
    let mut state = driver.state();
    state
        .forget_allocation(address)
        .ok_or(Code::INVALID_VALUE)?;
    driver.memory.free(address).map_err(refused)
}

/// A stream-ordered call: its stream must exist, and allocations are not captured into graphs here.
pub(super) fn stream_ordered(handle: Handle) -> Outcome {
    let (driver, context) = current()?;
    stream::not_capturing(driver, context, handle)
}

fn allocate_host(out: Out<Host>, bytes: usize, flags: u32) -> Outcome {
    let (driver, context) = current()?;
    let layout = Layout::from_size_align(bytes, PAGE)
        .ok()
        .filter(|layout| layout.size() > 0);
    let layout = layout
        .filter(|_| !out.is_null())
        .ok_or(Code::INVALID_VALUE)?;
    driver.state().unsafe_call()?;
    // SAFETY: the layout's size is not zero.
    let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
    if pointer.is_null() {
        return Err(Code::OUT_OF_MEMORY);
    }
    let host = Host::new(pointer.cast());
    driver.state().host_allocations.insert(
        host.address(),
        HostAllocation {
            context,
            is_registered: false,
            flags,
            layout,
        },
    );
    out.set(host)
}

/// Makes memory of the program page-locked; it must not overlap other such memory.
fn register_host(pointer: Host, bytes: usize, flags: u32) -> Outcome {
    const KNOWN: u32 = 0xf;
    const IO_MEMORY: u32 = 4;
    let (driver, context) = current()?;
    let layout = Layout::from_size_align(bytes, 1).map_err(|_| Code::INVALID_VALUE)?;
    let start = pointer.address();
    let end = start.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
    if pointer.is_null() || bytes == 0 || flags & !KNOWN != 0 {
        return Err(Code::INVALID_VALUE);
    }
    if flags & IO_MEMORY != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let mut state = driver.state();
    let overlaps = state
        .host_allocations
        .iter()
        .any(|(&other, allocation)| start < other + allocation.layout.size() && other < end);
    if overlaps {
        return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
    }
    let allocation = HostAllocation {
        context,
        is_registered: true,
        flags,
        layout,
    };
    state.host_allocations.insert(start, allocation);
    Ok(())
}

fn unregister_host(pointer: Host) -> Outcome {
    let (driver, _) = current()?;
    driver.idle();
    let mut state = driver.state();
    match state.host_allocations.get(&pointer.address()) {
        Some(allocation) if allocation.is_registered => {}
        _ => return Err(Code::HOST_MEMORY_NOT_REGISTERED),
    }
    state.host_allocations.remove(&pointer.address());
    Ok(())
}

/// Frees page-locked memory; false if there is none at this address.
pub(super) fn free_host(state: &mut State, address: usize) -> bool {
    let Some(allocation) = state.host_allocations.remove(&address) else {
        return false;
    };
    if allocation.is_registered {
        return true;
    }
    // SAFETY: the table says `alloc_zeroed` returned this address for this layout, and the entry is
    // gone now.
    unsafe {
        std::alloc::dealloc(
            std::ptr::with_exposed_provenance_mut(address),
            allocation.layout,
        )
    };
    true
}

fn pointer_attribute(out: Out<u8>, attribute: u32, address: u64) -> Outcome {
    let (driver, _) = current()?;
    let state = driver.state();
    let device = driver.memory.range(address);
    let host = state.host_allocations.iter().find(|&(&start, host)| {
        (address as usize)
            .checked_sub(start)
            .is_some_and(|offset| offset < host.layout.size())
    });
    let (context, start, bytes, memory_type) = match (device, host) {
        (Some((start, bytes)), _) => {
            let context = state
                .allocations
                .get(&start)
                .map_or(0, |allocation| allocation.context);
            (context, start, bytes, 2_u32)
        }
        (None, Some((&start, host))) => (host.context, start as u64, host.layout.size() as u64, 1),
        (None, None) => return Err(Code::INVALID_VALUE),
    };
    let is_device = memory_type == 2;
    match attribute {
        1 => out.set_all(&context.to_le_bytes()),     // CONTEXT
        2 => out.set_all(&memory_type.to_le_bytes()), // MEMORY_TYPE
        3 if is_device => out.set_all(&address.to_le_bytes()), // DEVICE_POINTER
        4 if !is_device => out.set_all(&address.to_le_bytes()), // HOST_POINTER
        8 => out.set_all(&0_u32.to_le_bytes()),       // IS_MANAGED
        9 => out.set_all(&0_i32.to_le_bytes()),       // DEVICE_ORDINAL
        11 => out.set_all(&start.to_le_bytes()),      // RANGE_START_ADDR
        12 => out.set_all(&bytes.to_le_bytes()),      // RANGE_SIZE
        13 => out.set_all(&1_u32.to_le_bytes()),      // MAPPED
        _ => Err(Code::NOT_SUPPORTED),
    }
}

api! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let (driver, _) = current()?;
        driver.state().unsafe_call()?;
        allocate(address, bytes, None)
    }

    fn cuMemFree_v2(address: u64) {
        let (driver, _) = current()?;
        driver.state().unsafe_call()?;
        driver.idle();
        free(driver, address)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (driver, _) = current()?;
        let (left, all) = driver.memory.info();
        free.set(left as usize)?;
        total.set(all as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let (driver, _) = current()?;
        let (start, size) = driver.memory.range(address).ok_or(Code::NOT_FOUND)?;
        base.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    fn cuMemHostAlloc(out: Out<Host>, bytes: usize, flags: u32) {
        if flags & !0x7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        allocate_host(out, bytes, flags)
    }

    fn cuMemAllocHost_v2(out: Out<Host>, bytes: usize) {
        allocate_host(out, bytes, 0)
    }

    fn cuMemHostRegister_v2(pointer: Host, bytes: usize, flags: u32) {
        register_host(pointer, bytes, flags)
    }

    fn cuMemHostUnregister(pointer: Host) {
        unregister_host(pointer)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: Host) {
        let (driver, _) = current()?;
        let found = driver.state().host_allocations.get(&pointer.address()).map(|host| host.flags);
        flags.set(found.ok_or(Code::INVALID_VALUE)?)
    }

    // Rows begin at multiples of 512 bytes, as textures and coalesced accesses want it.
    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        const ROW: usize = 512;
        let (driver, _) = current()?;
        driver.state().unsafe_call()?;
        let row = width.checked_next_multiple_of(ROW).filter(|_| width > 0);
        let row = row.filter(|_| [4, 8, 16].contains(&element) && !pitch.is_null());
        let row = row.ok_or(Code::INVALID_VALUE)?;
        allocate(address, row.checked_mul(height).ok_or(Code::INVALID_VALUE)?, None)?;
        pitch.set(row)
    }

    fn cuMemFreeHost(pointer: Host) {
        let (driver, _) = current()?;
        driver.idle();
        let own = driver.state().host_allocations.get(&pointer.address()).is_some_and(|host| !host.is_registered);
        if !own || !free_host(&mut driver.state(), pointer.address()) {
            return Err(Code::INVALID_VALUE);
        }
        Ok(())
    }

    fn cuPointerGetAttribute(value: Out<u8>, attribute: u32, address: u64) {
        pointer_attribute(value, attribute, address)
    }

    // What isn't known of a pointer is 0, as documented.
    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, values: In<usize>, address: u64) {
        current()?;
        if count == 0 {
            return Err(Code::INVALID_VALUE);
        }
        for index in 0..count as usize {
            let attribute = attributes.get(index)?;
            let value = Out::<u8>::at(values.get(index)?);
            if pointer_attribute(value, attribute, address) == Err(Code::INVALID_VALUE) {
                const DEVICE_ORDINAL: u32 = 9;
                match attribute {
                    DEVICE_ORDINAL => value.set_all(&(-2_i32).to_le_bytes())?,
                    2 | 8 | 13 => value.set_all(&0_u32.to_le_bytes())?,
                    _ => value.set_all(&0_u64.to_le_bytes())?,
                }
            }
        }
        Ok(())
    }
}
