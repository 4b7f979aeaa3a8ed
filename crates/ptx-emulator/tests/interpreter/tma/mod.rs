//! Bulk copies (TMA): boxes of tensors against a reference that knows nothing of the emulator's
//! rows and swizzling functions, plain copies, reductions, groups, tensor maps that kernels change.

mod boxes;
mod clusters;
mod copies;
mod counted;
mod loads;
mod maps;
mod products;
mod reference;

use std::sync::Arc;

use ptx_emulator::decode::Program;
use ptx_emulator::device::H100;
use ptx_emulator::exec::{Fault, LaunchConfig, LaunchOptions, LaunchReport, LoadedModule};
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;
use ptx_emulator::tensor_map::TensorMap;

/// A map of a matrix, whose rows are `stride` bytes apart: columns before rows.
fn matrix_map(
    data_type: u32,
    address: u64,
    dims: [u64; 2],
    stride: u64,
    box_dims: [u32; 2],
) -> TensorMap {
    TensorMap {
        data_type,
        address,
        dims: dims.to_vec(),
        strides: vec![stride],
        box_dims: box_dims.to_vec(),
        element_strides: vec![1, 1],
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
    }
}

/// A kernel argument.
enum Arg<'a> {
    Map(&'a TensorMap),
    Pointer(u64),
    Word(i32),
}

/// A device of compute capability 9.0 with one module.
struct Machine {
    memory: Arc<DeviceMemory>,
    module: LoadedModule,
    options: LaunchOptions,
    cluster: Option<[u32; 3]>,
}

impl Machine {
    /// A module with a kernel `k` that has these parameters and this body.
    fn new(params: &str, body: &str) -> Machine {
        let ptx = format!(
            ".version 8.6\n.target sm_90a\n.address_size 64\n\
             .visible .entry k({params})\n{{\n\
             .reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<30>;\n.reg .b64 %rd<30>;\n\
             {body}\nret;\n}}\n"
        );
        Machine::of(&ptx)
    }

    fn of(ptx: &str) -> Machine {
        let memory = Arc::new(DeviceMemory::new(1 << 30));
        let parsed = parse_module(ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
        let program = Program::decode(&parsed).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
        let module = LoadedModule::load(program, &memory).expect("the variables fit");
        Machine {
            memory,
            module,
            options: LaunchOptions {
                workers: 1,
                ..LaunchOptions::default()
            },
            cluster: None,
        }
    }

    fn bytes(&self, bytes: &[u8]) -> u64 {
        let va = self.memory.alloc(bytes.len() as u64).expect("room");
        self.memory.write(va, bytes).expect("in bounds");
        va
    }

    fn words(&self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    fn read(&self, va: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(va, &mut bytes).expect("in bounds");
        bytes
    }

    fn read_words(&self, va: u64, count: usize) -> Vec<u32> {
        let bytes = self.read(va, 4 * count);
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
            .collect()
    }

    fn launch(&self, grid: u32, block: u32, args: &[Arg<'_>]) -> Result<LaunchReport, Fault> {
        let info = self.module.kernel("k").expect("the kernel exists");
        assert_eq!(info.params.len(), args.len(), "arguments");
        let mut params = vec![0; info.param_bytes as usize];
        for (param, arg) in info.params.iter().zip(args) {
            let raw = match arg {
                Arg::Map(map) => {
                    let words = map.encode().unwrap_or_else(|error| panic!("{error}"));
                    words.iter().flat_map(|word| word.to_le_bytes()).collect()
                }
                Arg::Pointer(va) => va.to_le_bytes().to_vec(),
                Arg::Word(word) => word.to_le_bytes().to_vec(),
            };
            let at = param.offset as usize;
            params[at..at + raw.len()].copy_from_slice(&raw);
        }
        let config = LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            params,
            cluster: self.cluster,
            ..LaunchConfig::default()
        };
        self.module.launch("k", &config, &H100, &self.options)
    }

    #[track_caller]
    fn run(&self, grid: u32, block: u32, args: &[Arg<'_>]) -> LaunchReport {
        match self.launch(grid, block, args) {
            Ok(report) => report,
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// Bytes that look like noise, the same for the same seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// Sets each byte of `tile` up to %r3 bytes, by all threads of the block, to that of global memory
/// at %rd1: `ld.global` and `st.shared` of words, %r4 the first of the thread's.
const FILL: &str = "
mov.u32 %r4, %tid.x;
shl.b32 %r4, %r4, 2;
FILL:
setp.ge.u32 %p1, %r4, %r3;
@%p1 bra FILLED;
cvt.u64.u32 %rd9, %r4;
add.s64 %rd9, %rd1, %rd9;
ld.global.u32 %r5, [%rd9];
mov.u32 %r6, tile;
add.u32 %r6, %r6, %r4;
st.shared.u32 [%r6], %r5;
add.u32 %r4, %r4, 128;
bra FILL;
FILLED:
fence.proxy.async;
bar.sync 0;
";

/// The other way round, to global memory at %rd2.
const EMPTY: &str = "
mov.u32 %r4, %tid.x;
shl.b32 %r4, %r4, 2;
EMPTY:
setp.ge.u32 %p1, %r4, %r3;
@%p1 bra EMPTIED;
mov.u32 %r6, tile;
add.u32 %r6, %r6, %r4;
ld.shared.u32 %r5, [%r6];
cvt.u64.u32 %rd9, %r4;
add.s64 %rd9, %rd2, %rd9;
st.global.u32 [%rd9], %r5;
add.u32 %r4, %r4, 128;
bra EMPTY;
EMPTIED:
";
