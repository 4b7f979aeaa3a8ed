//! Libraries: modules that belong to no context. Each context that uses a kernel or a variable of a
//! library gets a module of its own for it, when it first does.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::Arc;

use super::abi::{Host, In, Name, Out};
use super::code::Code;
use super::function;
use super::image::{self, Image, Refusal};
use super::module::{add, function_of};
use super::state::{Driver, Function, Handle, State, current, driver, driver_of};
use super::{Outcome, api};
use crate::decode::KernelInfo;

pub(super) struct Library {
    bytes: Arc<[u8]>,
    /// The module that the first context will use.
    ready: Option<Image>,
    /// Its kernels' names and sizes.
    infos: Arc<[KernelInfo]>,
    /// The module of each context that has one.
    pub modules: HashMap<Handle, Handle>,
    kernels: HashMap<String, Handle>,
}

#[derive(Clone)]
pub(super) struct Kernel {
    library: Handle,
    name: Arc<str>,
    c_name: Arc<std::ffi::CStr>,
    /// Attributes that were set, for the functions of contexts that are yet to use it.
    set: Vec<(u32, i32)>,
}

/// A driver without context, too, can load a library.
fn load(out: Out<Handle>, bytes: &[u8]) -> Result<(), Refusal> {
    let driver = driver()?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE.into());
    }
    let image = image::load_bytes(driver, bytes)?;
    let library = Library {
        bytes: bytes.into(),
        infos: image.loaded.kernels().cloned().collect(),
        ready: Some(image),
        modules: HashMap::new(),
        kernels: HashMap::new(),
    };
    let mut state = driver.state();
    let handle = state.handle();
    state.libraries.insert(handle, library);
    Ok(out.set(handle)?)
}

fn logged(done: Result<(), Refusal>) -> Outcome {
    done.map_err(|refusal| match refusal.code {
        Code::INVALID_VALUE | Code::NOT_INITIALIZED => refusal.code,
        _ => image::log(&refusal),
    })
}

/// A context's module of a library.
fn module_of(driver: &Driver, library: Handle, context: Handle) -> Outcome<Handle> {
    let bytes = {
        let mut state = driver.state();
        let found = state.libraries.get_mut(&library);
        let found = found.ok_or(Code::INVALID_HANDLE)?;
        if let Some(&module) = found.modules.get(&context) {
            return Ok(module);
        }
        if let Some(image) = found.ready.take() {
            return Ok(keep(&mut state, library, context, image));
        }
        Arc::clone(&found.bytes)
    };
    let image = image::load_bytes(driver, &bytes).map_err(|refusal| image::log(&refusal))?;
    Ok(keep(&mut driver.state(), library, context, image))
}

fn keep(state: &mut State, library: Handle, context: Handle, image: Image) -> Handle {
    let module = add(state, context, image, library);
    if let Some(library) = state.libraries.get_mut(&library) {
        library.modules.insert(context, module);
    }
    module
}

/// The function that a handle of a function or of a library's kernel means in a context.
pub(super) fn function_in(driver: &Driver, handle: Handle, context: Handle) -> Outcome<Handle> {
    let kernel = driver.state().kernels.get(&handle).cloned();
    let Some(kernel) = kernel else {
        return Ok(handle);
    };
    let module = module_of(driver, kernel.library, context)?;
    let mut state = driver.state();
    let found = state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
    let is_new = !found.functions.contains_key(&*kernel.name);
    let function = function_of(&mut state, module, &kernel.name)?;
    if is_new {
        for &(attribute, value) in &kernel.set {
            function::set_attribute(driver, &mut state, function, attribute, value)?;
        }
    }
    Ok(function)
}

fn find(kernel: Handle) -> Outcome<Kernel> {
    let state = driver()?.state();
    state
        .kernels
        .get(&kernel)
        .cloned()
        .ok_or(Code::INVALID_HANDLE)
}

/// A kernel as a function of the current context.
fn as_function(kernel: Handle) -> Outcome<(Handle, Function)> {
    let (driver, context) = current()?;
    find(kernel)?;
    let function = function_in(driver, kernel, context)?;
    let found = driver.state().functions.get(&function).cloned();
    Ok((function, found.ok_or(Code::INVALID_HANDLE)?))
}

