//! A client of the driver: PTX in, buffers and plain arguments, launches.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result, sys};
use ptx_emulator::select::emulated;

use super::numbers::Type;

/// Dynamic shared memory beyond 48 KB less the kernel's static shared memory has to be asked for
/// (CUDA programming guide, "shared memory"). No kernel here that takes less than this has so much.
const WITHOUT_ASKING: u32 = 32 << 10;

/// An argument of a kernel: a tensor map, or at most eight bytes, little-endian. A kernel reads as
/// many of them as its parameter has.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub struct Arg([u64; 16]);

impl Arg {
    pub const NULL: Arg = Arg([0; 16]);

    fn word(value: u64) -> Arg {
        let mut words = [0; 16];
        words[0] = value;
        Arg(words)
    }

    pub fn size(value: usize) -> Arg {
        Arg::word(value as u64)
    }

    pub fn int(value: usize) -> Arg {
        Arg::size(value)
    }

    pub fn f32(value: f32) -> Arg {
        Arg::word(u64::from(value.to_bits()))
    }

    /// A value in the type of the kernel's parameter.
    pub fn of(ty: Type, value: f64) -> Arg {
        let mut bytes = ty.encode(&[value]);
        bytes.resize(8, 0);
        Arg::word(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }
}

/// Numbers on the device.
pub struct Buffer {
    bytes: CudaSlice<u8>,
    ty: Type,
    address: u64,
}

impl Buffer {
    pub fn arg(&self) -> Arg {
        Arg::word(self.address)
    }

    /// A tensor map of this buffer.
    pub fn tensor_map(&self, tile: &Tile) -> Result<Arg, String> {
        use sys::CUtensorMapDataType as Data;
        let ty = match self.ty {
            Type::F16 => Data::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Type::Bf16 => Data::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            other => return Err(format!("no tensor maps of {} here", other.name())),
        };
        let swizzle = match tile.swizzle {
            0 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            1 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            2 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            3 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            other => return Err(format!("swizzle {other}")),
        };
        let [rows, columns] = tile.sizes.map(|size| size as u64);
        let [part_rows, part_columns] = tile.part.map(|size| size as u32);
        let stride = (tile.stride * self.ty.size()) as u64;
        let mut map = Arg::NULL;
        // SAFETY: the map has 128 bytes and is aligned to 64; the lists have as many numbers as a
        // map of two dimensions reads.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                ty,
                2,
                std::ptr::with_exposed_provenance_mut(self.address as usize),
                [columns, rows].as_ptr(),
                [stride].as_ptr(),
                [part_columns, part_rows].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|error| error.to_string())?;
        Ok(map)
    }
}

/// A matrix as a tensor map describes it, rows outermost.
pub struct Tile {
    pub sizes: [usize; 2],
    /// Elements from a row to the next.
    pub stride: usize,
    /// What one copy moves.
    pub part: [usize; 2],
    /// `CUtensorMapSwizzle`.
    pub swizzle: u32,
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Shape {
    pub fn new(blocks: usize, threads: usize) -> Shape {
        Shape {
            grid: [blocks as u32, 1, 1],
            block: [threads as u32, 1, 1],
            shared: 0,
        }
    }
}

/// A context of its own: a kernel that fails breaks no other's.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// A loaded module; unloaded when dropped.
pub struct Module {
    gpu: Arc<Gpu>,
    module: CUmodule,
}

impl Gpu {
    pub fn new() -> Result<Arc<Gpu>, String> {
        let failed = |error: cudarc::driver::DriverError| error.to_string();
        emulated().map_err(|error| error.to_string())?;
        result::init().map_err(failed)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: a new context, which is handed over at once.
        let context = unsafe {
            let code = sys::cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, 0);
            code.result().map_err(failed)?;
            CudaContext::from_raw_context(0, 0, context).map_err(failed)?
        };
        let stream = context.default_stream();
        Ok(Arc::new(Gpu { context, stream }))
    }

