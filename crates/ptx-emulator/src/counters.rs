//! Reading the counters of the emulated driver that this process has loaded, and choosing what it
//! runs.
//!
//! The driver is a shared library with a state of its own, which this side reaches through a few
//! exported functions. The settings hold for the whole process: tests that change them belong in a
//! program of their own, one at a time.
//!
#![doc = include_str!("../docs/counters.md")]

use std::ffi::{CString, c_char, c_void};

use serde::{Deserialize, Serialize};

pub use crate::exec::count::{Dram, KernelCounters, Kind, PtxLine, SourceLine, Tally};
pub use crate::exec::{Blocks, BlocksError};

/// Version of the JSON document.
pub const SCHEMA: u32 = 1;

/// Everything that was counted since the start or the last reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Version of this form.
    pub schema: u32,
    /// The virtual device's key.
    pub device: String,
    /// One entry for each kernel and shape of launch, in the order of their first launches.
    pub kernels: Vec<KernelCounters>,
}

impl Counters {
    /// The entries of kernels whose name contains `part`.
    pub fn of<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a KernelCounters> {
        self.kernels
            .iter()
            .filter(move |kernel| kernel.kernel.contains(part))
    }

    /// The document that README.md describes: sums by CUDA source line beside what the structure
    /// holds.
    ///
    /// # Errors
    /// None is known: numbers and names can always be written.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Kernel<'a> {
            #[serde(flatten)]
            counters: &'a KernelCounters,
            source_lines: Vec<SourceLine>,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            schema: u32,
            device: &'a str,
            kernels: Vec<Kernel<'a>>,
        }
        let kernels = self.kernels.iter().map(|counters| Kernel {
            counters,
            source_lines: counters.source_lines(),
        });
        serde_json::to_string(&Document {
            schema: self.schema,
            device: &self.device,
            kernels: kernels.collect(),
        })
    }
}

/// Why the loaded driver can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The process has no emulated driver loaded.
    #[error("this process has not loaded the emulated driver: call select::emulated() first")]
    NotLoaded,
    /// A call of the driver failed.
    #[error("{call} failed with CUDA error {code}; the driver says why on stderr")]
    Refused {
        /// Which call.
        call: String,
        /// `CUresult`.
        code: u32,
    },
    /// What was read is not what counters look like.
    #[error("the driver's counters can't be read: {0}")]
    Text(String),
}

type Set = extern "C" fn(*const c_char, *const c_char) -> u32;
type Reset = extern "C" fn() -> u32;
type Json = extern "C" fn(*mut u8, usize, *mut usize) -> u32;

/// The loaded emulated driver.
#[derive(Clone, Copy)]
pub struct Control {
    set: Set,
    reset: Reset,
    json: Json,
}

impl Control {
    /// Finds the emulated driver that [`crate::select`] loaded.
    ///
    /// # Errors
    /// [`ControlError::NotLoaded`] where there is none.
    pub fn loaded() -> Result<Control, ControlError> {
        let (set, reset) = (
            find(c"ptx_emulator_set")?,
            find(c"ptx_emulator_counters_reset")?,
        );
        let json = find(c"ptx_emulator_counters_json")?;
        // SAFETY: these are the functions of these names in driver/counters.rs, whose arguments
        // have the layout of these pointers.
        unsafe {
            Ok(Control {
                set: std::mem::transmute::<*mut c_void, Set>(set),
                reset: std::mem::transmute::<*mut c_void, Reset>(reset),
                json: std::mem::transmute::<*mut c_void, Json>(json),
            })
        }
    }

