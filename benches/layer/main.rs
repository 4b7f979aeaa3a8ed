//! Forward and backward of adapted layers with random data, compared with cuBLAS if it is
//! installed.
//!
//! On a GPU, it measures time between CUDA events and the FLOP/s of the whole layer. On the
//! emulated device, it measures how long the interpreter takes on this CPU, and every figure says
//! so. That says how long tests take, not how fast a kernel is.

mod baseline;
mod clock;
mod device;
mod ours;
mod record;
mod sets;
mod shapes;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use lora_kernels::{Element, Problem, Projection};
use lora_kernels_baselines::LayerWork;
use lora_kernels_baselines::cublas::products::{self, Product};
use lora_kernels_bundle::results::{MeasuredLayer, Measurement, Pass, Time, Way};
use lora_kernels_bundle::{BENCH_SHAPES, FIRST_LOOK, SUITE};
use lora_kernels_test_device::{Selection, select};

use baseline::Baseline;
use clock::Clock;
use device::{BenchDevice, Noise};
use ours::Ours;
use record::Record;
use sets::Sets;
use shapes::{Plan, Shape};

/// The number of samples of each bench.
const SAMPLES: usize = 10;

type Products = fn(&products::LayerTensors) -> Vec<Product>;

struct Bench<'a, 'b> {
    group: BenchmarkGroup<'b, Clock>,
    device: &'a BenchDevice,
    baseline: &'a Baseline,
    record: Record,
}

/// A layer whose calls use the tensors in `sets` in turn.
struct BenchCase<'a, T> {
    layer: MeasuredLayer,
    sets: &'a Sets<T>,
    work: LayerWork,
}

impl<'a, T: Element> BenchCase<'a, T> {
    fn new(shape: Shape, problem: &Problem, sets: &'a Sets<T>) -> Self {
        let Shape {
            tokens,
            in_features,
            out_features,
        } = shape;
        Self {
            layer: MeasuredLayer {
                tokens,
                in_features,
                out_features: out_features.to_vec(),
                dtype: T::DTYPE.to_string(),
            },
            sets,
            work: LayerWork::of(problem),
        }
    }

    fn flops(&self, pass: Pass, way: Way) -> u64 {
        match (way, pass) {
            (Way::Plain, _) => self.work.base_flops,
            (_, Pass::Forward) => self.work.forward.flops,
            (_, Pass::Backward) => self.work.backward.flops,
        }
    }
}

impl Bench<'_, '_> {
    fn dtype<T: Element + DeviceRepr>(&mut self, shapes: &[Shape], plan: &Plan) {
        let noise = Noise::<T>::new(self.device);
        for &shape in shapes {
            for (index, &rank) in plan.ranks.iter().enumerate() {
                if let Err(error) = self.shape(shape, rank, index == 0, plan.dropouts, &noise) {
                    eprintln!("not benched: {} {shape} r{rank}: {error}", T::DTYPE);
                }
                self.record.write();
            }
        }
    }

    fn shape<T: Element + DeviceRepr>(
        &mut self,
        shape: Shape,
        rank: usize,
        with_plain: bool,
        dropouts: &[f32],
        noise: &Noise<T>,
    ) -> Result<(), String> {
        let projections: Vec<_> = shape
            .out_features
            .iter()
            .map(|&out_features| Projection { out_features, rank })
            .collect();
        let problem = Problem::sharing_x(shape.tokens, shape.in_features, &projections, T::DTYPE);
        let problem = problem.map_err(|error| error.to_string())?;
        let sets = Sets::new(self.device, &problem, noise)?;
        let case = BenchCase::new(shape, &problem, &sets);
        if with_plain {
            self.cublas(&case, Pass::Forward, Way::Plain, products::plain_forward);
            self.cublas(&case, Pass::Backward, Way::Plain, products::plain_backward);
        }
        self.cublas(
            &case,
            Pass::Forward,
            Way::Unsloth { rank },
            products::unsloth_forward,
        );
        self.cublas(
            &case,
            Pass::Backward,
            Way::Unsloth { rank },
            products::unsloth_backward,
        );
        for &p in dropouts {
            let device = self.device;
            let ours = Ours::new(device, &problem, p, &sets)?;
            let way = Way::Ours { rank, p };
            self.measure(&case, Pass::Forward, way, |set| ours.forward(device, set));
            // Each backward reads what the forward of its set saved.
            (0..sets.layers.len()).try_for_each(|set| ours.forward(device, set))?;
            self.measure(&case, Pass::Backward, way, |set| ours.backward(device, set));
        }
        Ok(())
    }

