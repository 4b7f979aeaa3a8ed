//! Launches side by side: kernels that wait for other streams' work, and dependent launches that
//! start early. Each case runs in a process of its own, under every setting of streams.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::CUlaunchAttributeID as Id;
use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::{own_context, ran_case, run};

/// `wait` waits until the first word is at least `value`, then adds 1 to the second. `set` adds 1
/// to the first word. `first` writes 1 to the fourth word of its block, allows its dependents,
/// works on and writes the block's number + 10 over it. `read` copies the fourth words, `read_late`
/// does so behind `griddepcontrol.wait`.
const PTX: &str = ".version 8.0
.target sm_90
.address_size 64
.visible .entry wait(.param .u64 out, .param .u32 value) {
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [value];
AGAIN:
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra AGAIN;
    red.global.add.u32 [%rd1+4], 1;
    ret;
}
.visible .entry set(.param .u64 out) {
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    red.release.gpu.global.add.u32 [%rd1], 1;
    ret;
}
.visible .entry first(.param .u64 out) {
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %ctaid.x;
    mad.wide.u32 %rd2, %r1, 4, %rd1;
    st.global.u32 [%rd2+16], 1;
    griddepcontrol.launch_dependents;
    mov.u32 %r2, 100;
WORK:
    sub.u32 %r2, %r2, 1;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra WORK;
    add.u32 %r1, %r1, 10;
    st.global.u32 [%rd2+16], %r1;
    ret;
}
.visible .entry read(.param .u64 out) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %ctaid.x;
    mad.wide.u32 %rd2, %r1, 4, %rd1;
    ld.global.u32 %r1, [%rd2+16];
    st.global.u32 [%rd2+48], %r1;
    ret;
}
.visible .entry read_late(.param .u64 out) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    griddepcontrol.launch_dependents;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %ctaid.x;
    mad.wide.u32 %rd2, %r1, 4, %rd1;
    griddepcontrol.wait;
    ld.global.u32 %r1, [%rd2+16];
    st.global.u32 [%rd2+48], %r1;
    ret;
}
";

const WORDS: usize = 20;
const BLOCKS: u32 = 8;

struct Kernels {
    /// The handle's address, which threads may share.
    module: usize,
    out: u64,
}

impl Kernels {
    fn new() -> Self {
        let text = CString::new(PTX).expect("text");
        // SAFETY: the image is NUL-terminated text, and the memory has the size that is filled.
        unsafe {
            let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
            let out = result::malloc_sync(4 * WORDS).expect("memory");
            result::memset_d8_sync(out, 0, 4 * WORDS).expect("a fill");
            // A fill need not be over when its call returns.
            result::ctx::synchronize().expect("the context does well");
            Kernels {
                module: module.expose_provenance(),
                out,
            }
        }
    }

    fn function(&self, name: &str) -> sys::CUfunction {
        let name = CString::new(name).expect("a name");
        let module = std::ptr::with_exposed_provenance_mut(self.module);
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(module, name) }.expect("a kernel")
    }

    fn launch(&self, name: &str, grid: u32, value: u32, stream: sys::CUstream, early: bool) {
        let code = self.try_launch(name, grid, value, stream, early);
        assert_eq!(code, Code::CUDA_SUCCESS, "{name}");
    }

    fn try_launch(
        &self,
        name: &str,
        grid: u32,
        value: u32,
        stream: sys::CUstream,
        early: bool,
    ) -> Code {
        let (mut out, mut value) = (self.out, value);
        let mut parameters: [*mut c_void; 2] = [(&raw mut out).cast(), (&raw mut value).cast()];
        // SAFETY: all-zero is a valid value of these C structures; what they point to outlives the
        // call.
        unsafe {
            let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
            attribute.id = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.cooperative = i32::from(early);
            let mut config: sys::CUlaunchConfig = std::mem::zeroed();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (grid, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (1, 1, 1);
            config.hStream = stream;
            (config.attrs, config.numAttrs) = (&mut attribute, 1);
            let function = self.function(name);
            sys::cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), null_mut())
        }
    }

    fn words(&self) -> Vec<u32> {
        let mut words = vec![0; WORDS];
        // SAFETY: the memory has that many words.
        unsafe { result::memcpy_dtoh_sync(&mut words, self.out) }.expect("a copy");
        words
    }
}

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, 1) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

fn synchronize(stream: sys::CUstream) -> Code {
    // SAFETY: the stream lives.
    unsafe { sys::cuStreamSynchronize(stream) }
}

fn another_streams_launch() {
    let (kernels, a, b) = (Kernels::new(), stream(), stream());
    kernels.launch("wait", 3, 2, a, false);
    kernels.launch("wait", 1, 1, a, false);
    kernels.launch("set", 2, 0, b, false);
    assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    assert_eq!(kernels.words()[..2], [2, 4]);
}

fn two_kernels_take_turns() {
    let (kernels, a, b) = (Kernels::new(), stream(), stream());
    for step in 0..3 {
        kernels.launch("wait", 1, 2 * step + 1, a, false);
        kernels.launch("set", 1, 0, a, false);
    }
    for step in 0..3 {
        kernels.launch("wait", 1, 2 * step, b, false);
        kernels.launch("set", 1, 0, b, false);
    }
    assert_eq!(synchronize(b), Code::CUDA_SUCCESS);
    assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    assert_eq!(kernels.words()[..2], [6, 6]);
}

fn the_hosts_fill() {
    let (kernels, a, b) = (Kernels::new(), stream(), stream());
    kernels.launch("wait", 2, 1, a, false);
    // SAFETY: the memory has that word.
    unsafe { result::memset_d8_async(kernels.out, 1, 1, b) }.expect("a fill");
    assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    assert_eq!(kernels.words()[..2], [1, 2]);
}

