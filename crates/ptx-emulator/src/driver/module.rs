//! Modules: loading, and finding kernels and variables in them.

use std::collections::HashMap;
use std::ffi::CString;

use super::abi::{Host, In, Name, Out};
use super::code::Code;
use super::image::{self, Image};
use super::state::{ClusterAttributes, Function, Handle, Module, State, current, driver};
use super::{Outcome, api};

/// `CU_JIT_*_LOG_BUFFER` options of `cuModuleLoadDataEx`.
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;
const INFO_LOG_BYTES: u32 = 4;

/// Adds a module to a context; `library` is 0 for one that is no library's.
pub(super) fn add(state: &mut State, context: Handle, image: Image, library: Handle) -> Handle {
    let (loaded, target, ptx_version) = image.share();
    let handle = state.handle();
    let functions = HashMap::new();
    state.modules.insert(
        handle,
        Module {
            context,
            library,
            loaded,
            target,
            ptx_version,
            functions,
        },
    );
    handle
}

fn load(out: Out<Handle>, data: Host) -> Outcome {
    let (driver, context) = current()?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let image = image::load(driver, data)?;
    out.set(add(&mut driver.state(), context, image, 0))
}

/// Options are parallel arrays of numbers and of values the size of a pointer, some of which are
/// pointers to buffers.
struct Options {
    count: u32,
    keys: In<u32>,
    values: Out<usize>,
    current: In<usize>,
}

impl Options {
    fn find(&self, key: u32) -> Option<usize> {
        (0..self.count as usize).find(|&index| self.keys.get(index) == Ok(key))
    }

    /// Writes the message into the error log and its length over the option that gave the buffer's
    /// size.
    fn log(&self, message: &str) {
        let Some((buffer, size)) = self.find(ERROR_LOG).zip(self.find(ERROR_LOG_BYTES)) else {
            return;
        };
        let (Ok(address), Ok(room)) = (self.current.get(buffer), self.current.get(size)) else {
            return;
        };
        let buffer = Host::new(std::ptr::with_exposed_provenance_mut(address));
        // The size option is an unsigned int in a pointer-sized slot.
        let room = room & 0xffff_ffff;
        let length = message.len().min(room.saturating_sub(1));
        let Ok(bytes) = buffer.bytes_mut(length + usize::from(room > 0)) else {
            return;
        };
        for (byte, letter) in bytes
            .iter_mut()
            .zip(message.bytes().take(length).chain([0]))
        {
            *byte = letter;
        }
        self.values.set_at(size, length);
    }

    /// A log without a message has no bytes.
    fn clear(&self) {
        for key in [ERROR_LOG_BYTES, INFO_LOG_BYTES] {
            if let Some(index) = self.find(key) {
                self.values.set_at(index, 0);
            }
        }
    }
}

fn load_with_options(out: Out<Handle>, data: Host, options: &Options) -> Outcome {
    let (driver, context) = current()?;
    if out.is_null() || (options.count > 0 && (options.keys.is_null() || options.values.is_null()))
    {
        return Err(Code::INVALID_VALUE);
    }
    match image::load_or_refuse(driver, data) {
        Ok(image) => {
            options.clear();
            out.set(add(&mut driver.state(), context, image, 0))
        }
        Err(refusal) => {
            options.log(&refusal.reason);
            Err(image::log(&refusal))
        }
    }
}

fn function(module: Handle, name: &str) -> Outcome<Handle> {
    let (driver, _) = current()?;
    function_of(&mut driver.state(), module, name)
}

/// A module's function.
pub(super) fn function_of(state: &mut State, module: Handle, name: &str) -> Outcome<Handle> {
    let found = state.modules.get(&module).ok_or(Code::INVALID_VALUE)?;
    if let Some(&known) = found.functions.get(name) {
        return Ok(known);
    }
    found.loaded.kernel(name).ok_or(Code::NOT_FOUND)?;
    let made = Function {
        context: found.context,
        module,
        loaded: found.loaded.clone(),
        name: name.into(),
        c_name: CString::new(name).map_err(|_| Code::INVALID_VALUE)?.into(),
        target: found.target,
        ptx_version: found.ptx_version,
        max_dynamic_shared: None,
        clusters: ClusterAttributes::default(),
        carveout: -1,
    };
    let handle = state.handle();
    state.functions.insert(handle, made);
    if let Some(module) = state.modules.get_mut(&module) {
        module.functions.insert(name.to_owned(), handle);
    }
    Ok(handle)
}

api! {
    fn cuModuleLoadData(module: Out<Handle>, data: Host) {
        load(module, data)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, data: Host) {
        load(module, data)
    }

    fn cuModuleLoadDataEx(module: Out<Handle>, data: Host, count: u32, keys: In<u32>, values: Out<usize>) {
        let options = Options { count, keys, values, current: values.readable() };
        load_with_options(module, data, &options)
    }

    fn cuModuleLoad(module: Out<Handle>, path: Name) {
        let (driver, context) = current()?;
        let bytes = std::fs::read(path.get()?).map_err(|_| Code::FILE_NOT_FOUND)?;
        let loaded = image::load_bytes(driver, &bytes).map_err(|refusal| image::log(&refusal))?;
        if module.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        module.set(add(&mut driver.state(), context, loaded, 0))
    }

    fn cuModuleUnload(module: Handle) {
        let (driver, _) = current()?;
        driver.quiet();
        let mut state = driver.state();
        // A library's module goes with its library.
        let own = state.modules.get(&module).is_some_and(|module| module.library == 0);
        if !own {
            return Err(Code::INVALID_VALUE);
        }
        state.modules.remove(&module);
        state.functions.retain(|_, function| function.module != module);
        Ok(())
    }

    fn cuModuleGetFunction(out: Out<Handle>, module: Handle, name: Name) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        out.set(function(module, name.get()?)?)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Name) {
        let (driver, _) = current()?;
        let state = driver.state();
        let module = state.modules.get(&module).ok_or(Code::INVALID_VALUE)?;
        let (start, size) = module.loaded.module_global(name.get()?).ok_or(Code::NOT_FOUND)?;
        address.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        let state = driver()?.state();
        let module = state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        count.set(u32::try_from(module.loaded.kernels().count()).unwrap_or(u32::MAX))
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: u32, module: Handle) {
        if functions.is_null() || count == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let loaded = driver()?.state().modules.get(&module).map(|module| module.loaded.clone());
        let loaded = loaded.ok_or(Code::INVALID_VALUE)?;
        for (index, kernel) in loaded.kernels().take(count as usize).enumerate() {
            functions.set_at(index, function(module, &kernel.name)?);
        }
        Ok(())
    }

    // CU_MODULE_EAGER_LOADING: a module is whole once it is loaded.
    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        driver()?;
        mode.set(1)
    }
}
