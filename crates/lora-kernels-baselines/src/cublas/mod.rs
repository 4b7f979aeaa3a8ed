//! cuBLAS, loaded at run time. A machine without it only lacks the baseline.

use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

pub mod products;

use products::{Factor, Product};

/// The environment variable with the path of the library, for libraries outside of the loader's
/// path.
pub const VARIABLE: &str = "LORA_KERNELS_CUBLAS";

const NAMES: [&str; 4] = [
    "libcublas.so.13",
    "libcublas.so.12",
    "libcublas.so.11",
    "libcublas.so",
];

/// The environment variable with the path of a stand-in, which computes on the CPU what is in the
/// emulated GPU's memory. Only programs on that GPU read it.
pub const STAND_IN: &str = "LORA_KERNELS_CUBLAS_STAND_IN";

/// The workspace that PyTorch gives cuBLAS on a Hopper GPU.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// Why cuBLAS can't compute a product.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library was not found.
    #[error("no cuBLAS found: {}. Set {VARIABLE} to the path of a libcublas.so", .tried.join("; "))]
    NotFound {
        /// The names that the loader tried.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    #[error("no cuBLAS of CUDA 11 or later, {path}: {reason}")]
    Symbol {
        /// The path of the library.
        path: String,
        /// The loader's message.
        reason: String,
    },
    /// A call failed.
    #[error("{function} failed: {} ({status})", status_name(*.status))]
    Call {
        /// The function that was called.
        function: &'static str,
        /// `cublasStatus_t`.
        status: c_int,
    },
    /// A matrix whose size exceeds cuBLAS's 32-bit integers.
    #[error(
        "a matrix of {rows} by {columns} is too large for cublasGemmEx, which counts in 32 bits"
    )]
    Size {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// Factors whose shapes don't fit each other or the result.
    #[error("shapes that can't be multiplied: {product:?}")]
    Shapes {
        /// The product that was asked for.
        product: Box<Product>,
    },
}

/// The element type of all three matrices. Sums are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `CUDA_R_16F`.
    F16,
    /// `CUDA_R_16BF`.
    Bf16,
    /// `CUDA_R_32F`. TF32 is not used, which is cuBLAS's default.
    F32,
}

impl Type {
    /// `cudaDataType_t`, from library_types.h.
    fn code(self) -> c_int {
        match self {
            Self::F16 => 2,
            Self::Bf16 => 14,
            Self::F32 => 0,
        }
    }
}

/// `CUBLAS_OP_N` in cublas_api.h.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

fn status_name(status: c_int) -> &'static str {
    match status {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => "a status that cublas_api.h of CUDA 13 does not name",
    }
}

