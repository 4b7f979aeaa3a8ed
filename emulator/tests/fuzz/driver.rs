//! Entry points with senseless handles, sizes, flags and device addresses. Host pointers are always valid or null, as the API's
//! contract demands; everything else is up to chance.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use cudarc::driver::sys;
use lora_kernels_emulator::select::emulated;

use crate::random::Random;
use crate::{fatbin, ptx, trial};

/// What a handle stands for.
#[derive(Clone, Copy)]
enum Kind {
    Context,
    Module,
    Function,
    Stream,
    Event,
    Graph,
    Executable,
    Node,
    Pool,
}
use Kind::*;
const KINDS: usize = 9;

/// What an argument is.
#[derive(Clone, Copy)]
enum Arg {
    /// Mostly a live handle of this kind; else one of another kind, a dead or a made up one.
    Handle(Kind),
    /// As `Handle`; if the call succeeds, the handle is dead.
    Doomed(Kind),
    /// A small or extreme number, mostly small: a size, a flag, an enumerator.
    Number,
    /// The device ordinal, mostly 0.
    Device,
    /// Inside, at the edge or outside of device memory.
    Address,
    /// Host bytes: as many as a copy that the driver allows can take.
    Bytes,
    /// Room for results, or null.
    Out,
    /// Room for a handle, which is kept if the call succeeds.
    NewHandle(Kind),
    /// Room for a device address, which is kept.
    NewAddress,
    /// Room for the address of host memory, which is kept.
    NewHost,
    /// What `NewHost` gave, or other host bytes.
    HostMemory,
    /// Bytes that an allocation takes: few, or too many.
    Allocation,
    /// An address that a copy tells apart by its range: on the device or valid on the host.
    Unified,
    /// Bytes to copy where both ends may be on the host.
    Few,
    /// A name.
    Name,
    /// A module's image.
    Image,
    /// One size of a grid or a block.
    Extent,
    /// The array of pointers to a kernel's parameters, or null.
    Parameters,
    /// The list of a kernel's parameters as one buffer, or null.
    Extra,
    /// `CUlaunchConfig`.
    Config,
    /// `CUDA_KERNEL_NODE_PARAMS`.
    NodeParameters,
    /// A host function, or null.
    Callback,
    /// A null pointer.
    Null,
}
use Arg::*;

