//! Contexts: the primary one, further ones, and each thread's stack of current contexts.

use super::abi::{In, Out};
use super::code::Code;
use super::state::{
    Context, Driver, Handle, PRIMARY, State, current, current_context, driver, driver_of,
    with_stack,
};
use super::{Outcome, api, queue};

/// `CU_CTX_SCHED_*`, `CU_CTX_MAP_HOST`, `CU_CTX_LMEM_RESIZE_TO_MAX`, core dump and
/// synchronous-memops flags.
const KNOWN_FLAGS: u32 = 0x1ff;

/// Sizes that `cuCtxGetLimit` reports before anyone set them.
fn default_limit(limit: u32) -> Option<usize> {
    match limit {
        0 => Some(1024),    // CU_LIMIT_STACK_SIZE
        1 => Some(1 << 20), // CU_LIMIT_PRINTF_FIFO_SIZE
        2 => Some(8 << 20), // CU_LIMIT_MALLOC_HEAP_SIZE
        5 => Some(64),      // CU_LIMIT_MAX_L2_FETCH_GRANULARITY
        6 => Some(0),       // CU_LIMIT_PERSISTING_L2_CACHE_SIZE
        _ => None,
    }
}

fn alive(state: &mut State, context: Handle) -> Outcome<&mut Context> {
    let missing = if context == 0 {
        Code::INVALID_CONTEXT
    } else {
        Code::CONTEXT_IS_DESTROYED
    };
    state.contexts.get_mut(&context).ok_or(missing)
}

fn create(out: Out<Handle>, flags: u32, device: i32) -> Outcome {
    let driver = driver_of(device)?;
    if out.is_null() || flags & !KNOWN_FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut state = driver.state();
    let handle = state.handle();
    let context = Context {
        flags,
        ..Context::default()
    };
    state.contexts.insert(handle, context);
    drop(state);
    with_stack(|stack| stack.push(handle));
    out.set(handle)
}

/// Null stands for the current context; there may be none, which is null again.
fn named_or_current(context: Handle) -> Handle {
    if context == 0 {
        current_context().unwrap_or(0)
    } else {
        context
    }
}

fn synchronize(driver: &Driver, context: Handle) -> Outcome {
    let mut state = driver.state();
    state.usable(context)?;
    let capturing = state
        .captures
        .values_mut()
        .find(|capture| capture.context == context);
    if let Some(capture) = capturing {
        capture.invalid = true;
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    drop(state);
    queue::finish_context(driver, context);
    driver.quiet();
    // Another thread's work may have failed meanwhile.
    driver.state().usable(context)
}

api! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        let driver = driver_of(device)?;
        context.set(PRIMARY)?;
        let mut state = driver.state();
        state.primary_retains += 1;
        let flags = state.primary_flags;
        state.contexts.entry(PRIMARY).or_insert_with(|| Context { flags, ..Context::default() });
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let driver = driver_of(device)?;
        if driver.state().primary_retains <= 1 {
            driver.idle();
        }
        let mut state = driver.state();
        state.primary_retains = state.primary_retains.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        // Under the same lock, so that nobody retains it in between.
        if state.primary_retains == 0 {
            state.destroy_context(PRIMARY, &driver.memory);
        }
        Ok(())
    }

    // One device has no peers.
    fn cuCtxEnablePeerAccess(context: Handle, _flags: u32) {
        let driver = driver()?;
        alive(&mut driver.state(), context).map_err(|_| Code::INVALID_CONTEXT)?;
        Err(Code::INVALID_DEVICE)
    }

    fn cuCtxDisablePeerAccess(context: Handle) {
        let driver = driver()?;
        alive(&mut driver.state(), context).map_err(|_| Code::INVALID_CONTEXT)?;
        Err(Code::PEER_ACCESS_NOT_ENABLED)
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    // Banks are four bytes wide (FOUR_BYTE_BANK_SIZE); other sizes are ignored, as documented.
    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        current()?;
        config.set(1)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        current()?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let driver = driver_of(device)?;
        driver.idle();
        let mut state = driver.state();
        state.destroy_context(PRIMARY, &driver.memory);
        if state.primary_retains > 0 {
            let flags = state.primary_flags;
            state.contexts.insert(PRIMARY, Context { flags, ..Context::default() });
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let state = driver_of(device)?.state();
        flags.set(state.primary_flags)?;
        active.set(i32::from(state.contexts.contains_key(&PRIMARY)))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let mut state = driver_of(device)?.state();
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        state.primary_flags = flags;
        if let Some(context) = state.contexts.get_mut(&PRIMARY) {
            context.flags = flags;
        }
        Ok(())
    }

    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(context: Out<Handle>, affinity: In<u8>, count: i32, flags: u32, device: i32) {
        if !affinity.is_null() || count != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, parameters: In<u8>, flags: u32, device: i32) {
        if !parameters.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        if context == PRIMARY || !driver.state().contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        driver.idle();
        driver.state().destroy_context(context, &driver.memory);
        with_stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        let driver = driver()?;
        if context != 0 && !driver.state().contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(current_context().unwrap_or(0))
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        let driver = driver()?;
        if !driver.state().contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        with_stack(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = with_stack(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        driver()?;
        current_context().ok_or(Code::INVALID_CONTEXT)?;
        device.set(0)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        let driver = driver()?;
        let context = named_or_current(context);
        alive(&mut driver.state(), context)?;
        device.set(0)
    }

    fn cuCtxSynchronize() {
        let (driver, context) = current()?;
        synchronize(driver, context)
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let driver = driver()?;
        let context = named_or_current(context);
        alive(&mut driver.state(), context)?;
        synchronize(driver, context)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let (driver, context) = current()?;
        let value = alive(&mut driver.state(), context)?.flags;
        flags.set(value)
    }

    fn cuCtxSetFlags(flags: u32) {
        let (driver, context) = current()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        alive(&mut driver.state(), context)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let (driver, context) = current()?;
        let default = default_limit(limit).ok_or(Code::UNSUPPORTED_LIMIT)?;
        let set = alive(&mut driver.state(), context)?.limits.get(&limit).copied();
        value.set(set.unwrap_or(default))
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (driver, context) = current()?;
        default_limit(limit).ok_or(Code::UNSUPPORTED_LIMIT)?;
        alive(&mut driver.state(), context)?.limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let (driver, context) = current()?;
        let value = alive(&mut driver.state(), context)?.cache_config;
        config.set(value)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        let (driver, context) = current()?;
        if config > 3 {
            return Err(Code::INVALID_VALUE);
        }
        alive(&mut driver.state(), context)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(super::stream::LEAST_PRIORITY);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        let driver = driver()?;
        let context = named_or_current(context);
        alive(&mut driver.state(), context)?;
        version.set(3020)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let driver = driver()?;
        let context = named_or_current(context);
        alive(&mut driver.state(), context)?;
        id.set(context as u64)
    }
}
