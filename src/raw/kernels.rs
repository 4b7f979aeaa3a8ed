//! The loaded kernels.

use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::driver::{driver_error, load_error, make_current, supported_version};
use super::images::{Image, image};
use super::kept_errors::KeptErrors;
use super::tensor_map::has_tensor_maps;
use crate::bind::params;
use crate::plan::{DeviceProps, Launch, Variant};
use crate::{Error, Result};

/// The kernels of this crate, loaded into a CUDA context.
///
/// Dropping it waits for all work of the context and unloads the kernels. A CUDA graph captured
/// from its raw calls must not be launched afterwards. If a stream of the context is being captured
/// just then, nothing can be waited for: the kernels stay loaded until the context ends.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    props: DeviceProps,
    /// Indexed as [`Variant::all`]. `None` for kernels of an architecture that the device can't
    /// run.
    functions: Vec<Option<CudaFunction>>,
    /// Whether launches may be programmatic.
    pub(super) overlaps: bool,
    layout_check: CudaFunction,
}

/// The driver from which on a graph can be captured from programmatic launches (CUDA 12.3): before,
/// it had no edges that tell them from others.
const CAPTURES_PROGRAMMATIC: i32 = 12_030;

impl Kernels {
    /// Loads the kernels into a context and raises their shared-memory limits. Do it once per
    /// context, outside of graph captures.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] in a build without kernels, [`Error::Device`] on a GPU before
    /// compute capability 8.0, [`Error::Driver`] if the driver refuses the images.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let layout_check = image("layout_check").ok_or(Error::KernelsNotBuilt)?;
        let _kept = KeptErrors::of(context);
        let props = query(context)?;
        props.check()?;

        let mut module: Option<(&str, Arc<CudaModule>)> = None;
        let mut functions = Vec::new();
        // The variants of an image are consecutive.
        for variant in Variant::all() {
            if !variant.arch.is_for(&props) {
                functions.push(None);
                continue;
            }
            let name = variant.image();
            let loaded = match &module {
                Some((loaded, module)) if *loaded == name => module.clone(),
                _ => load_image(context, image(name).ok_or(Error::KernelsNotBuilt)?)?,
            };
            let function = load_function(&loaded, variant.symbol())?;
            let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let carveout = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // A device with less shared memory can still run the other variants; plans refuse this
            // one.
            if variant.shared_bytes() <= props.shared_per_block() {
                function
                    .set_attribute(limit, variant.shared_bytes() as i32)
                    .map_err(|error| {
                        driver_error(format!("raising the shared memory of {variant}"), error)
                    })?;
                // Plans assume that all of a multiprocessor's shared memory is available to
                // resident blocks.
                function.set_attribute(carveout, 100).map_err(|error| {
                    driver_error(format!("the shared memory carve-out of {variant}"), error)
                })?;
            }
            functions.push(Some(function));
            module = Some((name, loaded));
        }
        let layout_check = load_function(&load_image(context, layout_check)?, "lora_layout_check")?;
        Ok(Self {
            context: context.clone(),
            props,
            functions,
            overlaps: supported_version() >= CAPTURES_PROGRAMMATIC,
            layout_check,
        })
    }

    /// The properties of this device, for plans.
    pub fn props(&self) -> &DeviceProps {
        &self.props
    }

    /// The context the kernels were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The kernel of a launch; `None` if it was not loaded.
    pub(super) fn loaded(&self, launch: &Launch) -> Option<CUfunction> {
        self.functions
            .get(launch.index)?
            .as_ref()
            .map(CudaFunction::cu_function)
    }

    /// The sizes and offsets of the parameter structs and the values of their enums, as the kernels
    /// were compiled. For tests.
    #[doc(hidden)]
    pub fn layout_check(&self) -> Result<Vec<u32>> {
        let words = Self::expected_layout().len();
        let stream = self.context.default_stream();
        let what = |what: &'static str| move |error| driver_error(what, error);
        let mut out = stream
            .alloc_zeros::<u32>(words)
            .map_err(what("allocating the layout check"))?;
        {
            use cudarc::driver::{LaunchConfig, PushKernelArg};
            let mut builder = stream.launch_builder(&self.layout_check);
            builder.arg(&mut out);
            let one_thread = LaunchConfig {
                grid_dim: (1, 1, 1),
                block_dim: (1, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the kernel takes one pointer and writes `words` words there.
            unsafe { builder.launch(one_thread) }.map_err(what("launching lora_layout_check"))?;
        }
        stream
            .clone_dtoh(&out)
            .map_err(what("reading the layout check"))
    }

    /// The same values as the host has them.
    #[doc(hidden)]
    pub fn expected_layout() -> Vec<u32> {
        params::layout()
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // A kernel must not be unloaded before it has run. cudarc's function would not wait if the
        // context object kept an error.
        let waited = make_current(&self.context).is_ok();
        match result::ctx::synchronize() {
            Ok(()) if waited => {}
            // Nothing may wait for a context while a stream of it is being captured.
            Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)) => {
                std::mem::forget(std::mem::take(&mut self.functions));
            }
            // The context has faulted or is gone: nothing runs any more.
            _ => {}
        }
    }
}

fn query(context: &Arc<CudaContext>) -> Result<DeviceProps> {
    use CUdevice_attribute::*;
    let attribute = |attribute| {
        let value = context
            .attribute(attribute)
            .map_err(|error| driver_error("asking for the device's properties", error))?;
        Ok(value.max(0) as u32)
    };
    let props = DeviceProps::new(
        (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
    );
    Ok(if has_tensor_maps() {
        props
    } else {
        props.without_tensor_maps()
    })
}

fn load_image(context: &Arc<CudaContext>, image: &Image) -> Result<Arc<CudaModule>> {
    context
        .load_module(Ptx::from_binary(image.bytes.to_vec()))
        .map_err(|error| load_error(format!("loading the kernels of {}", image.unit), error))
}

fn load_function(module: &Arc<CudaModule>, symbol: &str) -> Result<CudaFunction> {
    module
        .load_function(symbol)
        .map_err(|error| driver_error(format!("finding {symbol}"), error))
}
