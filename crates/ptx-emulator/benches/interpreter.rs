//! How long the interpreter takes on this machine's CPU. Nothing here says how fast a kernel is on
//! a GPU.
//!
//! The GEMM is Triton's (`tests/conformance/triton/matmul_bf16.ptx`), a kernel that nobody tuned
//! for this interpreter.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::counters::Blocks;
use ptx_emulator::decode::Program;
use ptx_emulator::device::{A100, Numerics};
use ptx_emulator::exec::{LaunchConfig, LaunchOptions, LaunchReport, LoadedModule};
use ptx_emulator::l2::DramModel;
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

const MATMUL: &str = include_str!("../tests/conformance/triton/matmul_bf16.ptx");

/// Tile of `MATMUL`, its threads and its shared memory: `tests/conformance/triton/manifest.txt`.
const TILE: [u32; 2] = [64, 64];
const THREADS: u32 = 128;
const SHARED: u32 = 16_384;

/// A loop of integer and float operations.
const ALU: &str =
    "add.u32 %a, %a, %i; mad.lo.s32 %b, %a, 3, %b; xor.b32 %a, %a, %b; shl.b32 %b, %b, 1;
    fma.rn.f32 %f, %f, %f, %g; add.f32 %g, %g, %f; selp.b32 %b, %a, %b, %p; and.b32 %a, %a, %b;";

/// A loop of conflict-free accesses to shared memory: four loads, four stores.
const SHARED_MEMORY: &str =
    "ld.shared.u32 %a, [%s]; st.shared.u32 [%s], %b; ld.shared.u32 %b, [%s+128]; st.shared.u32 [%s+128], %a;
    ld.shared.v2.u32 {%a, %b}, [%w]; st.shared.v2.u32 [%w], {%b, %a}; ld.shared.u32 %a, [%s]; st.shared.u32 [%s], %a;";

/// The same where lanes lie neither side by side nor in order, eight bytes apart and backwards:
/// `%r` of `loop_kernel`.
const SCATTERED: &str =
    "ld.shared.u32 %a, [%r]; st.shared.u32 [%r], %b; ld.shared.u32 %b, [%r+4]; st.shared.u32 [%r+4], %a;
    ld.shared.v2.u32 {%a, %b}, [%r]; st.shared.v2.u32 [%r], {%b, %a}; ld.shared.u32 %a, [%r]; st.shared.u32 [%r], %a;";

/// A loop of accesses to global memory, half of them side by side (two of these four words wide),
/// half scattered as above.
const GLOBAL_MEMORY: &str = "ld.global.u32 %a, [%gs]; st.global.u32 [%gs], %b; ld.global.v4.u32 {%a, %b, %c, %d}, [%gw];
    st.global.v4.u32 [%gw], {%b, %a, %d, %c}; ld.global.u32 %b, [%gr]; st.global.u32 [%gr], %a; ld.global.v2.u32 {%a, %b}, [%gr];
    st.global.v2.u32 [%gr], {%b, %a};";

/// A loop of accesses to shared memory by the even lanes alone.
const HALF_A_WARP: &str = "@%e ld.shared.u32 %a, [%s]; @%e st.shared.u32 [%s], %b; @%e ld.shared.u32 %b, [%s+128];
    @%e st.shared.u32 [%s+128], %a; @%e ld.shared.v2.u32 {%a, %b}, [%w]; @%e st.shared.v2.u32 [%w], {%b, %a};
    @%e ld.shared.u32 %a, [%s]; @%e st.shared.u32 [%s], %a;";

fn loop_kernel(body: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u32 count, .param .u64 memory) {{
            .reg .pred %p, %e;
            .reg .b32 %i, %n, %a, %b, %c, %d, %s, %w, %r, %t;
            .reg .b64 %m, %gs, %gw, %gr;
            .reg .f32 %f, %g;
            .shared .align 16 .b8 tile[4096];
            ld.param.u32 %n, [count];
            mov.u32 %a, %tid.x;
            mov.u32 %t, tile;
            and.b32 %b, %a, 31;
            mad.lo.s32 %s, %b, 4, %t;
            mad.lo.s32 %w, %b, 8, %t;
            xor.b32 %r, %b, 31;
            mad.lo.s32 %r, %r, 8, %t;
            and.b32 %c, %a, 1;
            setp.eq.u32 %e, %c, 0;
            // Each thread has 16 bytes of global memory, each warp shares 512 of shared memory.
            mov.u32 %d, %ctaid.x;
            mad.lo.s32 %d, %d, 128, %a;
            ld.param.u64 %m, [memory];
            mad.wide.u32 %gw, %d, 16, %m;
            sub.u32 %c, %d, %b;
            mad.wide.u32 %m, %c, 16, %m;
            mad.wide.u32 %gs, %b, 4, %m;
            xor.b32 %c, %b, 31;
            mad.wide.u32 %gr, %c, 8, %m;
            mov.f32 %f, 0f3F000000;
            mov.f32 %g, 0f3E800000;
            mov.u32 %i, 0;
            again: {body}
            add.u32 %i, %i, 1;
            setp.lt.u32 %p, %i, %n;
            @%p bra again;
            ret;
        }}"
    )
}

