//! The first GPU that this process sees, as the driver describes it.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::process::Command;

use libloading::Library;
use lora_kernels_bundle::results::MeasuredDevice;
use lora_kernels_test_device::{Selection, select};

/// `CUdevice_attribute`, from cuda.h.
const MULTIPROCESSORS: c_int = 16;
const L2_BYTES: c_int = 38;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;

pub fn describe() -> Result<MeasuredDevice, String> {
    let emulated = match select().map_err(|error| error.to_string())? {
        Selection::Emulated { .. } => true,
        Selection::Real => false,
    };
    let driver = Driver::open(emulated)?;
    // SAFETY: the functions have the signatures of cuda.h, and write to valid addresses.
    unsafe {
        let init: unsafe extern "C" fn(c_uint) -> c_int = driver.function(c"cuInit")?;
        check("cuInit", init(0))?;
        let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int =
            driver.function(c"cuDeviceGet")?;
        let mut device = 0;
        check("cuDeviceGet", get(&mut device, 0))?;
        let name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int =
            driver.function(c"cuDeviceGetName")?;
        let mut text = [0; 256];
        check("cuDeviceGetName", name(text.as_mut_ptr(), 255, device))?;
        let version: unsafe extern "C" fn(*mut c_int) -> c_int =
            driver.function(c"cuDriverGetVersion")?;
        let mut cuda = 0;
        check("cuDriverGetVersion", version(&mut cuda))?;
        let memory: unsafe extern "C" fn(*mut usize, c_int) -> c_int =
            driver.function(c"cuDeviceTotalMem_v2")?;
        let mut bytes = 0;
        check("cuDeviceTotalMem_v2", memory(&mut bytes, device))?;
        let attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int =
            driver.function(c"cuDeviceGetAttribute")?;
        let ask = |which| {
            let mut value = 0;
            check("cuDeviceGetAttribute", attribute(&mut value, which, device)).map(|()| value)
        };
        Ok(MeasuredDevice {
            name: CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
            emulated,
            driver: if emulated { None } else { driver_version() },
            cuda: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
            compute_capability: format!("{}.{}", ask(MAJOR)?, ask(MINOR)?),
            multiprocessors: ask(MULTIPROCESSORS)?.unsigned_abs(),
            l2_bytes: ask(L2_BYTES)?.unsigned_abs().into(),
            memory_bytes: bytes as u64,
        })
    }
}

struct Driver(Library);

impl Driver {
    fn open(emulated: bool) -> Result<Self, String> {
        // The emulated driver is loaded already and has this name. A driver that NVIDIA installed
        // may have no link with this name.
        let name = if emulated {
            "libcuda.so"
        } else {
            "libcuda.so.1"
        };
        // SAFETY: loading the driver runs its initialisers, which run in every CUDA program.
        let library = unsafe { Library::new(name) }
            .map_err(|error| format!("can't load {name}: {error:?}"))?;
        Ok(Self(library))
    }

    /// # Safety
    /// `T` is the type of a pointer to the function `name`, and is not used after the driver is
    /// dropped.
    unsafe fn function<T: Copy>(&self, name: &CStr) -> Result<T, String> {
        // SAFETY: the caller promises that `T` is the type of this function.
        let symbol = unsafe { self.0.get::<T>(name) };
        symbol
            .map(|symbol| *symbol)
            .map_err(|error| format!("the driver lacks {}: {error}", name.to_string_lossy()))
    }
}

fn check(function: &str, code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("{function} failed with error {code}")),
    }
}

/// NVIDIA's version of the driver, which the driver API doesn't tell.
fn driver_version() -> Option<String> {
    let query = "--query-gpu=driver_version --format=csv,noheader --id=0";
    let output = Command::new("nvidia-smi")
        .args(query.split(' '))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout)
        .ok()
        .filter(|_| output.status.success());
    let text = text.and_then(|text| Some(text.lines().next()?.trim().to_owned()));
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."
    text.or_else(|| {
        let file = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
        let is_version = |word: &&str| {
            word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok())
        };
        file.split_whitespace().find(is_version).map(str::to_owned)
    })
}
