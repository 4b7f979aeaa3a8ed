//! PTX that the program changes as its modules are loaded.

use std::sync::Arc;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use ptx_emulator::counters::Control;

use super::process::{alone, own_context};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const SUM: &str = "add.s32 \t%r4, %r3, %r2;";

fn run(context: &Arc<CudaContext>) -> Vec<i32> {
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let mut memory = stream.alloc_zeros::<i32>(4).expect("memory");
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (4, 1, 1),
        shared_mem_bytes: 0,
    };
    let kernel = module.load_function("globals").expect("a kernel");
    // SAFETY: the kernel takes one pointer, to four words.
    let launched = unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&mut memory)
            .launch(config)
    };
    launched.expect("it runs");
    stream.clone_dtoh(&memory).expect("a copy")
}

#[test]
fn a_module_is_what_the_program_makes_of_it() {
    alone("rewrite::a_module_is_what_the_program_makes_of_it", || {
        let context = own_context();
        let control = Control::loaded().expect("it is loaded");
        assert_eq!(run(&context), [10, 8, 11, 8]);
        let difference = |ptx: &str| {
            assert_eq!(ptx.matches(SUM).count(), 1);
            Some(ptx.replace(SUM, &SUM.replace("add", "sub")))
        };
        control.rewrite(difference).expect("a setting");
        let changed = run(&context);
        assert_ne!(changed, [10, 8, 11, 8]);
        control.rewrite(|_| None).expect("a setting");
        assert_eq!(run(&context), [10, 8, 11, 8], "as it is");
    });
}
