//! Choosing between the emulated and the real CUDA driver, before anything loads one.
//!
//! Programs find the driver by the name `libcuda.so`. The emulated one carries that name (its
//! soname), so once it is loaded from its own path, a later `dlopen("libcuda.so")` finds it: no
//! search path has to change, and a real driver on the machine stays untouched.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::settings;

/// The variable that [`select`] reads.
pub const VARIABLE: &str = "PTX_EMULATOR";

/// The driver that this process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The emulated driver, loaded from this path.
    Emulated {
        /// The library.
        path: PathBuf,
    },
    /// The machine's own driver, with at least one device.
    Real,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emulated { path } => write!(f, "emulated GPU ({})", path.display()),
            Self::Real => f.write_str("real GPU"),
        }
    }
}

/// Why there is no driver to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The variable has a value of no meaning.
    #[error("{variable}={value} is none of auto, emulated, real")]
    Setting {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// A real device was asked for and there is none.
    #[error("{variable}=real, but {reason}. Use auto or emulated to run on the emulated GPU")]
    NoRealDevice {
        /// The variable.
        variable: String,
        /// What was found out.
        reason: String,
    },
    /// The emulated driver's library is nowhere.
    #[error(
        "the emulated CUDA driver {file} was not found in {}. Cargo builds it with a program that has \
         ptx-emulator among its dependencies", .looked_in.join(", ")
    )]
    NotBuilt {
        /// Its name.
        file: String,
        /// Folders that were searched.
        looked_in: Vec<String>,
    },
    /// The emulated driver's library can't be loaded.
    #[error("the emulated CUDA driver {path} can't be loaded: {reason}")]
    Load {
        /// Where it lies.
        path: String,
        /// What the loader said.
        reason: String,
    },
}

/// Makes the driver that [`VARIABLE`] asks for the one this process uses: `auto` (the default)
/// takes a real device if there is one and the emulated one otherwise, `emulated` and `real` take
/// nothing else.
///
/// Call it before the first CUDA call. The first call decides for the whole process; later ones
/// return the same.
///
/// # Errors
/// [`SelectError`] says which driver is missing and what to do.
pub fn select() -> Result<Selection, SelectError> {
    select_by(VARIABLE)
}

/// Like [`select`], but reads a variable of the caller's choice, so that a project can have one
/// under its own name.
///
/// # Errors
/// [`SelectError`] says which driver is missing and what to do.
pub fn select_by(variable: &str) -> Result<Selection, SelectError> {
    CHOICE.get_or_init(|| choose(variable)).clone()
}

/// Like [`select`], but takes the emulated driver whatever [`VARIABLE`] says: for tests of the
/// emulator itself.
///
/// # Errors
/// [`SelectError`] where the emulated driver can't be loaded.
pub fn emulated() -> Result<Selection, SelectError> {
    CHOICE.get_or_init(load_emulated).clone()
}

static CHOICE: OnceLock<Result<Selection, SelectError>> = OnceLock::new();

