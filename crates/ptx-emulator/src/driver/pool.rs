//! Memory pools. A pool keeps nothing back here: it only counts what was taken from it.

use super::abi::{In, Out};
use super::code::Code;
use super::memory::{allocate, stream_ordered};
use super::state::{Handle, Pool, State, current, driver, driver_of};
use super::stream::context_of;
use super::{Outcome, api, queue, work};

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    location: u32,
    id: u32,
    flags: u32,
}

/// `CU_MEM_LOCATION_TYPE_DEVICE`, `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`,
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const DEVICE: u32 = 1;
const READ_WRITE: u32 = 3;
const PINNED: u32 = 1;

/// A location is a type and a number: only the one device has pools.
fn check_location(location: In<[u32; 2]>) -> Outcome {
    match location.get(0)? {
        [DEVICE, 0] => Ok(()),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn check_kind(location: In<[u32; 2]>, kind: u32) -> Outcome {
    check_location(location)?;
    if kind == PINNED {
        Ok(())
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

fn find(state: &mut State, pool: Handle) -> Outcome<&mut Pool> {
    state.pools.get_mut(&pool).ok_or(Code::INVALID_VALUE)
}

fn get(pool: &Pool, attribute: u32, value: Out<u8>) -> Outcome {
    let bytes = match attribute {
        1..=3 => {
            let flag = pool.reuse.get(attribute as usize - 1).copied().unwrap_or(0);
            return value.set_all(&flag.to_le_bytes());
        }
        4 => pool.release_threshold,
        5 | 7 => pool.used,
        6 | 8 => pool.used_high,
        _ => return Err(Code::INVALID_VALUE),
    };
    value.set_all(&bytes.to_le_bytes())
}

fn set(pool: &mut Pool, attribute: u32, value: In<u8>) -> Outcome {
    let mut bytes = [0_u8; 8];
    let width = if attribute <= 3 { 4 } else { 8 };
    for (index, byte) in bytes.iter_mut().enumerate().take(width) {
        *byte = value.get(index)?;
    }
    let number = u64::from_le_bytes(bytes);
    match attribute {
        1..=3 => {
            if let Some(flag) = pool.reuse.get_mut(attribute as usize - 1) {
                *flag = i32::from(number != 0);
            }
        }
        4 => pool.release_threshold = number,
        6 | 8 if number == 0 => pool.used_high = pool.used,
        _ => return Err(Code::INVALID_VALUE),
    }
    Ok(())
}

api! {
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        stream_ordered(stream)?;
        let pool = driver()?.state().current_pool;
        allocate(address, bytes, Some(pool))
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        stream_ordered(stream)?;
        find(&mut driver()?.state(), pool)?;
        allocate(address, bytes, Some(pool))
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        stream_ordered(stream)?;
        let (driver, context) = current()?;
        let context = context_of(driver, context, stream)?;
        let is_known = driver.state().allocations.contains_key(&address);
        if !is_known {
            return Err(Code::INVALID_VALUE);
        }
        // Late streams free at once, with all that comes before.
        queue::try_finish_stream(driver, context, stream);
        work::free(driver, context, stream, address)
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        pool.set(driver_of(device)?.state().default_pool)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        pool.set(driver_of(device)?.state().current_pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        let mut state = driver_of(device)?.state();
        find(&mut state, pool)?;
        state.current_pool = pool;
        Ok(())
    }

    // Of the properties, only what has a meaning here is looked at: the allocation type, which must
    // be pinned (1).
    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<u32>) {
        let (driver, _) = current()?;
        if pool.is_null() || properties.get(0)? != 1 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.pools.insert(handle, Pool::default());
        pool.set(handle)
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let mut state = driver()?.state();
        find(&mut state, pool)?;
        if pool == state.default_pool {
            return Err(Code::INVALID_VALUE);
        }
        state.pools.remove(&pool);
        if state.current_pool == pool {
            state.current_pool = state.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: Handle, access: In<Access>, count: usize) {
        find(&mut driver()?.state(), pool)?;
        for index in 0..count {
            let Access { location, id, flags } = access.get(index)?;
            if location != DEVICE || id != 0 || flags != READ_WRITE {
                return Err(Code::INVALID_VALUE);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: In<[u32; 2]>) {
        find(&mut driver()?.state(), pool)?;
        check_location(location)?;
        flags.set(READ_WRITE)
    }

    fn cuMemGetDefaultMemPool(pool: Out<Handle>, location: In<[u32; 2]>, kind: u32) {
        let driver = driver()?;
        check_kind(location, kind)?;
        pool.set(driver.state().default_pool)
    }

    fn cuMemGetMemPool(pool: Out<Handle>, location: In<[u32; 2]>, kind: u32) {
        let driver = driver()?;
        check_kind(location, kind)?;
        pool.set(driver.state().current_pool)
    }

    fn cuMemSetMemPool(location: In<[u32; 2]>, kind: u32, pool: Handle) {
        let mut state = driver()?.state();
        check_kind(location, kind)?;
        find(&mut state, pool)?;
        state.current_pool = pool;
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        find(&mut driver()?.state(), pool)?;
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: Out<u8>) {
        get(find(&mut driver()?.state(), pool)?, attribute, value)
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: In<u8>) {
        set(find(&mut driver()?.state(), pool)?, attribute, value)
    }
}
