//! Attributes of a kernel, and how many blocks of it fit on a multiprocessor.
//!
//! How many registers a kernel takes is ptxas' decision: it is known where a cubin for the device
//! came along with the PTX. Where none did, asking for it is `CUDA_ERROR_NOT_SUPPORTED`, and
//! occupancy is what threads, shared memory and block slots allow.

use std::ffi::c_char;

use super::abi::Out;
use super::code::Code;
use super::state::{Driver, Function, Handle, State, current, driver};
use super::{Outcome, api, library};
use crate::decode::KernelInfo;

impl Function {
    pub fn info(&self) -> Outcome<&KernelInfo> {
        self.loaded.kernel(&self.name).ok_or(Code::NOT_FOUND)
    }

    /// Threads that a block of this kernel may have.
    pub fn max_threads(&self, driver: &Driver) -> Outcome<u32> {
        let info = self.info()?;
        let declared = info.req_ntid.or(info.max_ntid);
        let product = declared.map(|sizes| {
            sizes
                .iter()
                .fold(1_u32, |product, &size| product.saturating_mul(size))
        });
        let limit = driver.model.max_threads_per_block;
        Ok(product.unwrap_or(limit).min(limit))
    }

    /// The clusters that every launch must have: those that the kernel was compiled for, or those
    /// of its attributes.
    pub fn required_cluster(&self) -> Outcome<Option<[u32; 3]>> {
        let set = self.clusters.size.iter().any(|&size| size > 0);
        let own = set.then(|| self.clusters.size.map(|size| size.max(1)));
        Ok(self.info()?.req_cluster.or(own))
    }

    /// Blocks that a cluster may have.
    pub fn most_cluster_blocks(&self, driver: &Driver) -> Outcome<u32> {
        let most = driver.model.max_cluster_blocks(self.clusters.non_portable);
        Ok(self
            .info()?
            .max_cluster_rank
            .map_or(most, |own| own.min(most)))
    }

    /// Dynamic shared memory that a launch may ask for.
    pub fn max_dynamic_shared(&self, driver: &Driver) -> Outcome<u32> {
        let without_opt_in = driver
            .model
            .max_shared_per_block
            .saturating_sub(self.info()?.static_shared);
        Ok(self.max_dynamic_shared.unwrap_or(without_opt_in))
    }
}

fn find(driver: &Driver, function: Handle) -> Outcome<Function> {
    driver
        .state()
        .functions
        .get(&function)
        .cloned()
        .ok_or(Code::INVALID_VALUE)
}

/// A function, or a library's kernel in the current context.
fn find_either(driver: &Driver, context: Handle, function: Handle) -> Outcome<Function> {
    let function = library::function_in(driver, function, context);
    find(driver, function.map_err(|_| Code::INVALID_VALUE)?)
}

pub(super) fn attribute(function: Handle, attribute: u32) -> Outcome<i32> {
    let (driver, _) = current()?;
    let function = find(driver, function).map_err(|_| Code::INVALID_HANDLE)?;
    let info = function.info()?;
    let value = match attribute {
        0 => function.max_threads(driver)?,
        1 => info.static_shared,
        2 | 7 => 0, // CONST_SIZE_BYTES, CACHE_MODE_CA
        10 => u32::from(info.explicit_cluster),
        11..=13 => {
            let axis = attribute as usize - 11;
            function.required_cluster()?.map_or(0, |sizes| sizes[axis])
        }
        14 => u32::from(function.clusters.non_portable),
        15 => function.clusters.policy,
        3 => info.local_bytes,
        4 => info.registers.ok_or(Code::NOT_SUPPORTED)?, // NUM_REGS
        5 => function.ptx_version,
        6 => function.target,
        8 => function.max_dynamic_shared(driver)?,
        9 => return Ok(function.carveout),
        _ => return Err(Code::INVALID_VALUE),
    };
    Ok(value.cast_signed())
}