    /// Switches counting on or off.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn count(&self, on: bool) -> Result<(), ControlError> {
        self.change("counters", if on { "on" } else { "off" })
    }

    /// Chooses the blocks that later launches run.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn run_blocks(&self, blocks: &Blocks) -> Result<(), ControlError> {
        self.change("blocks", &blocks.to_string())
    }

    /// Switches the model of DRAM traffic on or off, its L2 empty at first: later launches that are
    /// counted have [`KernelCounters::dram`].
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn dram(&self, on: bool) -> Result<(), ControlError> {
        self.change("dram", if on { "on" } else { "off" })
    }

    /// Empties the model's L2, which else keeps what earlier launches left.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn flush_l2(&self) -> Result<(), ControlError> {
        self.change("dram", "flush")
    }

    /// Gives the model an empty L2 of this many bytes, or of half the device's.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn l2_bytes(&self, bytes: Option<u64>) -> Result<(), ControlError> {
        let value = bytes.map_or_else(|| "device".to_owned(), |bytes| bytes.to_string());
        self.change("dram_l2_bytes", &value)
    }

    /// Tells the model how many blocks a multiprocessor holds, if not as many as threads, shared
    /// memory and block slots allow: ptxas knows what registers allow.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for 0.
    pub fn blocks_per_multiprocessor(&self, blocks: Option<u32>) -> Result<(), ControlError> {
        let value = blocks.map_or_else(|| "device".to_owned(), |blocks| blocks.to_string());
        self.change("dram_blocks", &value)
    }

    /// Chooses the order in which blocks and warps of later launches have their turns: what
    /// `PTX_EMULATOR_SCHEDULE` takes.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for text that names no schedule.
    pub fn schedule(&self, schedule: &str) -> Result<(), ControlError> {
        self.change("schedule", schedule)
    }

    /// Chooses when a `cp.async` of later launches lands: when it is issued, or when it is waited
    /// for.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is of another version.
    pub fn early_copies(&self, on: bool) -> Result<(), ControlError> {
        self.change("copies", if on { "earliest" } else { "latest" })
    }

    /// Chooses how `mma` of later launches sums: what `PTX_EMULATOR_NUMERICS` takes, or `device`
    /// for the virtual device's own way.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for text that names no model.
    pub fn numerics(&self, model: &str) -> Result<(), ControlError> {
        self.change("numerics", model)
    }

    /// Forgets what was counted.
    ///
    /// # Errors
    /// [`ControlError::Refused`] where the driver is broken.
    pub fn reset(&self) -> Result<(), ControlError> {
        check("ptx_emulator_counters_reset", (self.reset)())
    }

    /// What was counted so far. `cuInit` must have been called.
    ///
    /// # Errors
    /// [`ControlError::Refused`] before `cuInit`, [`ControlError::Text`] where the driver is of
    /// another version.
    pub fn read(&self) -> Result<Counters, ControlError> {
        let call = "ptx_emulator_counters_json";
        let mut text = Vec::new();
        loop {
            let mut length = 0;
            check(
                call,
                (self.json)(text.as_mut_ptr(), text.len(), &mut length),
            )?;
            if length <= text.len() {
                text.truncate(length);
                break;
            }
            // Another thread may count meanwhile: ask again until it fits.
            text.resize(length, 0);
        }
        serde_json::from_slice(&text).map_err(|error| ControlError::Text(error.to_string()))
    }

    fn change(&self, name: &str, value: &str) -> Result<(), ControlError> {
        let text =
            |text: &str| CString::new(text).map_err(|error| ControlError::Text(error.to_string()));
        let (name, value) = (text(name)?, text(value)?);
        check(
            "ptx_emulator_set",
            (self.set)(name.as_ptr(), value.as_ptr()),
        )
    }
}

/// The function of the loaded driver with this name.
pub(crate) fn find(name: &std::ffi::CStr) -> Result<*mut c_void, ControlError> {
    // SAFETY: the name is NUL-terminated. Nothing is loaded: without the library the handle is
    // null.
    let library =
        unsafe { libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return Err(ControlError::NotLoaded);
    }
    // SAFETY: the handle is a library's, and the name is NUL-terminated.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        Err(ControlError::NotLoaded)
    } else {
        Ok(address)
    }
}

pub(crate) fn check(call: &str, code: u32) -> Result<(), ControlError> {
    if code == 0 {
        return Ok(());
    }
    Err(ControlError::Refused {
        call: call.to_owned(),
        code,
    })
}
