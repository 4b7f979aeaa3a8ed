//! The kernels of candle-kernels 0.11, a crate that knows nothing of this one, against the
//! definitions of what they compute.

mod conv;
mod elementwise;
mod indexing;
mod reduce;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gpu::{Arg, Buffer, Gpu, Module, Shape};
use super::numbers::Type;
use super::outcome::{Expected, Outcome};

/// The floating-point types that every floating-point kernel exists in.
const FLOATS: [Type; 4] = [Type::F32, Type::F64, Type::F16, Type::Bf16];
/// The types of the kernels that don't need floating point.
const ALL: [Type; 7] = [
    Type::F32,
    Type::F64,
    Type::F16,
    Type::Bf16,
    Type::U8,
    Type::U32,
    Type::I64,
];
/// The types of indices.
const INDICES: [Type; 3] = [Type::U8, Type::U32, Type::I64];

/// Runs every kernel known here.
pub fn run(folder: &Path) -> Result<Vec<Result<Outcome, String>>, String> {
    let mut suite = Suite {
        gpu: Gpu::new()?,
        folder: folder.to_owned(),
        ptx: String::new(),
        module: None,
        results: Vec::new(),
    };
    elementwise::run(&mut suite);
    reduce::run(&mut suite);
    indexing::run(&mut suite);
    conv::run(&mut suite);
    Ok(suite.results)
}

struct Suite {
    gpu: Arc<Gpu>,
    folder: PathBuf,
    /// The PTX of the source file whose kernels are being run.
    ptx: String,
    /// That PTX, loaded.
    module: Option<Module>,
    results: Vec<Result<Outcome, String>>,
}

/// One kernel to run.
struct Case {
    kernel: String,
    ty: Type,
    shape: Shape,
    /// What the input is, where one kernel is run on several.
    view: &'static str,
}

impl Case {
    fn new(kernel: String, ty: Type, shape: Shape) -> Case {
        Case {
            kernel,
            ty,
            shape,
            view: "",
        }
    }
}

impl Suite {
    /// Runs the kernels of one source file; a module that can't be loaded is a failure of all its
    /// kernels.
    fn module(&mut self, file: &str, kernels: impl FnOnce(&mut Self)) {
        let path = self.folder.join(format!("{file}.ptx"));
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
        let loaded = text.and_then(|ptx| {
            self.ptx = ptx;
            self.gpu.load(&self.ptx)
        });
        match loaded {
            Ok(module) => {
                self.module = Some(module);
                kernels(self);
            }
            Err(error) => self.results.push(Err(format!("candle {file}: {error}"))),
        }
    }

    /// A kernel that failed has broken its context: the next one gets a new one.
    fn start_anew(&mut self) -> Result<(), String> {
        self.module = None;
        self.gpu = Gpu::new()?;
        self.module = Some(self.gpu.load(&self.ptx)?);
        Ok(())
    }

    /// Launches a kernel whose arguments `arguments` makes, and compares the buffer that it returns
    /// with what is expected.
    fn check(
        &mut self,
        case: &Case,
        expected: &[Expected],
        arguments: impl FnOnce(&Gpu, &mut Arguments) -> Result<Buffer, String>,
    ) {
        let result = (|| {
            let module = self.module.as_ref().ok_or("the module is not loaded")?;
            let mut given = Arguments::default();
            let out = arguments(&self.gpu, &mut given)?;
            module.launch(&case.kernel, case.shape, &given.list)?;
            let program = format!("{}{}", case.kernel, case.view);
            Outcome::of(program, case.ty.name(), &self.gpu.download(&out)?, expected)
        })();
        let result = result.or_else(|error: String| {
            self.start_anew()?;
            Err(error)
        });
        let named = result.map(|outcome| outcome.from("candle"));
        self.results
            .push(named.map_err(|error| format!("candle {}: {error}", case.kernel)));
    }
}

/// The arguments of a launch, and the buffers they point to.
#[derive(Default)]
struct Arguments {
    list: Vec<Arg>,
    kept: Vec<Buffer>,
}

impl Arguments {
    fn push(&mut self, argument: Arg) {
        self.list.push(argument);
    }

    fn sizes<const N: usize>(&mut self, sizes: [usize; N]) {
        self.list.extend(sizes.map(Arg::size));
    }

    /// Uploads an input.
    fn input(&mut self, gpu: &Gpu, ty: Type, values: &[f64]) -> Result<(), String> {
        let buffer = gpu.upload(ty, values)?;
        self.list.push(buffer.arg());
        self.kept.push(buffer);
        Ok(())
    }

    /// Uploads dimensions and strides, which are `size_t` on the device.
    fn info(&mut self, gpu: &Gpu, parts: &[&[usize]]) -> Result<(), String> {
        let flat: Vec<f64> = parts
            .iter()
            .flat_map(|part| part.iter().map(|&n| n as f64))
            .collect();
        self.input(gpu, Type::I64, &flat)
    }

    /// The buffer for the result.
    fn output(&mut self, gpu: &Gpu, ty: Type, count: usize) -> Result<Buffer, String> {
        self.in_place(gpu, ty, &vec![ty.junk(); count])
    }

    /// A buffer that is read and written.
    fn in_place(&mut self, gpu: &Gpu, ty: Type, values: &[f64]) -> Result<Buffer, String> {
        let buffer = gpu.upload(ty, values)?;
        self.list.push(buffer.arg());
        Ok(buffer)
    }
}

/// Values that must come out exactly.
fn exactly(values: impl IntoIterator<Item = f64>) -> Vec<Expected> {
    values
        .into_iter()
        .map(|value| Expected { value, bound: 0.0 })
        .collect()
}

/// Strides of a dense tensor.
fn dense<const N: usize>(dims: [usize; N]) -> [usize; N] {
    let mut strides = [1; N];
    for d in (1..N).rev() {
        strides[d - 1] = strides[d] * dims[d];
    }
    strides
}
