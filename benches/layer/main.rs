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
use lora_kernels::{DType, Element, Problem, Projection};
use lora_kernels_baselines::LayerWork;
use lora_kernels_baselines::cublas::products::{self, Product};
use lora_kernels_bundle::budget::Budget;
use lora_kernels_bundle::results::{MeasuredLayer, Measurement, Pass, Time, Way};
use lora_kernels_bundle::{BENCH_SECONDS, BENCH_SHAPES, FIRST_LOOK, SUITE};
use lora_kernels_test_device::{Selection, select};

use baseline::Baseline;
use clock::Clock;
use device::{BenchDevice, Noise};
use ours::Ours;
use record::Record;
use sets::Sets;
use shapes::{Part, Shape};

/// The number of samples of each bench.
const SAMPLES: usize = 10;

type Products = fn(&products::LayerTensors) -> Vec<Product>;

struct Bench<'a, 'b> {
    group: BenchmarkGroup<'b, Clock>,
    device: &'a BenchDevice,
    baseline: &'a Baseline,
    record: Record,
    budget: Budget,
}

/// A layer, and what it computes.
struct Subject {
    layer: MeasuredLayer,
    work: LayerWork,
}

impl Subject {
    fn new<T: Element>(shape: Shape, problem: &Problem) -> Self {
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

    fn measurement(&self, pass: Pass, way: Way, time: Time) -> Measurement {
        Measurement {
            layer: self.layer.clone(),
            pass,
            way,
            flops: self.flops(pass, way),
            time,
        }
    }
}

/// A layer whose calls use the tensors in `sets` in turn.
struct BenchCase<'a, T> {
    subject: &'a Subject,
    sets: &'a Sets<T>,
}

impl Bench<'_, '_> {
    fn part<T: Element + DeviceRepr>(&mut self, part: &Part) {
        let noise = Noise::<T>::new(self.device);
        for &shape in &part.shapes {
            for (index, &rank) in part.ranks.iter().enumerate() {
                if let Err(error) = self.shape(part, shape, rank, index == 0, &noise) {
                    eprintln!("not benched: {} {shape} r{rank}: {error}", T::DTYPE);
                }
                self.record.write();
            }
        }
    }

    /// Times the ways of a shape. What can't be timed is recorded with the reason.
    ///
    /// # Errors
    /// If there is no such problem.
    fn shape<T: Element + DeviceRepr>(
        &mut self,
        part: &Part,
        shape: Shape,
        rank: usize,
        with_plain: bool,
        noise: &Noise<T>,
    ) -> Result<(), String> {
        let projections: Vec<_> = shape
            .out_features
            .iter()
            .map(|&out_features| Projection { out_features, rank })
            .collect();
        let problem = Problem::sharing_x(shape.tokens, shape.in_features, &projections, T::DTYPE);
        let problem = problem.map_err(|error| error.to_string())?;
        let subject = Subject::new::<T>(shape, &problem);
        let passes: &[Pass] = match part.backward {
            true => &[Pass::Forward, Pass::Backward],
            false => &[Pass::Forward],
        };
        if let Err(reason) = self.ways(part, &subject, &problem, (rank, passes, with_plain), noise)
        {
            let ours = part.dropouts.iter().map(|&p| Way::Ours { rank, p });
            let plain = with_plain.then_some(Way::Plain);
            for way in plain.into_iter().chain([Way::Unsloth { rank }]).chain(ours) {
                for &pass in passes {
                    self.record.add_missing(subject.measurement(
                        pass,
                        way,
                        Time::Missing(reason.clone()),
                    ));
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// Why the rest of the ways can't be timed.
    fn ways<T: Element + DeviceRepr>(
        &mut self,
        part: &Part,
        subject: &Subject,
        problem: &Problem,
        (rank, passes, with_plain): (usize, &[Pass], bool),
        noise: &Noise<T>,
    ) -> Result<(), String> {
        self.in_time()?;
        let sets = Sets::new(self.device, problem, noise)?;
        let case = BenchCase {
            subject,
            sets: &sets,
        };
        let of = |pass, plain: Products, backward: Products| match pass {
            Pass::Forward => plain,
            Pass::Backward => backward,
        };
        for &pass in passes.iter().filter(|_| with_plain) {
            let products = of(pass, products::plain_forward, products::plain_backward);
            self.cublas(&case, pass, Way::Plain, products)?;
        }
        for &pass in passes {
            let products = of(pass, products::unsloth_forward, products::unsloth_backward);
            self.cublas(&case, pass, Way::Unsloth { rank }, products)?;
        }
        for &p in part.dropouts {
            let device = self.device;
            let ours = Ours::new(device, problem, p, &sets)?;
            let way = Way::Ours { rank, p };
            self.measure(&case, Pass::Forward, way, |set| ours.forward(device, set))?;
            if passes.contains(&Pass::Backward) {
                // Each backward reads what the forward of its set saved.
                (0..sets.layers.len()).try_for_each(|set| ours.forward(device, set))?;
                self.measure(&case, Pass::Backward, way, |set| ours.backward(device, set))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// If no measurement may begin any more.
    fn in_time(&self) -> Result<(), String> {
        if self.budget.is_spent() {
            return Err("not timed: the time of the bench was over".to_owned());
        }
        Ok(())
    }

    fn cublas<T: Element>(
        &mut self,
        case: &BenchCase<'_, T>,
        pass: Pass,
        way: Way,
        products: Products,
    ) -> Result<(), String> {
        let calls: Vec<_> = case.sets.layers.iter().map(products).collect();
        let baseline = self.baseline;
        self.measure(case, pass, way, |set| baseline.run(&calls[set], T::DTYPE))
    }

    /// Times `call`, which is given the index of the set to use. A call that fails is recorded.
    ///
    /// # Errors
    /// If it may not begin any more.
    fn measure<T: Element>(
        &mut self,
        case: &BenchCase<'_, T>,
        pass: Pass,
        way: Way,
        call: impl Fn(usize) -> Result<(), String>,
    ) -> Result<(), String> {
        self.in_time()?;
        let flops = case.subject.flops(pass, way);
        let mut samples = Vec::new();
        let time = match call(0) {
            Err(reason) => Some(Time::Missing(reason)),
            Ok(()) => {
                let (device, sets) = (self.device, case.sets.layers.len());
                if !device.emulated {
                    self.group.throughput(Throughput::Elements(flops));
                }
                let mut set = 0;
                let name = record::name(&case.subject.layer, pass, way);
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
            self.record.add(case.subject.measurement(pass, way, time));
        }
        Ok(())
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
        budget: Budget::of_variable(BENCH_SECONDS).unwrap_or_else(|error| panic!("{error}")),
    };
    let wanted = std::env::var(BENCH_SHAPES).unwrap_or_default();
    let parts = match wanted.as_str() {
        _ if emulated => shapes::emulated(),
        "" => shapes::full(),
        FIRST_LOOK => shapes::first_look(),
        SUITE => shapes::suite(),
        other => panic!("{BENCH_SHAPES}={other} is neither {FIRST_LOOK} nor {SUITE}"),
    };
    for part in &parts {
        match part.dtype {
            DType::BF16 => bench.part::<bf16>(part),
            DType::F16 => bench.part::<f16>(part),
            DType::F32 => bench.part::<f32>(part),
        }
    }
    bench.group.finish();
}