pub(super) fn set_attribute(
    driver: &Driver,
    state: &mut State,
    handle: Handle,
    attribute: u32,
    value: i32,
) -> Outcome {
    let function = state
        .functions
        .get_mut(&handle)
        .ok_or(Code::INVALID_HANDLE)?;
    let info = function.info()?;
    let (shared, compiled) = (info.static_shared, info.req_cluster);
    match attribute {
        8 => {
            let bytes = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
            if bytes > driver.model.max_shared_optin.saturating_sub(shared) {
                return Err(Code::INVALID_VALUE);
            }
            function.max_dynamic_shared = Some(bytes);
            Ok(())
        }
        9 if (-1..=100).contains(&value) => {
            function.carveout = value;
            Ok(())
        }
        // A size that the kernel was compiled for stays.
        11..=13 if compiled.is_some() => Err(Code::NOT_PERMITTED),
        11..=13 if value >= 0 => {
            function.clusters.size[attribute as usize - 11] = value.cast_unsigned();
            Ok(())
        }
        14 if matches!(value, 0 | 1) => {
            function.clusters.non_portable = value == 1;
            Ok(())
        }
        15 if matches!(value, 0..=2) => {
            function.clusters.policy = value.cast_unsigned();
            Ok(())
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

fn occupancy(blocks: Out<i32>, function: Handle, threads: i32, dynamic_shared: usize) -> Outcome {
    let (driver, context) = current()?;
    let function = find_either(driver, context, function)?;
    let threads = u32::try_from(threads)
        .ok()
        .filter(|&threads| threads > 0)
        .ok_or(Code::INVALID_VALUE)?;
    let shared = u32::try_from(dynamic_shared).map_err(|_| Code::INVALID_VALUE)?;
    blocks.set(resident_blocks(driver, &function, threads, shared)?.cast_signed())
}

/// Blocks of a kernel that one multiprocessor holds at once; 0 for a launch that is not possible.
pub(super) fn resident_blocks(
    driver: &Driver,
    function: &Function,
    threads: u32,
    dynamic_shared: u32,
) -> Outcome<u32> {
    if threads > function.max_threads(driver)?
        || dynamic_shared > function.max_dynamic_shared(driver)?
    {
        return Ok(0);
    }
    let info = function.info()?;
    let shared = info.static_shared.saturating_add(dynamic_shared);
    Ok(driver
        .model
        .resident_blocks(threads, shared, info.registers))
}

/// `CUoccupancyB2DSize`: the dynamic shared memory of a block of so many threads.
type SharedOf = unsafe extern "C" fn(i32) -> usize;

/// What a program asks for the block with which a multiprocessor holds the most warps.
struct Wanted {
    shared_of: Option<SharedOf>,
    dynamic_shared: usize,
    limit: i32,
    flags: u32,
}

/// The largest of the blocks with which a multiprocessor holds the most threads, and how many of
/// them the device holds.
fn best_block(function: Handle, wanted: &Wanted) -> Outcome<(i32, i32)> {
    let (driver, context) = current()?;
    let function = find_either(driver, context, function)?;
    let limit = u32::try_from(wanted.limit).map_err(|_| Code::INVALID_VALUE)?;
    if wanted.flags > 1 {
        return Err(Code::INVALID_VALUE);
    }
    let most = function.max_threads(driver)?;
    let most = if limit == 0 { most } else { limit.min(most) };
    let (mut best, mut block, mut each) = (0, 0, 0);
    // The largest is a whole number of warps or the limit.
    for threads in std::iter::once(most).chain((1..most.div_ceil(32)).rev().map(|warps| warps * 32))
    {
        let shared = match wanted.shared_of {
            // SAFETY: the program gave the function for exactly these calls.
            Some(shared_of) => unsafe { shared_of(threads.cast_signed()) },
            None => wanted.dynamic_shared,
        };
        let shared = u32::try_from(shared).map_err(|_| Code::INVALID_VALUE)?;
        let blocks = resident_blocks(driver, &function, threads, shared)?;
        if blocks * threads > best {
            (best, block, each) = (blocks * threads, threads, blocks);
        }
    }
    let grid = each.saturating_mul(driver.model.multiprocessors);
    Ok((grid.cast_signed(), block.cast_signed()))
}

/// The most dynamic shared memory with which `blocks` blocks still fit on a multiprocessor.
fn available_shared(function: &Function, driver: &Driver, blocks: i32) -> Outcome<usize> {
    let blocks = u32::try_from(blocks)
        .ok()
        .filter(|&blocks| blocks > 0)
        .ok_or(Code::INVALID_VALUE)?;
    let each = driver.model.shared_per_multiprocessor / blocks;
    let taken = driver.model.reserved_shared_per_block + function.info()?.static_shared;
    let free = each
        .saturating_sub(taken)
        .min(function.max_dynamic_shared(driver)?);
    Ok(free as usize)
}

api! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) {
        value.set(self::attribute(function, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) {
        let (driver, _) = current()?;
        set_attribute(driver, &mut driver.state(), function, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        find(driver, function)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        find(driver, function)?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        module.set(find(driver()?, function)?.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: Handle) {
        let state = driver()?.state();
        let function = state.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        name.set(function.c_name.as_ptr())
    }

    // CU_FUNCTION_LOADING_STATE_LOADED: a module is whole once it is loaded.
    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        find(driver()?, function)?;
        state.set(1)
    }

    fn cuFuncLoad(function: Handle) {
        find(driver()?, function)?;
        Ok(())
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let function = find(driver()?, function)?;
        let parameter = function.info()?.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(parameter.offset as usize)?;
        bytes.set_if_wanted(parameter.size as usize);
        Ok(())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, function: Handle, threads: i32, dynamic_shared: usize) {
        occupancy(blocks, function, threads, dynamic_shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<i32>, function: Handle, threads: i32, dynamic_shared: usize, flags: u32) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        occupancy(blocks, function, threads, dynamic_shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: Option<SharedOf>, dynamic_shared: usize, limit: i32,
    ) {
        let wanted = Wanted { shared_of, dynamic_shared, limit, flags: 0 };
        let (blocks, threads) = best_block(function, &wanted)?;
        grid.set(blocks)?;
        block.set(threads)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: Option<SharedOf>, dynamic_shared: usize, limit: i32,
        flags: u32,
    ) {
        let wanted = Wanted { shared_of, dynamic_shared, limit, flags };
        let (blocks, threads) = best_block(function, &wanted)?;
        grid.set(blocks)?;
        block.set(threads)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: i32, threads: i32) {
        let (driver, context) = current()?;
        let function = find_either(driver, context, function)?;
        if threads <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        bytes.set(available_shared(&function, driver, blocks)?)
    }
}
