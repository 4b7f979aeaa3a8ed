//! Entry points with senseless handles, sizes, flags and device addresses. Host pointers are always
//! valid or null, as the API's contract demands; everything else is up to chance.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use cudarc::driver::sys;
use ptx_emulator::select::emulated;

mod arguments;
mod entries;

use self::entries::Arg::{self, *};
use self::entries::Kind::*;
use self::entries::{CALLS, KINDS};
use crate::random::Random;
use crate::{ptx, trial};

const NAMES: [&CStr; 9] = [
    c"add",
    c"reverse",
    c"reverse_dynamic",
    c"parameters",
    c"globals",
    c"accumulator",
    c"",
    c"cuInit",
    c"\xff\xfe",
];
/// Larger than every allocation of the cases, so that a copy to or from an allocation never leaves
/// the host's bytes.
const HOST_BYTES: usize = 64 << 10;
const LARGEST_ALLOCATION: usize = 4096;
/// Cases after which everything is made anew: captures that capture graphs grow without bound.
const AGE: u64 = 1000;
const ROOM: usize = 64;

#[rustfmt::skip]
type Call =
    unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u32;

/// The program that makes the calls, and what it was given by earlier ones.
struct Caller {
    entries: Vec<(&'static CStr, Call, &'static [Arg])>,
    context: sys::CUcontext,
    handles: [Vec<u64>; KINDS],
    dead: Vec<u64>,
    addresses: Vec<u64>,
    hosts: Vec<u64>,
    /// Leaked: captured work may refer to it as long as the process lives.
    bytes: &'static mut [u8],
    out: Vec<u64>,
    values: Vec<u64>,
    pointers: Vec<u64>,
    extra: [u64; 5],
    structure: Vec<u64>,
    image: CString,
    fatbin: Vec<u8>,
}

fn address_of(name: &CStr) -> Call {
    let (mut address, mut status) = (
        null_mut(),
        sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS,
    );
    // SAFETY: the pointers are valid for the call.
    let code =
        unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, &mut status) };
    assert!(
        code.result().is_ok() && !address.is_null(),
        "{name:?} is not there"
    );
    // SAFETY: an entry point takes integers and pointers only. Both calling conventions of the
    // machines that this runs on pass the first of them in registers, the others in 8-byte slots
    // that the caller removes: more and wider ones than it reads do no harm.
    unsafe { std::mem::transmute::<*mut c_void, Call>(address) }
}

/// A code's name, which every `CUresult` has.
fn name_of(code: u32) -> Option<&'static str> {
    type GetErrorName = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
    // SAFETY: this is the function's type with the enumeration as the number that it is in C.
    let function =
        unsafe { std::mem::transmute::<Call, GetErrorName>(address_of(c"cuGetErrorName")) };
    let mut text = std::ptr::null();
    // SAFETY: the pointer is valid for the call; names live as long as the driver.
    unsafe { (function(code, &mut text) == 0).then(|| CStr::from_ptr(text).to_str().ok())? }
}

/// Every refusal is a line on stderr, and there are very many. What the test says is not lost by
/// it: the harness collects that.
fn silence() {
    let nowhere = File::options()
        .write(true)
        .open("/dev/null")
        .expect("/dev/null");
    // SAFETY: both are open files; only what the driver's own library and this program write to
    // stderr changes its way.
    assert!(unsafe { libc::dup2(nowhere.as_raw_fd(), 2) } >= 0);
}

impl Caller {
    fn new() -> Self {
        emulated().expect("the emulated driver");
        // Whoever names a case looks for what is wrong with it.
        if std::env::var_os("PTX_EMULATOR_FUZZ_FIRST").is_none() {
            silence();
        }
        // SAFETY: no pointers.
        assert!(unsafe { sys::cuInit(0) }.result().is_ok());
        let entries = CALLS
            .iter()
            .map(|&(name, arguments)| (name, address_of(name), arguments));
        let mut caller = Self {
            entries: entries.collect(),
            context: null_mut(),
            handles: Default::default(),
            dead: vec![0],
            addresses: Vec::new(),
            hosts: Vec::new(),
            bytes: vec![0; HOST_BYTES].leak(),
            out: vec![0; 16 * ROOM],
            values: vec![0; ROOM],
            pointers: vec![0; ROOM],
            extra: [0; 5],
            structure: vec![0; ROOM],
            image: CString::default(),
            fatbin: Vec::new(),
        };
        caller.begin();
        caller
    }