    pub fn upload(&self, ty: Type, values: &[f64]) -> Result<Buffer, String> {
        let bytes = self
            .stream
            .clone_htod(&ty.encode(values))
            .map_err(|e| e.to_string())?;
        let (address, sync) = bytes.device_ptr(&self.stream);
        drop(sync);
        Ok(Buffer { bytes, ty, address })
    }

    /// A buffer whose old content is no valid result: a kernel that leaves an element out is found
    /// out.
    pub fn output(&self, ty: Type, count: usize) -> Result<Buffer, String> {
        self.upload(ty, &vec![ty.junk(); count])
    }

    /// A buffer that nobody has written.
    pub fn fresh(&self, ty: Type, count: usize) -> Result<Buffer, String> {
        // SAFETY: bytes are never read on the host before the device has written them.
        let bytes = unsafe { self.stream.alloc::<u8>(count * ty.size()) };
        let bytes = bytes.map_err(|error| error.to_string())?;
        let (address, sync) = bytes.device_ptr(&self.stream);
        drop(sync);
        Ok(Buffer { bytes, ty, address })
    }

    pub fn download(&self, buffer: &Buffer) -> Result<Vec<f64>, String> {
        let bytes = self
            .stream
            .clone_dtoh(&buffer.bytes)
            .map_err(|e| e.to_string())?;
        Ok(buffer.ty.decode(&bytes))
    }

    pub fn load(self: &Arc<Self>, ptx: &str) -> Result<Module, String> {
        self.context
            .bind_to_thread()
            .map_err(|error| error.to_string())?;
        let text = CString::new(ptx).map_err(|error| error.to_string())?;
        // SAFETY: the text ends in NUL, as the driver expects of PTX.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
        let module = module.map_err(|error| format!("the module can't be loaded: {error}"))?;
        Ok(Module {
            gpu: Arc::clone(self),
            module,
        })
    }
}

impl Module {
    fn function(&self, name: &str) -> Result<CUfunction, String> {
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the module is loaded as long as `self` lives.
        unsafe { result::module::get_function(self.module, text) }
            .map_err(|error| format!("kernel {name}: {error}"))
    }

    /// The first words of a module-scope variable.
    pub fn words(&self, name: &str, count: usize) -> Result<Vec<u32>, String> {
        let failed = |error: cudarc::driver::DriverError| format!("variable {name}: {error}");
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the module is loaded as long as `self` lives.
        let (address, bytes) =
            unsafe { result::module::get_global(self.module, text) }.map_err(failed)?;
        if bytes < 4 * count {
            return Err(format!("variable {name} has {bytes} bytes"));
        }
        let mut words = vec![0; count];
        // SAFETY: the variable has at least as many bytes.
        unsafe { result::memcpy_dtoh_sync(&mut words, address) }.map_err(failed)?;
        Ok(words)
    }

    /// Runs a kernel to its end.
    pub fn launch(&self, name: &str, shape: Shape, arguments: &[Arg]) -> Result<(), String> {
        let failed = |error: cudarc::driver::DriverError| format!("{name}: {error}");
        let function = self.function(name)?;
        if shape.shared > WITHOUT_ASKING {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the loaded module.
            unsafe {
                result::function::set_function_attribute(function, attribute, shape.shared as i32)
            }
            .map_err(failed)?;
        }
        let mut values = arguments.to_vec();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|argument| argument.0.as_mut_ptr().cast())
            .collect();
        let [gx, gy, gz] = shape.grid;
        let [bx, by, bz] = shape.block;
        // SAFETY: there are as many arguments as the programs' parameters, which the callers state;
        // each has 128 readable bytes, which no
        // parameter exceeds.
        unsafe {
            result::launch_kernel(
                function,
                (gx, gy, gz),
                (bx, by, bz),
                shape.shared,
                self.gpu.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(failed)?;
        self.gpu.stream.synchronize().map_err(failed)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: every launch was waited for, and nothing else has the handle. A broken context
        // can't unload: nothing to do then.
        let _ = unsafe { result::module::unload(self.module) };
    }
}
