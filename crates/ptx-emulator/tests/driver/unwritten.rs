//! Device memory that nothing has written, copied to the host.

use std::sync::Arc;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{CudaContext, CudaSlice, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::process::{case, own_context, run};

/// Thread t of those below n writes 2 t.
const PTX: &str = ".version 8.0 .target sm_80 .address_size 64
    .visible .entry double(.param .u64 out, .param .u32 n) {
        .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %d<3>;
        ld.param.u64 %d1, [out]; ld.param.u32 %r1, [n];
        mov.u32 %r2, %tid.x;
        setp.ge.u32 %p, %r2, %r1;
        @%p bra DONE;
        mad.wide.u32 %d2, %r2, 4, %d1;
        shl.b32 %r3, %r2, 1;
        st.global.u32 [%d2], %r3;
    DONE:
        ret; }";
const WORDS: usize = 33;
/// What arrives in the place of a word that nothing has written.
const NOTHING: u32 = u32::MAX;

/// An output of which a kernel writes the first `written` words.
fn output(context: &Arc<CudaContext>, written: u32) -> Result<CudaSlice<u32>, DriverError> {
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX))?;
    // SAFETY: the words are written by a kernel or looked for as unwritten ones.
    let mut out = unsafe { stream.alloc::<u32>(WORDS) }?;
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (64, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernel takes a pointer and a number of words that it points to.
    unsafe {
        stream
            .launch_builder(&module.load_function("double")?)
            .arg(&mut out)
            .arg(&written)
            .launch(config)
    }?;
    Ok(out)
}

fn expected(written: usize) -> Vec<u32> {
    (0..written as u32).map(|t| 2 * t).collect()
}

#[test]
fn a_word_that_the_kernel_forgot_fails_the_copy_and_breaks_the_context() {
    for written in [0, 1, WORDS - 1] {
        let context = own_context();
        let stream = context.default_stream();
        let out = output(&context, written as u32).expect("no fault");
        let copied = stream.clone_dtoh(&out).map_err(|error| error.0);
        let failed = Code::CUDA_ERROR_LAUNCH_FAILED;
        assert_eq!(copied, Err(failed), "{written} written");
        let after = stream.synchronize().map_err(|error| error.0);
        assert_eq!(after, Err(failed), "{written} written");
    }
}

#[test]
fn what_was_written_is_copied_without_a_finding() {
    let context = own_context();
    let stream = context.default_stream();
    let out = output(&context, WORDS as u32).expect("no fault");
    assert_eq!(stream.clone_dtoh(&out), Ok(expected(WORDS)));
    let out = output(&context, WORDS as u32 - 1).expect("no fault");
    let written = out.slice(..WORDS - 1);
    assert_eq!(stream.clone_dtoh(&written), Ok(expected(WORDS - 1)));
    // A fill writes, too.
    let mut out = output(&context, 5).expect("no fault");
    stream
        .memset_zeros(&mut out.slice_mut(5..))
        .expect("a fill");
    let mut all = expected(5);
    all.resize(WORDS, 0);
    assert_eq!(stream.clone_dtoh(&out), Ok(all));
}

#[test]
fn a_copy_on_the_device_takes_the_finding_along() {
    let context = own_context();
    let stream = context.default_stream();
    let out = output(&context, 8).expect("no fault");
    let copy = stream.clone_dtod(&out).expect("a copy");
    let copied = stream.clone_dtoh(&copy).map_err(|error| error.0);
    assert_eq!(copied, Err(Code::CUDA_ERROR_LAUNCH_FAILED));
}

#[test]
fn memory_that_no_kernel_has_is_no_number_and_no_finding() {
    let context = own_context();
    let stream = context.default_stream();
    // SAFETY: the words are only copied.
    let memory = unsafe { stream.alloc::<u32>(WORDS) }.expect("room");
    assert_eq!(stream.clone_dtoh(&memory), Ok(vec![NOTHING; WORDS]));
}

/// Not a test of its own: the next one runs it in processes with the setting.
#[test]
fn child() {
    let Some(case) = case() else {
        return;
    };
    let context = own_context();
    let out = output(&context, 8).expect("no fault");
    let copied = context.default_stream().clone_dtoh(&out);
    let mut all = expected(8);
    match case.as_str() {
        "report" => {
            let code = copied.map_err(|error| error.0);
            assert_eq!(code, Err(Code::CUDA_ERROR_LAUNCH_FAILED));
            return;
        }
        "fill" => all.resize(WORDS, NOTHING),
        _ => all.resize(WORDS, 0),
    }
    assert_eq!(copied, Ok(all));
}

#[test]
fn a_setting_says_what_becomes_of_it() {
    for rule in ["report", "fill", "off"] {
        let variables = [("PTX_EMULATOR_UNWRITTEN", rule)];
        let (success, output) = run("unwritten::child", rule, &variables);
        assert!(success && output.contains("1 passed"), "{rule}: {output}");
        let about = output.contains("uninitialised: a copy of 132 bytes to the host has 100 bytes");
        assert_eq!(about, rule == "report", "{output}");
    }
}