    fn cublas<T: Element>(
        &mut self,
        case: &BenchCase<'_, T>,
        pass: Pass,
        way: Way,
        products: Products,
    ) {
        let calls: Vec<_> = case.sets.layers.iter().map(products).collect();
        let baseline = self.baseline;
        self.measure(case, pass, way, |set| baseline.run(&calls[set], T::DTYPE));
    }

    /// Times `call`, which is given the index of the set to use.
    fn measure<T: Element>(
        &mut self,
        case: &BenchCase<'_, T>,
        pass: Pass,
        way: Way,
        call: impl Fn(usize) -> Result<(), String>,
    ) {
        let flops = case.flops(pass, way);
        let mut samples = Vec::new();
        let time = match call(0) {
            Err(reason) => Some(Time::Missing(reason)),
            Ok(()) => {
                let (device, sets) = (self.device, case.sets.layers.len());
                if !device.emulated {
                    self.group.throughput(Throughput::Elements(flops));
                }
                let mut set = 0;
                let name = record::name(&case.layer, pass, way);
                self.group.bench_function(name, |bencher| {
                    bencher.iter_custom(|calls| {
                        let time = device.time(calls, || {
                            set = (set + 1) % sets;
                            // The first call succeeded, so a failure is unexpected.
                            if let Err(error) = call(set) {
                                panic!("{error}");
                            }
                        });
                        samples.push(time.as_secs_f64() * 1e9 / calls as f64);
                        time
                    });
                });
                Time::of(&samples, SAMPLES, device.emulated)
            }
        };
        if let Some(time) = time {
            self.record.add(Measurement {
                layer: case.layer.clone(),
                pass,
                way,
                flops,
                time,
            });
        }
    }
}

/// Criterion without comparisons with earlier runs, because its lines about changes don't say what
/// was timed.
fn without_history() -> Criterion {
    let home = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    let folder = home.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned());
    let folder = folder.join("emulated-layer");
    if let Err(error) = std::fs::remove_dir_all(&folder)
        && error.kind() != ErrorKind::NotFound
    {
        panic!("can't remove the last run's {}: {error}", folder.display());
    }
    Criterion::default().output_directory(&folder)
}

fn main() {
    let emulated = match select() {
        Ok(selection) => matches!(selection, Selection::Emulated { .. }),
        Err(error) => panic!("{error}"),
    };
    let device = BenchDevice::open(emulated);
    println!("device: {}", device.name);
    let mut baseline = Baseline::open(&device);
    baseline.verify::<bf16>(&device);
    baseline.verify::<f16>(&device);
    baseline.verify::<f32>(&device);
    println!("baseline: {}", baseline.describe());

    let criterion = if emulated {
        without_history()
    } else {
        Criterion::default()
    };
    let mut criterion = criterion
        .with_measurement(Clock { emulated })
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(10_000)
        .configure_from_args();
    run(&mut criterion, &device, &baseline);
    criterion.final_summary();
}

fn run(criterion: &mut Criterion<Clock>, device: &BenchDevice, baseline: &Baseline) {
    let emulated = device.emulated;
    let mut group = criterion.benchmark_group(if emulated { "emulated layer" } else { "layer" });
    // All samples have the same length, because their median is used.
    group.sampling_mode(SamplingMode::Flat);
    let mut bench = Bench {
        group,
        device,
        baseline,
        record: Record::new(emulated, baseline.describe()),
    };
    let wanted = std::env::var(BENCH_SHAPES).unwrap_or_default();
    let plan = match wanted.as_str() {
        _ if emulated => Plan::emulated(),
        "" => Plan::full(),
        FIRST_LOOK => Plan::first_look(),
        SUITE => Plan::suite(),
        other => panic!("{BENCH_SHAPES}={other} is neither {FIRST_LOOK} nor {SUITE}"),
    };
    bench.dtype::<bf16>(&plan.shapes, &plan);
    if plan.f16 {
        bench.dtype::<f16>(&plan.shapes, &plan);
    }
    bench.dtype::<f32>(&plan.in_f32, &plan);
    bench.group.finish();
}
