//! Runs launches through the CUDA driver.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::c_void;
use std::sync::Arc;

use lora_kernels::cudarc::driver::sys::{self, CUfunction_attribute};
use lora_kernels::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr,
};
use lora_kernels::cudarc::nvrtc::Ptx;

use super::launch::{Argument, Launch};
use super::{Buffer, PeerLayer, Result};

/// The peers' kernels, loaded into a context.
pub struct PeerDevice {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: RefCell<HashMap<String, CudaFunction>>,
}

impl PeerDevice {
    /// Loads an image made by [`super::fatbin`].
    ///
    /// # Errors
    /// If the driver refuses the image.
    pub fn new(context: &Arc<CudaContext>, fatbin: Vec<u8>) -> Result<Self> {
        Ok(Self {
            stream: context.default_stream(),
            module: context.load_module(Ptx::from_binary(fatbin))?,
            functions: RefCell::default(),
        })
    }

    /// The stream that all work is enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Enqueues launches in order.
    ///
    /// # Errors
    /// If `memory` lacks a buffer, or the driver refuses a launch.
    pub fn run(&self, launches: &[Launch], memory: &Memory) -> Result<()> {
        for launch in launches {
            self.launch(launch, memory)?;
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch, memory: &Memory) -> Result<()> {
        let function = self.function(launch)?;
        let mut values = Vec::with_capacity(launch.arguments.len());
        for argument in &launch.arguments {
            values.push(memory.bits(*argument)?);
        }
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        // SAFETY: the arguments are those of the kernel with this name, in order, each at the start
        // of eight bytes of its own. `Memory` was made for the layer that the launch was described
        // for, so every buffer is large enough.
        unsafe {
            sys::cuLaunchKernel(
                function.cu_function(),
                launch.grid,
                1,
                1,
                launch.threads,
                1,
                1,
                launch.shared_bytes,
                self.stream.cu_stream(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(|error| format!("launching {}: {error}", launch.symbol).into())
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction> {
        if let Some(function) = self.functions.borrow().get(&launch.symbol) {
            return Ok(function.clone());
        }
        let function = self
            .module
            .load_function(&launch.symbol)
            .map_err(|error| format!("finding {}: {error}", launch.symbol))?;
        let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function
            .set_attribute(limit, launch.shared_bytes as i32)
            .map_err(|error| {
                format!(
                    "{} wants {} bytes of shared memory: {error}",
                    launch.symbol, launch.shared_bytes
                )
            })?;
        self.functions
            .borrow_mut()
            .insert(launch.symbol.clone(), function.clone());
        Ok(function)
    }
}

/// The tensors of a layer that a list of launches uses.
pub struct Memory {
    stream: Arc<CudaStream>,
    layer: PeerLayer,
    buffers: BTreeMap<Buffer, CudaSlice<u8>>,
}

impl Memory {
    /// Allocates the tensors that `launches` of `layer` use and sets every byte to `fill`.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new<'a>(
        device: &PeerDevice,
        layer: &PeerLayer,
        launches: impl IntoIterator<Item = &'a Launch>,
        fill: u8,
    ) -> Result<Self> {
        let used: BTreeSet<Buffer> = launches.into_iter().flat_map(Launch::buffers).collect();
        let stream = device.stream.clone();
        let mut buffers = BTreeMap::new();
        for buffer in used {
            buffers.insert(buffer, stream.clone_htod(&vec![fill; layer.bytes(buffer)])?);
        }
        Ok(Self {
            stream,
            layer: layer.clone(),
            buffers,
        })
    }

    /// Writes a whole tensor, row after row.
    ///
    /// # Errors
    /// If the launches don't use the tensor, or `values` has another size.
    pub fn write<T: DeviceRepr>(&mut self, buffer: Buffer, values: &[T]) -> Result<()> {
        let expected = self.layer.bytes(buffer);
        if size_of_val(values) != expected {
            let given = size_of_val(values);
            return Err(format!("{buffer:?} has {expected} bytes, {given} are given").into());
        }
        let stream = self.stream.clone();
        let slice = self
            .buffers
            .get_mut(&buffer)
            .ok_or_else(|| missing(buffer))?;
        // SAFETY: every bit pattern is a valid value of the tensor's type.
        let mut view =
            unsafe { slice.transmute_mut::<T>(values.len()) }.ok_or_else(|| missing(buffer))?;
        Ok(stream.memcpy_htod(values, &mut view)?)
    }

    /// Reads a whole tensor, row after row.
    ///
    /// # Errors
    /// If the launches don't use the tensor, or a launch has failed.
    pub fn read<T: DeviceRepr>(&self, buffer: Buffer) -> Result<Vec<T>> {
        let slice = self.buffers.get(&buffer).ok_or_else(|| missing(buffer))?;
        // SAFETY: `T` is a type that device memory may hold, whatever its bits.
        let view = unsafe { slice.transmute::<T>(slice.len() / size_of::<T>()) }
            .ok_or_else(|| missing(buffer))?;
        Ok(self.stream.clone_dtoh(&view)?)
    }

    fn bits(&self, argument: Argument) -> Result<u64> {
        Ok(match argument {
            Argument::Buffer(buffer) => {
                let slice = self.buffers.get(&buffer).ok_or_else(|| missing(buffer))?;
                slice.device_ptr(&self.stream).0
            }
            Argument::Null => 0,
            Argument::I32(value) => u64::from(value as u32),
            Argument::I64(value) => value as u64,
            Argument::U32(value) => value.into(),
            Argument::U64(value) => value,
            Argument::F32(value) => value.to_bits().into(),
        })
    }
}

fn missing(buffer: Buffer) -> String {
    format!("{buffer:?} is not among the buffers of the launches that this memory was made for")
}