fn choose(variable: &str) -> Result<Selection, SelectError> {
    let no_real_device = |reason| SelectError::NoRealDevice {
        variable: variable.to_owned(),
        reason,
    };
    let setting = settings::read(variable).unwrap_or_default();
    match setting.as_str() {
        "" | "auto" => probe_real().or_else(|_| load_emulated()),
        "emulated" => load_emulated(),
        "real" => match probe_real() {
            Ok(Selection::Real) => Ok(Selection::Real),
            Ok(Selection::Emulated { path }) => Err(no_real_device(format!(
                "{} is an emulated driver",
                path.display()
            ))),
            Err(reason) => Err(no_real_device(reason)),
        },
        value => Err(SelectError::Setting {
            variable: variable.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// A loaded library; it stays loaded.
struct Library(*mut c_void);

impl Library {
    fn open(path: &CStr, flags: c_int) -> Result<Self, String> {
        // SAFETY: `path` is NUL-terminated. Loading runs the library's initialisers, which is what
        // was asked for.
        let handle = unsafe { libc::dlopen(path.as_ptr(), flags) };
        if !handle.is_null() {
            return Ok(Self(handle));
        }
        // SAFETY: `dlerror` returns null or a NUL-terminated string that lives until this thread's
        // next call.
        let message = unsafe {
            libc::dlerror()
                .as_ref()
                .map(|message| CStr::from_ptr(message))
        };
        Err(message.map_or_else(
            || "unknown error".to_owned(),
            |text| text.to_string_lossy().into_owned(),
        ))
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: the handle came from `dlopen`, and `name` is NUL-terminated.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            Err(format!("the driver has no {}", name.to_string_lossy()))
        } else {
            Ok(address)
        }
    }
}

/// Looks for a driver of the machine that has a device.
fn probe_real() -> Result<Selection, String> {
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
    let (name, library) = match Library::open(c"libcuda.so.1", flags) {
        Ok(library) => ("libcuda.so.1", library),
        Err(_) => match Library::open(c"libcuda.so", flags) {
            Ok(library) => ("libcuda.so", library),
            Err(_) => {
                return Err("there is no libcuda.so.1 and no libcuda.so on this machine".to_owned());
            }
        },
    };
    let init = library.symbol(c"cuInit")?;
    let count = library.symbol(c"cuDeviceGetCount")?;
    let device_name = library.symbol(c"cuDeviceGetName")?;
    // SAFETY: these are the driver API's functions of these names, whose C signatures cuda.h fixes.
    let (init, count, device_name) = unsafe {
        (
            std::mem::transmute::<*mut c_void, extern "C" fn(u32) -> u32>(init),
            std::mem::transmute::<*mut c_void, extern "C" fn(&mut c_int) -> u32>(count),
            std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_char, c_int, c_int) -> u32>(
                device_name,
            ),
        )
    };
    let code = init(0);
    if code != 0 {
        return Err(format!("cuInit of {name} failed with error {code}"));
    }
    let mut devices = 0;
    if count(&mut devices) != 0 || devices == 0 {
        return Err(format!("{name} has no device"));
    }
    let mut text = [0_u8; 128];
    device_name(text.as_mut_ptr().cast(), 128, 0);
    // A search path may already lead to the emulated driver.
    if text.starts_with(b"Emulated ") {
        return Ok(Selection::Emulated { path: name.into() });
    }
    Ok(Selection::Real)
}

fn load_emulated() -> Result<Selection, SelectError> {
    let path = find_emulated()?;
    let refuse = |reason: String| SelectError::Load {
        path: path.display().to_string(),
        reason,
    };
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|error| refuse(error.to_string()))?;
    let library = Library::open(&name, libc::RTLD_NOW | libc::RTLD_GLOBAL).map_err(refuse)?;
    library.symbol(c"cuInit").map_err(refuse)?;
    Ok(Selection::Emulated { path })
}

/// Cargo puts the library into `deps/`: tests and benches lie there, too, examples and binaries lie
/// one folder away.
fn find_emulated() -> Result<PathBuf, SelectError> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};

    let stem = format!("{DLL_PREFIX}ptx_emulator");
    let file = format!("{stem}{DLL_SUFFIX}");
    let mut folders = Vec::new();
    let executable = std::env::current_exe().ok();
    if let Some(folder) = executable.as_deref().and_then(Path::parent) {
        folders.push(folder.join("deps"));
        if let Some(above) = folder.parent() {
            folders.push(above.join("deps"));
        }
        folders.push(folder.to_owned());
    }
    // Documentation tests run from a temporary folder; the build script's folder is
    // `<profile>/build/<package>/out`.
    if let Some(profile) = Path::new(env!("OUT_DIR")).ancestors().nth(3) {
        folders.push(profile.join("deps"));
    }
    for folder in &folders {
        let path = folder.join(&file);
        if path.is_file() {
            return Ok(path);
        }
    }
    // Cargo adds a hash to the library's name if the package comes from a registry or from git.
    let hashed = folders
        .iter()
        .find_map(|folder| newest(folder, &format!("{stem}-"), DLL_SUFFIX));
    hashed.ok_or_else(|| SelectError::NotBuilt {
        file,
        looked_in: folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect(),
    })
}

/// The file of a folder that was written last, among those whose name has this start and end.
/// Earlier builds leave theirs behind.
fn newest(folder: &Path, start: &str, end: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|file| {
            let name = file.file_name();
            name.to_str().is_some_and(|name| {
                name.strip_prefix(start)
                    .is_some_and(|rest| rest.ends_with(end))
            })
        })
        .max_by_key(|file| file.metadata().and_then(|data| data.modified()).ok())
        .map(|file| file.path())
}