fn another_threads_launch() {
    let context = own_context();
    let (kernels, a) = (Kernels::new(), stream());
    kernels.launch("wait", 1, 1, a, false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            context.bind_to_thread().expect("a context");
            kernels.launch("set", 1, 0, stream(), false);
            // Late streams do it when somebody waits.
            // SAFETY: there is a context.
            let code = unsafe { sys::cuCtxSynchronize() };
            assert_eq!(code, Code::CUDA_SUCCESS);
        });
        assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    });
    assert_eq!(kernels.words()[..2], [1, 1]);
}

fn nobody() {
    let (kernels, a, b) = (Kernels::new(), stream(), stream());
    kernels.launch("wait", 1, 2, a, false);
    kernels.launch("set", 1, 0, b, false);
    assert_eq!(synchronize(b), Code::CUDA_SUCCESS, "b waits for nothing");
    assert_eq!(synchronize(a), Code::CUDA_ERROR_LAUNCH_FAILED);
}

/// What the dependent launch reads, which is 1 where it comes too early.
fn dependent(name: &str, early: bool) -> Vec<u32> {
    let (kernels, a) = (Kernels::new(), stream());
    kernels.launch("first", BLOCKS, 0, a, false);
    kernels.launch(name, BLOCKS, 0, a, early);
    assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    let words = kernels.words();
    let done: Vec<u32> = (10..10 + BLOCKS).collect();
    assert_eq!(words[4..12], done, "the first kernel has ended");
    words[12..20].to_vec()
}

fn a_dependent_launch_without_a_wait() {
    // Some blocks may have ended before the last one allows it.
    let read = dependent("read", true);
    assert!(read.contains(&1), "{read:?}");
}

fn a_dependent_launch_that_waits() {
    let done: Vec<u32> = (10..10 + BLOCKS).collect();
    assert_eq!(dependent("read_late", true), done);
    assert_eq!(dependent("read_late", false), done);
    assert_eq!(dependent("read", false), done, "a stream's order");
}

/// With checks: the dependent launch's reads race with the first one's writes unless it waits.
fn a_dependent_launch_races() {
    dependent("read_late", true);
    dependent("read", false);
    let (kernels, a) = (Kernels::new(), stream());
    kernels.launch("first", BLOCKS, 0, a, false);
    // Whether the launch itself says so depends on when streams do their work.
    kernels.try_launch("read", BLOCKS, 0, a, true);
    assert_eq!(synchronize(a), Code::CUDA_ERROR_LAUNCH_FAILED);
}

fn a_chain_of_dependent_launches() {
    let (kernels, a) = (Kernels::new(), stream());
    kernels.launch("first", BLOCKS, 0, a, false);
    for _ in 0..3 {
        kernels.launch("read_late", BLOCKS, 0, a, true);
    }
    // `first` waits for nothing, so it has to follow in the stream's order: it writes what the
    // chain's last launch reads after it has allowed its dependents.
    kernels.launch("first", BLOCKS, 0, a, false);
    assert_eq!(synchronize(a), Code::CUDA_SUCCESS);
    let done: Vec<u32> = (10..10 + BLOCKS).collect();
    assert_eq!(kernels.words()[4..12], done);
    assert_eq!(kernels.words()[12..20], done);
}

fn a_launch_that_nothing_follows_ends() {
    let (kernels, a, b) = (Kernels::new(), stream(), stream());
    kernels.launch("first", BLOCKS, 0, a, false);
    kernels.launch("set", 1, 0, b, false);
    let mut event = null_mut();
    // SAFETY: the handles are live.
    unsafe {
        assert_eq!(sys::cuEventCreate(&mut event, 2), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuEventRecord(event, a), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuStreamWaitEvent(b, event, 0), Code::CUDA_SUCCESS);
    }
    kernels.launch("read", BLOCKS, 0, b, false);
    assert_eq!(synchronize(b), Code::CUDA_SUCCESS);
    let done: Vec<u32> = (10..10 + BLOCKS).collect();
    assert_eq!(kernels.words()[12..20], done);
}

const CASES: [(&str, fn()); 10] = [
    ("launch", another_streams_launch),
    ("turns", two_kernels_take_turns),
    ("fill", the_hosts_fill),
    ("thread", another_threads_launch),
    ("nobody", nobody),
    ("without", a_dependent_launch_without_a_wait),
    ("waits", a_dependent_launch_that_waits),
    ("races", a_dependent_launch_races),
    ("chain", a_chain_of_dependent_launches),
    ("alone", a_launch_that_nothing_follows_ends),
];

#[test]
fn launches_run_side_by_side() {
    if ran_case(&CASES) {
        return;
    }
    let test = "side_by_side::launches_run_side_by_side";
    let settings = [
        ("now", "fair"),
        ("now", "seed:1"),
        ("now", "last-block-first"),
        ("latest", "fair"),
        ("latest-kernels", "seed:2"),
    ];
    for (index, (streams, schedule)) in settings.into_iter().enumerate() {
        // A deadlock takes two seconds, in which another thread of the program might help.
        let cases = CASES
            .iter()
            .filter(|(name, _)| index == 0 || *name != "nobody");
        for (name, _) in cases {
            // Without checks the values tell what ran when.
            let checks = if *name == "without" { "off" } else { "on" };
            let variables = [
                ("PTX_EMULATOR_DEVICE", "h100"),
                ("PTX_EMULATOR_STREAMS", streams),
                ("PTX_EMULATOR_SCHEDULE", schedule),
                ("PTX_EMULATOR_CHECKS", checks),
            ];
            let (success, output) = run(test, name, &variables);
            assert!(
                success && output.contains("1 passed"),
                "{name}, {streams}, {schedule}: {output}"
            );
        }
    }
}
