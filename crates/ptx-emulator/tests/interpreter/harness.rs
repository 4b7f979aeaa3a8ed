//! A small driver for tests: load PTX, fill buffers, launch, read back.

use std::sync::Arc;

use ptx_emulator::decode::Program;
use ptx_emulator::device::{A100, DeviceModel, H100};
use ptx_emulator::exec::{Fault, LaunchConfig, LaunchOptions, LaunchReport, LoadedModule};
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

pub struct Machine {
    pub memory: Arc<DeviceMemory>,
    pub module: LoadedModule,
    pub options: LaunchOptions,
    pub device: DeviceModel,
    pub cluster: Option<[u32; 3]>,
}

/// A kernel argument.
#[derive(Clone, Copy)]
pub enum Arg {
    Pointer(u64),
    Word(u32),
}

impl Machine {
    pub fn new(ptx: &str) -> Machine {
        let memory = Arc::new(DeviceMemory::new(1 << 30));
        let parsed = parse_module(ptx).expect("the PTX parses");
        let program = Program::decode(&parsed).expect("the PTX decodes");
        let module = LoadedModule::load(program, &memory).expect("the variables fit");
        Machine {
            memory,
            module,
            options: LaunchOptions::default(),
            device: A100,
            cluster: None,
        }
    }

    /// On a device of compute capability 9.0.
    pub fn hopper(ptx: &str) -> Machine {
        Machine {
            device: H100,
            ..Machine::new(ptx)
        }
    }

    /// A buffer holding these words.
    pub fn words(&self, words: &[u32]) -> u64 {
        self.bytes(
            &words
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let va = self.memory.alloc(bytes.len() as u64).expect("room");
        self.memory.write(va, bytes).expect("in bounds");
        va
    }

    pub fn read_words(&self, va: u64, count: usize) -> Vec<u32> {
        let bytes = self.read_bytes(va, 4 * count);
        bytes
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes(c.try_into().expect("four bytes")))
            .collect()
    }

    pub fn read_bytes(&self, va: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(va, &mut bytes).expect("in bounds");
        bytes
    }

    pub fn launch(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        args: &[Arg],
    ) -> Result<LaunchReport, Fault> {
        let info = self.module.kernel(kernel).expect("the kernel exists");
        let mut params = vec![0; info.param_bytes as usize];
        for (param, arg) in info.params.iter().zip(args) {
            let at = param.offset as usize;
            match arg {
                Arg::Pointer(va) => params[at..at + 8].copy_from_slice(&va.to_le_bytes()),
                Arg::Word(word) => params[at..at + 4].copy_from_slice(&word.to_le_bytes()),
            }
        }
        assert_eq!(info.params.len(), args.len(), "arguments of {kernel}");
        let config = LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: 0,
            cluster: self.cluster,
            params,
        };
        self.module
            .launch(kernel, &config, &self.device, &self.options)
    }

    /// Launches with one output buffer of `words` words as the first argument, and returns it.
    pub fn run(&self, kernel: &str, grid: u32, block: u32, words: usize, more: &[Arg]) -> Vec<u32> {
        let out = self.words(&vec![0xdead_beef; words]);
        let mut args = vec![Arg::Pointer(out)];
        args.extend(more);
        if let Err(fault) = self.launch(kernel, grid, block, &args) {
            panic!("{fault}");
        }
        self.read_words(out, words)
    }
}

/// Runs one line of PTX on each triple of operands. The operands are there as 64-bit %da %db %dc,
/// their low words as %ra %rb %rc, low halves as %ha %hb %hc, and %pa %pb %pc tell whether they are
/// zero. The result is the line's first register: %d, %r, %h or %p.
pub fn eval(line: &str, operands: &[[u64; 3]]) -> Vec<u64> {
    let result = match line
        .split_whitespace()
        .nth(1)
        .map(|d| d.trim_start_matches('{'))
    {
        Some(d) if d.starts_with("%d") => "mov.b64 %out, %d;",
        Some(d) if d.starts_with("%r") => "cvt.u64.u32 %out, %r;",
        Some(d) if d.starts_with("%h") => "cvt.u64.u16 %out, %h;",
        _ => "selp.b64 %out, 1, 0, %p;",
    };
    let ptx = format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 in, .param .u64 to) {{
            .reg .pred %p, %q, %pa, %pb, %pc;
            .reg .b16 %h, %h1, %ha, %hb, %hc, %t<9>;
            .reg .b32 %r, %r1, %ra, %rb, %rc, %u<9>;
            .reg .b64 %d, %d1, %da, %db, %dc, %out, %in, %to, %at;
            ld.param.u64 %in, [in];
            ld.param.u64 %to, [to];
            mov.u32 %u1, %tid.x;
            mul.wide.u32 %at, %u1, 24;
            add.s64 %in, %in, %at;
            mul.wide.u32 %at, %u1, 8;
            add.s64 %to, %to, %at;
            ld.global.b64 %da, [%in];
            ld.global.b64 %db, [%in+8];
            ld.global.b64 %dc, [%in+16];
            mov.b64 {{%ra, %u2}}, %da;
            mov.b64 {{%rb, %u2}}, %db;
            mov.b64 {{%rc, %u2}}, %dc;
            mov.b32 {{%ha, %t1}}, %ra;
            mov.b32 {{%hb, %t1}}, %rb;
            mov.b32 {{%hc, %t1}}, %rc;
            setp.ne.b64 %pa, %da, 0;
            setp.ne.b64 %pb, %db, 0;
            setp.ne.b64 %pc, %dc, 0;
            {line}
            {result}
            st.global.b64 [%to], %out;
            ret;
        }}"
    );
    let machine = Machine::new(&ptx);
    let flat: Vec<u8> = operands
        .iter()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let (input, output) = (
        machine.bytes(&flat),
        machine.bytes(&vec![0; 8 * operands.len()]),
    );
    let args = [Arg::Pointer(input), Arg::Pointer(output)];
    if let Err(fault) = machine.launch("k", 1, operands.len() as u32, &args) {
        panic!("{line}: {fault}");
    }
    let bytes = machine.read_bytes(output, 8 * operands.len());
    bytes
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes")))
        .collect()
}

/// One operand triple.
pub fn eval1(line: &str, a: u64, b: u64, c: u64) -> u64 {
    eval(line, &[[a, b, c]])[0]
}

/// Checks that the line gives the results.
#[track_caller]
pub fn check(line: &str, cases: &[(u64, u64, u64, u64)]) {
    let operands: Vec<[u64; 3]> = cases.iter().map(|&(a, b, c, _)| [a, b, c]).collect();
    for (got, case) in eval(line, &operands).into_iter().zip(cases) {
        let (a, b, c, expected) = *case;
        assert_eq!(
            got, expected,
            "{line} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {expected:#x}"
        );
    }
}
