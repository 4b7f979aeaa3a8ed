//! Device and page-locked host memory.

use std::alloc::Layout;

use super::abi::{Host, Out};
use super::code::Code;
use super::state::{Allocation, Handle, HostAllocation, State, current};
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

/// Frees device memory.
pub(super) fn free(address: u64) -> Outcome {
    let (driver, _) = current()?;
    driver.quiet();
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

fn allocate_host(out: Out<Host>, bytes: usize) -> Outcome {
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
    driver
        .state()
        .host_allocations
        .insert(host.address(), HostAllocation { context, layout });
    out.set(host)
}

/// Frees page-locked memory; false if there is none at this address.
pub(super) fn free_host(state: &mut State, address: usize) -> bool {
    let Some(allocation) = state.host_allocations.remove(&address) else {
        return false;
    };
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
        free(address)
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
        allocate_host(out, bytes)
    }

    fn cuMemAllocHost_v2(out: Out<Host>, bytes: usize) {
        allocate_host(out, bytes)
    }

    fn cuMemFreeHost(pointer: Host) {
        let (driver, _) = current()?;
        driver.idle();
        if pointer.is_null() || !free_host(&mut driver.state(), pointer.address()) {
            return Err(Code::INVALID_VALUE);
        }
        Ok(())
    }

    fn cuPointerGetAttribute(value: Out<u8>, attribute: u32, address: u64) {
        pointer_attribute(value, attribute, address)
    }
}