fn kernel_of(state: &mut State, library: Handle, name: &str) -> Outcome<Handle> {
    let found = state.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
    if let Some(&known) = found.kernels.get(name) {
        return Ok(known);
    }
    if !found.infos.iter().any(|info| info.name == name) {
        return Err(Code::NOT_FOUND);
    }
    let kernel = Kernel {
        library,
        name: name.into(),
        c_name: CString::new(name).map_err(|_| Code::INVALID_VALUE)?.into(),
        set: Vec::new(),
    };
    let handle = state.handle();
    state.kernels.insert(handle, kernel);
    if let Some(library) = state.libraries.get_mut(&library) {
        library.kernels.insert(name.to_owned(), handle);
    }
    Ok(handle)
}

api! {
    // The options are hints to a compiler and to a loader that are not here.
    fn cuLibraryLoadData(
        library: Out<Handle>, code: Host, _jit: In<u32>, _jit_values: In<usize>, _jit_count: u32,
        _options: In<u32>, _values: In<usize>, _count: u32,
    ) {
        driver()?;
        logged(image::bytes_of(code).and_then(|bytes| load(library, bytes)))
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>, path: Name, _jit: In<u32>, _jit_values: In<usize>, _jit_count: u32,
        _options: In<u32>, _values: In<usize>, _count: u32,
    ) {
        driver()?;
        let bytes = std::fs::read(path.get()?).map_err(|_| Code::FILE_NOT_FOUND)?;
        logged(load(library, &bytes))
    }

    fn cuLibraryUnload(library: Handle) {
        let driver = driver()?;
        driver.quiet();
        let mut state = driver.state();
        let removed = state.libraries.remove(&library).ok_or(Code::INVALID_HANDLE)?;
        state.kernels.retain(|_, kernel| kernel.library != library);
        for module in removed.modules.values() {
            state.modules.remove(module);
            state.functions.retain(|_, function| function.module != *module);
        }
        Ok(())
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Name) {
        if kernel.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let found = kernel_of(&mut driver()?.state(), library, name.get()?)?;
        kernel.set(found)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        let state = driver()?.state();
        let library = state.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
        count.set(u32::try_from(library.infos.len()).unwrap_or(u32::MAX))
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, count: u32, library: Handle) {
        if kernels.is_null() || count == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut state = driver()?.state();
        let found = state.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
        let infos = Arc::clone(&found.infos);
        for (index, info) in infos.iter().take(count as usize).enumerate() {
            kernels.set_at(index, kernel_of(&mut state, library, &info.name)?);
        }
        Ok(())
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        let (driver, context) = current()?;
        if module.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        module.set(module_of(driver, library, context)?)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Name) {
        let (driver, context) = current()?;
        let module = module_of(driver, library, context)?;
        let state = driver.state();
        let module = state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let (start, size) = module.loaded.module_global(name.get()?).ok_or(Code::NOT_FOUND)?;
        address.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    // PTX has no managed variables here, and no functions of the unified kind.
    fn cuLibraryGetManaged(_address: Out<u64>, _bytes: Out<usize>, library: Handle, name: Name) {
        let state = driver()?.state();
        state.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
        name.get()?;
        Err(Code::NOT_FOUND)
    }

    fn cuLibraryGetUnifiedFunction(_function: Out<usize>, library: Handle, name: Name) {
        let state = driver()?.state();
        state.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
        name.get()?;
        Err(Code::NOT_FOUND)
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        function.set(as_function(kernel)?.0)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        library.set(find(kernel)?.library)
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) {
        let state = driver()?.state();
        let kernel = state.kernels.get(&kernel).ok_or(Code::INVALID_HANDLE)?;
        name.set(kernel.c_name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let kernel = find(kernel)?;
        let state = driver()?.state();
        let library = state.libraries.get(&kernel.library).ok_or(Code::INVALID_HANDLE)?;
        let info = library.infos.iter().find(|info| info.name == *kernel.name);
        let parameter = info.and_then(|info| info.params.get(index)).ok_or(Code::INVALID_VALUE)?;
        offset.set(parameter.offset as usize)?;
        bytes.set_if_wanted(parameter.size as usize);
        Ok(())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle, device: i32) {
        driver_of(device)?;
        let (function, _) = as_function(kernel)?;
        value.set(function::attribute(function, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle, device: i32) {
        let driver = driver_of(device)?;
        let (function, _) = as_function(kernel)?;
        let mut state = driver.state();
        function::set_attribute(driver, &mut state, function, attribute, value)?;
        let kernel = state.kernels.get_mut(&kernel).ok_or(Code::INVALID_HANDLE)?;
        kernel.set.retain(|&(old, _)| old != attribute);
        kernel.set.push((attribute, value));
        Ok(())
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, device: i32) {
        driver_of(device)?;
        find(kernel)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
}