type RawHandle = *mut c_void;
type Create = unsafe extern "C" fn(*mut RawHandle) -> c_int;
type Destroy = unsafe extern "C" fn(RawHandle) -> c_int;
type GetVersion = unsafe extern "C" fn(RawHandle, *mut c_int) -> c_int;
type SetStream = unsafe extern "C" fn(RawHandle, *mut c_void) -> c_int;
type SetWorkspace = unsafe extern "C" fn(RawHandle, *mut c_void, usize) -> c_int;
/// (handle, op of A, op of B, m, n, k, alpha, A, type, lda, B, type, ldb, beta, C, type, ldc,
/// compute type, algorithm), column-major
type GemmEx = unsafe extern "C" fn(
    RawHandle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

struct Functions {
    create: Create,
    destroy: Destroy,
    get_version: GetVersion,
    set_stream: SetStream,
    set_workspace: SetWorkspace,
    gemm_ex: GemmEx,
}

/// cuBLAS on one stream.
pub struct Cublas {
    handle: RawHandle,
    functions: Functions,
    path: String,
    version: c_int,
    /// The library that the functions belong to, kept loaded.
    _library: Option<Library>,
}

impl Cublas {
    /// Loads the library and sets its stream and workspace. With a workspace from the caller, it
    /// allocates nothing later.
    ///
    /// # Safety
    /// `stream` is a `CUstream` whose context is current. `workspace` is the device address of
    /// `bytes` bytes. Both outlive the value.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no library, [`Error::Call`] if a call fails.
    pub unsafe fn open(stream: *mut c_void, workspace: u64, bytes: usize) -> Result<Self, Error> {
        let (library, path) = load()?;
        // SAFETY: the caller's promise.
        unsafe { Self::of(library, path, stream, workspace, bytes) }
    }

    /// As [`Cublas::open`], with the library at this path.
    ///
    /// # Safety
    /// As for [`Cublas::open`], and the functions of the library behave like those of cuBLAS.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the library can't be loaded, [`Error::Symbol`] if it lacks a
    /// function, [`Error::Call`] if a call fails.
    pub unsafe fn open_at(
        path: &Path,
        stream: *mut c_void,
        workspace: u64,
        bytes: usize,
    ) -> Result<Self, Error> {
        let (library, path) = load_first(vec![path.to_owned()])?;
        // SAFETY: the caller's promise.
        unsafe { Self::of(library, path, stream, workspace, bytes) }
    }

    /// # Safety
    /// As for [`Cublas::open_at`].
    unsafe fn of(
        library: Library,
        path: String,
        stream: *mut c_void,
        workspace: u64,
        bytes: usize,
    ) -> Result<Self, Error> {
        let functions = Functions::find(&library, &path)?;
        // SAFETY: the caller promises that the functions are cuBLAS's, and the rest.
        unsafe { Self::with(functions, Some(library), path, stream, workspace, bytes) }
    }

    /// # Safety
    /// As for [`Cublas::open`], and the functions behave like those of cuBLAS.
    unsafe fn with(
        functions: Functions,
        library: Option<Library>,
        path: String,
        stream: *mut c_void,
        workspace: u64,
        bytes: usize,
    ) -> Result<Self, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library writes a handle to the given address.
        check("cublasCreate_v2", unsafe {
            (functions.create)(&mut handle)
        })?;
        let mut cublas = Self {
            handle,
            functions,
            path,
            version: 0,
            _library: library,
        };
        // SAFETY: the handle was just created; the caller promises that stream and workspace are
        // alive.
        unsafe {
            let Functions {
                get_version,
                set_stream,
                set_workspace,
                ..
            } = cublas.functions;
            check(
                "cublasGetVersion_v2",
                get_version(handle, &mut cublas.version),
            )?;
            // Setting the stream resets the workspace, so the workspace is set afterwards.
            check("cublasSetStream_v2", set_stream(handle, stream))?;
            check(
                "cublasSetWorkspace_v2",
                set_workspace(handle, workspace as *mut c_void, bytes),
            )?;
        }
        Ok(cublas)
    }

    /// Enqueues a product.
    ///
    /// # Safety
    /// The matrices are in memory of the stream's context, have type `of`, and live until the
    /// product is computed.
    ///
    /// # Errors
    /// [`Error::Shapes`] and [`Error::Size`] before anything is called, [`Error::Call`] if cuBLAS
    /// fails.
    pub unsafe fn product(&self, product: &Product, of: Type) -> Result<(), Error> {
        let Product { a, b, c, .. } = *product;
        if (a.rows(), a.columns(), b.columns()) != (c.rows, b.rows(), c.columns) {
            let product = Box::new(*product);
            return Err(Error::Shapes { product });
        }
        let [m, n, k] = [c.rows, c.columns, a.columns()].map(|size| c_int::try_from(size).ok());
        let (Some(m), Some(n), Some(k)) = (m, n, k) else {
            return Err(Error::Size {
                rows: c.rows.max(a.columns()),
                columns: c.columns,
            });
        };
        let op = |factor: Factor| if factor.transposed { OP_T } else { OP_N };
        let address = |factor: Factor| factor.stored.address as *const c_void;
        let leading = |factor: Factor| factor.stored.columns as c_int;
        let (alpha, beta) = (product.alpha, f32::from(u8::from(product.add)));
        let code = of.code();
        // cuBLAS is column-major and sees a row-major matrix as its transpose, so it computes cᵀ =
        // bᵀ·aᵀ. SAFETY: the leading dimensions are those of contiguous matrices; alpha and beta
        // are read during the call; the caller promises that the memory is valid.
        check("cublasGemmEx", unsafe {
            (self.functions.gemm_ex)(
                self.handle,
                op(b),
                op(a),
                n,
                m,
                k,
                (&raw const alpha).cast(),
                address(b),
                code,
                leading(b),
                address(a),
                code,
                leading(a),
                (&raw const beta).cast(),
                c.address as *mut c_void,
                code,
                n,
                COMPUTE_32F,
                GEMM_DEFAULT,
            )
        })
    }

    /// The version that was loaded, and its path.
    pub fn describe(&self) -> String {
        format!("cuBLAS {} ({})", version_name(self.version), self.path)
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and no longer used. Nothing can be done here about a failure.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

fn check(function: &'static str, status: c_int) -> Result<(), Error> {
    if status == 0 {
        Ok(())
    } else {
        Err(Error::Call { function, status })
    }
}

/// 130002 is 13.0.2: major · 10000 + minor · 100 + patch.
fn version_name(version: c_int) -> String {
    format!(
        "{}.{}.{}",
        version / 10000,
        version / 100 % 100,
        version % 100
    )
}

fn load() -> Result<(Library, String), Error> {
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    load_first(match named {
        Some(path) => vec![PathBuf::from(path)],
        None => NAMES
            .into_iter()
            .map(PathBuf::from)
            .chain(toolkits())
            .collect(),
    })
}

/// The first of these libraries that can be loaded, and its path.
fn load_first(candidates: Vec<PathBuf>) -> Result<(Library, String), Error> {
    let mut tried = Vec::new();
    for path in candidates {
        // SAFETY: loading cuBLAS runs its initialisers, which run in every program linked with it.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, path.display().to_string())),
            Err(error) => tried.push(reason(&error)),
        }
    }
    Err(Error::NotFound { tried })
}

/// The loader's message, which libloading's own text leaves out.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Folders of toolkits that are installed outside of the loader's path.
fn toolkits() -> Vec<PathBuf> {
    let folders = [
        "/usr/local/cuda/lib64",
        "/usr/local/cuda/targets/x86_64-linux/lib",
    ];
    let paths = folders
        .iter()
        .flat_map(|folder| NAMES.map(|name| PathBuf::from(folder).join(name)));
    paths.filter(|path| path.is_file()).collect()
}

impl Functions {
    fn find(library: &Library, path: &str) -> Result<Self, Error> {
        // SAFETY: the aliases above have the signatures that cublas_api.h gives these functions.
        unsafe {
            Ok(Self {
                create: function(library, path, c"cublasCreate_v2")?,
                destroy: function(library, path, c"cublasDestroy_v2")?,
                get_version: function(library, path, c"cublasGetVersion_v2")?,
                set_stream: function(library, path, c"cublasSetStream_v2")?,
                set_workspace: function(library, path, c"cublasSetWorkspace_v2")?,
                gemm_ex: function(library, path, c"cublasGemmEx")?,
            })
        }
    }
}

/// # Safety
/// `T` is the type of a pointer to the function `name`.
unsafe fn function<T: Copy>(library: &Library, path: &str, name: &CStr) -> Result<T, Error> {
    // SAFETY: the caller's promise.
    match unsafe { library.get::<T>(name) } {
        Ok(symbol) => Ok(*symbol),
        Err(error) => Err(Error::Symbol {
            path: path.to_owned(),
            reason: reason(&error),
        }),
    }
}

#[cfg(test)]
mod tests;