    /// A context with one of everything.
    fn begin(&mut self) {
        let (mut context, mut module, mut stream, mut event) =
            (null_mut(), null_mut(), null_mut(), null_mut());
        let text = CString::new(ptx::TEXTS[0]).expect("text");
        // SAFETY: the pointers are valid for the calls, and the image is NUL-terminated.
        unsafe {
            // Contexts that calls have made current stay behind otherwise, more and more of them.
            while sys::cuCtxPopCurrent_v2(&mut context).result().is_ok() {}
            let _ = sys::cuCtxDestroy_v2(self.context);
            sys::cuCtxCreate_v4(&mut context, null_mut(), 0, 0)
                .result()
                .expect("a context");
            sys::cuModuleLoadData(&mut module, text.as_ptr().cast())
                .result()
                .expect("a module");
            sys::cuStreamCreate(&mut stream, 1)
                .result()
                .expect("a stream");
            sys::cuEventCreate(&mut event, 0)
                .result()
                .expect("an event");
        }
        self.context = context;
        self.addresses.clear();
        self.dead = self
            .handles
            .iter_mut()
            .filter_map(Vec::pop)
            .chain([0])
            .collect();
        self.handles = Default::default();
        self.hosts.clear();
        for (kind, handle) in [
            (Context, context.addr()),
            (Module, module.addr()),
            (Stream, stream.addr()),
            (Event, event.addr()),
        ] {
            self.handles[kind as usize].push(handle as u64);
        }
        for name in &NAMES[..5] {
            let mut function = null_mut();
            // SAFETY: as above.
            unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) }
                .result()
                .expect("a kernel");
            self.handles[Function as usize].push(function.addr() as u64);
        }
        for _ in 0..3 {
            let mut address = 0;
            // SAFETY: as above.
            unsafe { sys::cuMemAlloc_v2(&mut address, LARGEST_ALLOCATION) }
                .result()
                .expect("memory");
            self.addresses.push(address);
        }
    }

    /// Makes one call; the name of its code.
    fn call(&mut self, case: u64) -> &'static str {
        if case.is_multiple_of(AGE) {
            self.begin();
        }
        let mut random = Random::of_case(case);
        let at = random.below(self.entries.len());
        let (name, call, kinds) = self.entries[at];
        let mut arguments = [0; 12];
        for (slot, &kind) in kinds.iter().enumerate() {
            arguments[slot] = self.argument(&mut random, kind, slot);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = arguments;
        // SAFETY: handles, numbers and device addresses may be anything; pointers to the host are
        // null or have the room that is needed.
        let code = unsafe { call(a, b, c, d, e, f, g, h, i, j, k, l) };
        assert!(
            code != 999,
            "{name:?} panicked, given {kinds:?}",
            kinds = &arguments[..kinds.len()]
        );
        let told =
            name_of(code).unwrap_or_else(|| panic!("{name:?} gave {code}, which is no CUresult"));
        if code == 0 {
            self.keep(kinds, &arguments);
        }
        // A fault ends its context, and a destroyed one takes everything with it: neither is worth
        // more cases.
        if !self.is_usable() {
            self.begin();
        }
        told
    }

    /// Makes the context that has one of everything current again, if it is still there.
    fn is_usable(&self) -> bool {
        let mut flags = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe {
            sys::cuCtxSetCurrent(self.context).result().is_ok()
                && sys::cuCtxGetFlags(&mut flags).result().is_ok()
        }
    }

    fn keep(&mut self, kinds: &[Arg], arguments: &[u64]) {
        for (slot, &kind) in kinds.iter().enumerate() {
            if let Doomed(kind) = kind {
                self.handles[kind as usize].retain(|&handle| handle != arguments[slot]);
                self.dead.push(arguments[slot]);
            }
            let value = self.out[slot * ROOM];
            if arguments[slot] == 0 || value == 0 {
                continue;
            }
            match kind {
                NewHandle(kind) => self.handles[kind as usize].push(value),
                NewAddress => self.addresses.push(value),
                NewHost => self.hosts.push(value),
                _ => {}
            }
        }
    }
}

#[test]
fn entry_points_take_anything() {
    let outcomes = trial::run(40_000, || {
        let mut caller = Caller::new();
        move |case| caller.call(case)
    });
    // Calls that all fail at once would test little.
    for code in [
        "CUDA_SUCCESS",
        "CUDA_ERROR_INVALID_HANDLE",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
    ] {
        assert!(
            outcomes.contains_key(code),
            "no call gave {code}: {outcomes:?}"
        );
    }
}
