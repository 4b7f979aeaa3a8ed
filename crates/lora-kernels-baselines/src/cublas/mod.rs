//! cuBLAS, loaded when the program runs: a machine without it loses the baseline and nothing else.

use std::ffi::{CStr, c_int, c_void};
use std::path::PathBuf;

use libloading::Library;

pub mod products;

use products::{Factor, Product};

/// The variable with the path of the library, where it is not where loaders look.
pub const VARIABLE: &str = "LORA_KERNELS_CUBLAS";

const NAMES: [&str; 4] = [
    "libcublas.so.13",
    "libcublas.so.12",
    "libcublas.so.11",
    "libcublas.so",
];

/// As much as PyTorch gives it on a Hopper GPU.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// Why there is no product by cuBLAS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library is nowhere.
    #[error("no cuBLAS found: {}. Set {VARIABLE} to the path of a libcublas.so", .tried.join("; "))]
    NotFound {
        /// Names that the loader was given.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    #[error("no cuBLAS of CUDA 11 or later, {path}: {reason}")]
    Symbol {
        /// The library.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// A call failed.
    #[error("{function} failed: {} ({status})", status_name(*.status))]
    Call {
        /// Which call.
        function: &'static str,
        /// `cublasStatus_t`.
        status: c_int,
    },
    /// A matrix beyond cuBLAS' 32-bit sizes.
    #[error(
        "a matrix of {rows} by {columns} is too large for cublasGemmEx, which counts in 32 bits"
    )]
    Size {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// Factors that don't fit each other or the result.
    #[error("shapes that can't be multiplied: {product:?}")]
    Shapes {
        /// What was asked for.
        product: Box<Product>,
    },
}

/// Element type of all three matrices; sums are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `CUDA_R_16F`.
    F16,
    /// `CUDA_R_16BF`.
    Bf16,
    /// Without TF32, as cuBLAS does unless told otherwise.
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

/// From cublas_api.h.
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
    /// The functions are its.
    _library: Option<Library>,
}

impl Cublas {
    /// Loads the library and makes it work on `stream` with a workspace of its caller's, so that it
    /// allocates nothing later.
    ///
    /// # Safety
    /// The context of `stream`, a `CUstream`, is current. Stream and workspace, a device address of
    /// as many bytes, outlive the value.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no library, [`Error::Call`] if it refuses.
    pub unsafe fn open(stream: *mut c_void, workspace: u64, bytes: usize) -> Result<Self, Error> {
        let (library, path) = load()?;
        let functions = Functions::find(&library, &path)?;
        // SAFETY: the functions are cuBLAS's, the rest is the caller's promise.
        unsafe { Self::with(functions, Some(library), path, stream, workspace, bytes) }
    }

    /// # Safety
    /// As [`Cublas::open`], and the functions do what those of cuBLAS do.
    unsafe fn with(
        functions: Functions,
        library: Option<Library>,
        path: String,
        stream: *mut c_void,
        workspace: u64,
        bytes: usize,
    ) -> Result<Self, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library writes a handle there.
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
        // SAFETY: the handle was just made; the caller promises that stream and workspace live.
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
            // Setting a stream forgets the workspace: it comes after.
            check("cublasSetStream_v2", set_stream(handle, stream))?;
            check(
                "cublasSetWorkspace_v2",
                set_workspace(handle, workspace as *mut c_void, bytes),
            )?;
        }
        Ok(cublas)
    }

    /// Enqueues one product.
    ///
    /// # Safety
    /// The matrices lie in memory of the stream's context, are of type `of`, and live until the
    /// product is computed.
    ///
    /// # Errors
    /// [`Error::Shapes`] and [`Error::Size`] before anything is called, [`Error::Call`] if cuBLAS
    /// refuses.
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
        // cuBLAS takes a row-major matrix for its transpose: cᵀ = bᵀ·aᵀ.
        // SAFETY: leading dimensions are those of contiguous matrices; alpha and beta are read
        // during the call; memory is the caller's promise.
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

    /// What was loaded from where.
    pub fn describe(&self) -> String {
        format!("cuBLAS {} ({})", version_name(self.version), self.path)
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more. What it says can't be acted on here.
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

/// 130002 is 13.0.2: major · 10000 + minor · 100 + patch, in CUDA 11 major · 10000 too.
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
    let candidates = match named {
        Some(path) => vec![PathBuf::from(path)],
        None => NAMES
            .into_iter()
            .map(PathBuf::from)
            .chain(toolkits())
            .collect(),
    };
    let mut tried = Vec::new();
    for path in candidates {
        // SAFETY: loading cuBLAS runs its initialisers, as any program that is linked with it does.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, path.display().to_string())),
            Err(error) => tried.push(reason(&error)),
        }
    }
    Err(Error::NotFound { tried })
}

/// What the loader said: libloading's own words leave it out.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Where toolkits are installed without telling the loader.
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
        // SAFETY: cublas_api.h gives these functions the signatures of the aliases above.
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
/// `T` is the function pointer type of that function.
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