#[rustfmt::skip]
const CALLS: &[(&CStr, &[Arg])] = &[
    (c"cuInit", &[Number]), (c"cuDriverGetVersion", &[Out]), (c"cuDeviceGetCount", &[Out]), (c"cuDeviceGet", &[Out, Device]),
    (c"cuDeviceGetName", &[Bytes, Few, Device]), (c"cuDeviceTotalMem", &[Out, Device]),
    (c"cuDeviceGetAttribute", &[Out, Number, Device]), (c"cuDeviceGetUuid", &[Out, Device]),
    (c"cuDeviceGetPCIBusId", &[Bytes, Few, Device]), (c"cuDeviceComputeCapability", &[Out, Out, Device]),
    (c"cuDeviceCanAccessPeer", &[Out, Device, Device]), (c"cuDeviceGetDefaultMemPool", &[NewHandle(Pool), Device]),
    (c"cuDeviceGetMemPool", &[NewHandle(Pool), Device]), (c"cuDeviceSetMemPool", &[Device, Handle(Pool)]),
    (c"cuDevicePrimaryCtxRetain", &[NewHandle(Context), Device]), (c"cuDevicePrimaryCtxRelease", &[Device]),
    (c"cuDevicePrimaryCtxReset", &[Device]), (c"cuDevicePrimaryCtxGetState", &[Device, Out, Out]),
    (c"cuDevicePrimaryCtxSetFlags", &[Device, Number]), (c"cuCtxCreate", &[NewHandle(Context), Null, Number, Device]),
    (c"cuCtxDestroy", &[Doomed(Context)]), (c"cuCtxSetCurrent", &[Handle(Context)]), (c"cuCtxGetCurrent", &[Out]),
    (c"cuCtxPushCurrent", &[Handle(Context)]), (c"cuCtxPopCurrent", &[Out]), (c"cuCtxGetDevice", &[Out, Handle(Context)]),
    (c"cuCtxSynchronize", &[Handle(Context)]), (c"cuCtxGetFlags", &[Out]), (c"cuCtxSetFlags", &[Number]),
    (c"cuCtxGetLimit", &[Out, Number]), (c"cuCtxSetLimit", &[Number, Number]), (c"cuCtxGetCacheConfig", &[Out]),
    (c"cuCtxSetCacheConfig", &[Number]), (c"cuCtxGetStreamPriorityRange", &[Out, Out]),
    (c"cuCtxGetApiVersion", &[Handle(Context), Out]), (c"cuCtxGetId", &[Handle(Context), Out]),
    (c"cuModuleLoadData", &[NewHandle(Module), Image]), (c"cuModuleUnload", &[Doomed(Module)]),
    (c"cuModuleGetFunction", &[NewHandle(Function), Handle(Module), Name]), (c"cuModuleGetFunction", &[NewHandle(Function), Handle(Module), Name]),
    (c"cuModuleGetGlobal", &[NewAddress, Out, Handle(Module), Name]), (c"cuModuleGetFunctionCount", &[Out, Handle(Module)]),
    (c"cuModuleEnumerateFunctions", &[NewHandle(Function), Few, Handle(Module)]), (c"cuModuleGetLoadingMode", &[Out]),
    (c"cuModuleLoad", &[NewHandle(Module), Name]),
    (c"cuFuncGetAttribute", &[Out, Number, Handle(Function)]), (c"cuFuncSetAttribute", &[Handle(Function), Number, Number]),
    (c"cuFuncSetCacheConfig", &[Handle(Function), Number]), (c"cuFuncGetModule", &[Out, Handle(Function)]), (c"cuFuncGetName", &[Out, Handle(Function)]),
    (c"cuFuncGetParamInfo", &[Handle(Function), Number, Out, Out]), (c"cuFuncIsLoaded", &[Out, Handle(Function)]), (c"cuFuncLoad", &[Handle(Function)]),
    (c"cuOccupancyMaxActiveBlocksPerMultiprocessor", &[Out, Handle(Function), Number, Number]),
    (c"cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", &[Out, Handle(Function), Number, Number, Number]),
    (c"cuOccupancyAvailableDynamicSMemPerBlock", &[Out, Handle(Function), Number, Number]),
    (c"cuMemAlloc", &[NewAddress, Allocation]), (c"cuMemFree", &[Address]), (c"cuMemGetInfo", &[Out, Out]),
    (c"cuMemGetAddressRange", &[Out, Out, Address]), (c"cuMemHostAlloc", &[NewHost, Allocation, Number]),
    (c"cuMemAllocHost", &[NewHost, Allocation]), (c"cuMemFreeHost", &[HostMemory]),
    (c"cuPointerGetAttribute", &[Out, Number, Address]), (c"cuMemAllocManaged", &[NewAddress, Allocation, Number]),
    (c"cuMemAllocAsync", &[NewAddress, Allocation, Handle(Stream)]), (c"cuMemFreeAsync", &[Address, Handle(Stream)]),
    (c"cuMemAllocFromPoolAsync", &[NewAddress, Allocation, Handle(Pool), Handle(Stream)]),
    (c"cuMemPoolCreate", &[NewHandle(Pool), Bytes]), (c"cuMemPoolDestroy", &[Doomed(Pool)]), (c"cuMemPoolTrimTo", &[Handle(Pool), Number]),
    (c"cuMemPoolGetAttribute", &[Handle(Pool), Number, Out]), (c"cuMemPoolSetAttribute", &[Handle(Pool), Number, Bytes]),
    (c"cuMemcpyHtoD", &[Address, Bytes, Number]), (c"cuMemcpyHtoDAsync", &[Address, Bytes, Number, Handle(Stream)]),
    (c"cuMemcpyDtoH", &[Bytes, Address, Number]), (c"cuMemcpyDtoHAsync", &[Bytes, Address, Number, Handle(Stream)]),
    (c"cuMemcpyDtoD", &[Address, Address, Number]), (c"cuMemcpyDtoDAsync", &[Address, Address, Number, Handle(Stream)]),
    (c"cuMemcpy", &[Unified, Unified, Few]), (c"cuMemcpyAsync", &[Unified, Unified, Few, Handle(Stream)]),
    (c"cuMemcpyPeer", &[Address, Handle(Context), Address, Handle(Context), Number]),
    (c"cuMemcpyPeerAsync", &[Address, Handle(Context), Address, Handle(Context), Number, Handle(Stream)]),
    (c"cuMemsetD8", &[Address, Number, Number]), (c"cuMemsetD8Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuMemsetD16", &[Address, Number, Number]), (c"cuMemsetD16Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuMemsetD32", &[Address, Number, Number]), (c"cuMemsetD32Async", &[Address, Number, Number, Handle(Stream)]),
    (c"cuStreamCreate", &[NewHandle(Stream), Number]), (c"cuStreamCreateWithPriority", &[NewHandle(Stream), Number, Number]),
    (c"cuStreamDestroy", &[Doomed(Stream)]), (c"cuStreamSynchronize", &[Handle(Stream)]), (c"cuStreamQuery", &[Handle(Stream)]),
    (c"cuStreamWaitEvent", &[Handle(Stream), Handle(Event), Number]), (c"cuStreamGetFlags", &[Handle(Stream), Out]),
    (c"cuStreamGetPriority", &[Handle(Stream), Out]), (c"cuStreamGetCtx", &[Handle(Stream), Out, Out]), (c"cuStreamGetId", &[Handle(Stream), Out]),
    (c"cuLaunchHostFunc", &[Handle(Stream), Callback, Bytes]), (c"cuStreamBeginCapture", &[Handle(Stream), Number]),
    (c"cuStreamEndCapture", &[Handle(Stream), NewHandle(Graph)]), (c"cuStreamEndCapture", &[Handle(Stream), NewHandle(Graph)]),
    (c"cuStreamIsCapturing", &[Handle(Stream), Out]), (c"cuStreamGetCaptureInfo", &[Handle(Stream), Out, Out, Out, Out, Out, Out]),
    (c"cuThreadExchangeStreamCaptureMode", &[Out]),
    (c"cuEventCreate", &[NewHandle(Event), Number]), (c"cuEventDestroy", &[Doomed(Event)]), (c"cuEventRecord", &[Handle(Event), Handle(Stream)]),
    (c"cuEventRecordWithFlags", &[Handle(Event), Handle(Stream), Number]), (c"cuEventSynchronize", &[Handle(Event)]),
    (c"cuEventQuery", &[Handle(Event)]), (c"cuEventElapsedTime", &[Out, Handle(Event), Handle(Event)]),
    (c"cuGraphInstantiate", &[NewHandle(Executable), Handle(Graph), Number]), (c"cuGraphLaunch", &[Handle(Executable), Handle(Stream)]),
    (c"cuGraphUpload", &[Handle(Executable), Handle(Stream)]), (c"cuGraphGetNodes", &[Handle(Graph), NewHandle(Node), Out]),
    (c"cuGraphNodeGetType", &[Handle(Node), Out]), (c"cuGraphExecUpdate", &[Handle(Executable), Handle(Graph), Out]),
    (c"cuGraphExecDestroy", &[Doomed(Executable)]), (c"cuGraphDestroy", &[Doomed(Graph)]), (c"cuGraphKernelNodeGetParams", &[Handle(Node), Out]),
    (c"cuGraphKernelNodeSetParams", &[Handle(Node), NodeParameters]),
    (c"cuGraphExecKernelNodeSetParams", &[Handle(Executable), Handle(Node), NodeParameters]),
    (c"cuLaunchKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Parameters, Null]),
    (c"cuLaunchKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Null, Extra]),
    (c"cuLaunchCooperativeKernel", &[Handle(Function), Extent, Extent, Extent, Extent, Extent, Extent, Number, Handle(Stream), Parameters]),
    (c"cuLaunchKernelEx", &[Config, Handle(Function), Parameters, Null]),
    (c"cuGetErrorName", &[Number, Out]), (c"cuGetErrorString", &[Number, Out]),
    (c"cuGetProcAddress", &[Name, Out, Number, Number, Out]),
];

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
const NUMBERS: [u64; 24] = [
    0,
    0,
    1,
    1,
    2,
    3,
    4,
    5,
    8,
    9,
    16,
    32,
    63,
    100,
    148,
    4096,
    4097,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];
const EXTENTS: [u64; 12] = [1, 1, 1, 1, 1, 2, 3, 32, 128, 0, 1025, 0xffff_ffff];
/// Larger than every allocation of the cases, so that a copy to or from an allocation never leaves the host's bytes.
const HOST_BYTES: usize = 64 << 10;
const LARGEST_ALLOCATION: usize = 4096;
/// Cases after which everything is made anew: captures that capture graphs grow without bound.
const AGE: u64 = 1000;
const ROOM: usize = 64;

fn number(random: &mut Random) -> u64 {
    if random.once_in(2) {
        *random.choose(&[0, 0, 0, 1, 2])
    } else {
        *random.choose(&NUMBERS)
    }
}

/// Mostly one that a launch takes, as there are six.
fn extent(random: &mut Random) -> u64 {
    if random.once_in(20) {
        *random.choose(&EXTENTS)
    } else {
        *random.choose(&[1, 1, 1, 2])
    }
}

type Call = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u32;

unsafe extern "C" fn callback(_argument: *mut c_void) {}

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
    let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, &mut status) };
    assert!(code.result().is_ok() && !address.is_null(), "{name:?} is not there");
    // SAFETY: an entry point takes integers and pointers only. Both calling conventions of the machines that this runs on pass the
    // first of them in registers, the others in 8-byte slots that the caller removes: more and wider ones than it reads do no harm.
    unsafe { std::mem::transmute::<*mut c_void, Call>(address) }
}