struct Machine {
    memory: Arc<DeviceMemory>,
    module: LoadedModule,
    kernel: String,
}

impl Machine {
    fn new(ptx: &str) -> Machine {
        let memory = Arc::new(DeviceMemory::new(1 << 30));
        let program =
            Program::decode(&parse_module(ptx).expect("PTX")).expect("known instructions");
        let kernel = program.kernels().next().expect("a kernel").name.clone();
        let module = LoadedModule::load(program, &memory).expect("room");
        Machine {
            memory,
            module,
            kernel,
        }
    }

    fn launch(&self, config: &LaunchConfig, options: &LaunchOptions) -> LaunchReport {
        let done = self.module.launch(&self.kernel, config, &A100, options);
        done.unwrap_or_else(|fault| panic!("{fault}"))
    }
}

fn one_core() -> LaunchOptions {
    LaunchOptions {
        workers: 1,
        checks: false,
        ..LaunchOptions::default()
    }
}

/// Warp instructions a second, on one core.
fn loops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("interpreter on one CPU core (not a GPU)");
    for (name, body) in [
        ("alu loop", ALU),
        ("shared memory loop", SHARED_MEMORY),
        ("scattered shared memory loop", SCATTERED),
        ("half a warp's shared memory loop", HALF_A_WARP),
        ("global memory loop", GLOBAL_MEMORY),
    ] {
        let machine = Machine::new(&loop_kernel(body));
        let memory = machine.memory.alloc(4 * 128 * 16).expect("room");
        let mut params = 2000_u32.to_le_bytes().to_vec();
        params.extend([0; 4]);
        params.extend(memory.to_le_bytes());
        let config = LaunchConfig {
            grid: [4, 1, 1],
            block: [128, 1, 1],
            dynamic_shared: 0,
            params,
            ..LaunchConfig::default()
        };
        for (suffix, count) in [("", false), (", counters on", true)] {
            let options = LaunchOptions {
                count,
                ..one_core()
            };
            let instructions = machine.launch(&config, &options).warp_instructions;
            group.throughput(Throughput::Elements(instructions));
            group.bench_function(format!("{name}{suffix}"), |bencher| {
                bencher.iter(|| machine.launch(&config, &options));
            });
        }
    }
    group.finish();
}

/// One launch of a square product.
fn gemm_config(machine: &Machine, size: u32) -> LaunchConfig {
    let bytes = 2 * u64::from(size) * u64::from(size);
    let [a, b, c] = [0; 3].map(|_: u8| {
        let va = machine.memory.alloc(bytes).expect("room");
        // Small normal numbers: 0x3c00 is 0.0078125 in bf16.
        machine
            .memory
            .fill(va, &[0x00, 0x3c], bytes / 2)
            .expect("in bounds");
        va
    });
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|va| va.to_le_bytes()).collect();
    params.extend([size; 6].iter().flat_map(|n| n.to_le_bytes()));
    // Two pointers to scratch memory that the kernel does not use.
    params.extend([0; 16]);
    LaunchConfig {
        grid: [size.div_ceil(TILE[0]) * size.div_ceil(TILE[1]), 1, 1],
        block: [THREADS, 1, 1],
        dynamic_shared: SHARED,
        params,
        ..LaunchConfig::default()
    }
}

fn gemms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bf16 GEMM interpreted on all CPU cores (not a GPU)");
    group.sample_size(10);
    let machine = Machine::new(MATMUL);
    for size in [256, 1024] {
        let config = gemm_config(&machine, size);
        for (name, numerics, checks) in [
            ("f32fma", Numerics::F32Fma, false),
            ("ampere", Numerics::Ampere, false),
            ("f32fma, checks on", Numerics::F32Fma, true),
        ] {
            let options = LaunchOptions {
                numerics,
                checks,
                ..LaunchOptions::default()
            };
            group.throughput(Throughput::Elements(
                machine.launch(&config, &options).warp_instructions,
            ));
            group.bench_function(format!("{size}^3 {name}"), |bencher| {
                bencher.iter(|| machine.launch(&config, &options));
            });
        }
    }
    // Counters alone, and with the replay of every access through L2.
    let config = gemm_config(&machine, 1024);
    for (name, dram) in [
        ("counters on", None),
        (
            "counters and DRAM traffic on",
            Some(DramModel::new(20 << 20)),
        ),
    ] {
        let options = LaunchOptions {
            checks: false,
            count: true,
            dram,
            ..LaunchOptions::default()
        };
        let instructions = machine.launch(&config, &options).warp_instructions;
        group.throughput(Throughput::Elements(instructions));
        group.bench_function(format!("1024^3 f32fma, {name}"), |bencher| {
            bencher.iter(|| machine.launch(&config, &options));
        });
    }
    // What a launch costs the host when nothing runs.
    let options = LaunchOptions {
        blocks: Blocks::None,
        ..LaunchOptions::default()
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("1024^3 with execution off", |bencher| {
        bencher.iter(|| machine.launch(&config, &options));
    });
    group.finish();
}

criterion_group!(benches, loops, gemms);
criterion_main!(benches);