/// A code's name, which every `CUresult` has.
fn name_of(code: u32) -> Option<&'static str> {
    type GetErrorName = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
    // SAFETY: this is the function's type with the enumeration as the number that it is in C.
    let function = unsafe { std::mem::transmute::<Call, GetErrorName>(address_of(c"cuGetErrorName")) };
    let mut text = std::ptr::null();
    // SAFETY: the pointer is valid for the call; names live as long as the driver.
    unsafe { (function(code, &mut text) == 0).then(|| CStr::from_ptr(text).to_str().ok())? }
}

/// Every refusal is a line on stderr, and there are very many. What the test says is not lost by it: the harness collects that.
fn silence() {
    let nowhere = File::options().write(true).open("/dev/null").expect("/dev/null");
    // SAFETY: both are open files; only what the driver's own library and this program write to stderr changes its way.
    assert!(unsafe { libc::dup2(nowhere.as_raw_fd(), 2) } >= 0);
}

impl Caller {
    fn new() -> Self {
        emulated().expect("the emulated driver");
        // Whoever names a case looks for what is wrong with it.
        if std::env::var_os("LORA_EMULATOR_FUZZ_FIRST").is_none() {
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
        let (mut context, mut module, mut stream, mut event) = (null_mut(), null_mut(), null_mut(), null_mut());
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
            sys::cuStreamCreate(&mut stream, 1).result().expect("a stream");
            sys::cuEventCreate(&mut event, 0).result().expect("an event");
        }
        self.context = context;
        self.addresses.clear();
        self.dead = self.handles.iter_mut().filter_map(Vec::pop).chain([0]).collect();
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

    fn handle(&self, random: &mut Random, kind: Kind) -> u64 {
        let made_up = *random.choose(&[0, 1, 2, 0x10, u64::MAX, 0xdead_beef]);
        let kind = if random.once_in(16) {
            random.below(KINDS)
        } else {
            kind as usize
        };
        match random.below(24) {
            0 => made_up,
            1 => random.choose(&self.dead).wrapping_add(random.below(64) as u64),
            2 => *random.choose(&self.dead),
            _ => self.handles[kind]
                .get(random.below(self.handles[kind].len().max(1)))
                .copied()
                .unwrap_or(made_up),
        }
    }

    fn address(&self, random: &mut Random) -> u64 {
        let live = random.choose(&self.addresses);
        match random.below(8) {
            0 => *random.choose(&[0, 1, 1 << 40, (1 << 40) - 1, (1 << 46) - 1, 1 << 47, u64::MAX]),
            1 => live.wrapping_add(random.below(1 << 23) as u64),
            2 => live
                .wrapping_add(random.below(LARGEST_ALLOCATION + 8) as u64)
                .wrapping_sub(4),
            _ => *live,
        }
    }

    fn bytes(&mut self, random: &mut Random) -> u64 {
        if random.once_in(20) {
            0
        } else {
            self.bytes.as_mut_ptr().expose_provenance() as u64
        }
    }

    /// Parameters of a kernel: mostly addresses, and small numbers.
    fn fill_values(&mut self, random: &mut Random) {
        for index in 0..ROOM {
            self.values[index] = if random.once_in(3) {
                *random.choose(&NUMBERS)
            } else {
                self.address(random)
            };
            self.pointers[index] = (&raw const self.values[index]).expose_provenance() as u64;
        }
    }

    fn parameters(&mut self, random: &mut Random) -> u64 {
        if random.once_in(20) {
            return 0;
        }
        self.fill_values(random);
        self.pointers.as_ptr().expose_provenance() as u64
    }

    fn extra(&mut self, random: &mut Random) -> u64 {
        self.fill_values(random);
        self.structure[0] = *random.choose(&[0, 4, 8, 16, 28, 32, 48, 512]);
        let buffer = self.values.as_ptr().expose_provenance() as u64;
        let size = self.structure.as_ptr().expose_provenance() as u64;
        self.extra = *random.choose(&[
            [1, buffer, 2, size, 0],
            [2, size, 1, buffer, 0],
            [1, buffer, 0, 0, 0],
            [0; 5],
            [7; 5],
        ]);
        self.extra.as_ptr().expose_provenance() as u64
    }

    fn extents(random: &mut Random) -> [u64; 6] {
        std::array::from_fn(|_| extent(random))
    }

    /// Six extents and the shared memory's size as seven 32-bit numbers, from 64-bit word `at` on.
    fn put_shape(&mut self, random: &mut Random, at: usize) {
        let [gx, gy, gz, bx, by, bz] = Self::extents(random).map(|extent| extent & 0xffff_ffff);
        let shared = number(random) & 0xffff_ffff;
        let words = [gx | gy << 32, gz | bx << 32, by | bz << 32, shared];
        self.structure[at..at + 4].copy_from_slice(&words);
    }

    fn config(&mut self, random: &mut Random) -> u64 {
        self.put_shape(random, 0);
        self.structure[4] = self.handle(random, Stream);
        let attributes = random.below(3) as u64;
        self.structure[5] = self.structure[8..].as_ptr().expose_provenance() as u64;
        self.structure[6] = attributes;
        for word in 8..32 {
            self.structure[word] = *random.choose(&NUMBERS) & 0xf;
        }
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn node_parameters(&mut self, random: &mut Random) -> u64 {
        self.structure[0] = self.handle(random, Function);
        self.put_shape(random, 1);
        self.structure[5] = self.parameters(random);
        self.structure[6..9].fill(0);
        self.structure.as_ptr().expose_provenance() as u64
    }

    fn image(&mut self, random: &mut Random) -> u64 {
        match random.below(5) {
            4 => {
                self.fatbin = fatbin::damaged(random);
                // So short that there are at least the bytes that tell what it is.
                self.fatbin.resize(self.fatbin.len().max(64), 0);
                self.fatbin.as_ptr().expose_provenance() as u64
            }
            0 => random.choose(&fatbin::FATBINS).as_ptr().expose_provenance() as u64,
            1 => {
                let text = ptx::damaged(random).replace('\0', " ");
                self.image = CString::new(text).expect("no NUL is left");
                self.image.as_ptr().expose_provenance() as u64
            }
            2 => c"".as_ptr().expose_provenance() as u64,
            _ => 0,
        }
    }

    fn argument(&mut self, random: &mut Random, kind: Arg, slot: usize) -> u64 {
        let room = (&raw mut self.out[slot * ROOM]).expose_provenance() as u64;
        match kind {
            Handle(kind) | Doomed(kind) => self.handle(random, kind),
            Number => number(random),
            Device => *random.choose(&[0, 0, 0, 0, 0, 1, u64::MAX]),
            Address => self.address(random),
            Bytes => self.bytes(random),
            Out | NewHandle(_) | NewAddress | NewHost => {
                self.out[slot * ROOM] = random.below(ROOM) as u64;
                if random.once_in(20) { 0 } else { room }
            }
            HostMemory => match self.hosts.last() {
                Some(&host) if random.once_in(2) => host,
                _ => self.bytes(random),
            },
            Allocation => *random.choose(&[
                0,
                1,
                4,
                100,
                4095,
                LARGEST_ALLOCATION as u64,
                1 << 62,
                i64::MAX as u64,
                u64::MAX,
            ]),
            Unified if random.once_in(2) => self.bytes.as_mut_ptr().expose_provenance() as u64,
            // Below and above the device's addresses a copy takes any for one of the host.
            Unified => *random.choose(&self.addresses) + random.below(1 << 23) as u64,
            Few => random.below(ROOM) as u64,
            Name => random.choose(&NAMES).as_ptr().expose_provenance() as u64,
            Image => self.image(random),
            Extent => extent(random),
            Parameters => self.parameters(random),
            Extra => self.extra(random),
            Config => self.config(random),
            NodeParameters => self.node_parameters(random),
            Callback if random.once_in(4) => 0,
            Callback => (callback as *const c_void).expose_provenance() as u64,
            Null => 0,
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
        let mut arguments = [0; 11];
        for (slot, &kind) in kinds.iter().enumerate() {
            arguments[slot] = self.argument(&mut random, kind, slot);
        }
        let [a, b, c, d, e, f, g, h, i, j, k] = arguments;
        // SAFETY: handles, numbers and device addresses may be anything; pointers to the host are null or have the room that is needed.
        let code = unsafe { call(a, b, c, d, e, f, g, h, i, j, k) };
        assert!(
            code != 999,
            "{name:?} panicked, given {kinds:?}",
            kinds = &arguments[..kinds.len()]
        );
        let told = name_of(code).unwrap_or_else(|| panic!("{name:?} gave {code}, which is no CUresult"));
        if code == 0 {
            self.keep(kinds, &arguments);
        }
        // A fault ends its context, and a destroyed one takes everything with it: neither is worth more cases.
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
            sys::cuCtxSetCurrent(self.context).result().is_ok() && sys::cuCtxGetFlags(&mut flags).result().is_ok()
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
        assert!(outcomes.contains_key(code), "no call gave {code}: {outcomes:?}");
    }
}
