//! `plan`: shows what would run, without running it.

use clap::ValueEnum;
use lora_kernels::plan::Launch;
use lora_kernels::{
    BackwardPlan, DType, DeviceProps, ForwardPlan, Mask, MergePlan, MergeProblem, Problem,
    Projection, RowAdapters, WeightLayout,
};
use serde::Serialize;

use crate::device::Gpu;
use crate::failure::Failure;
use crate::show;

const AFTER_HELP: &str = "\
Examples:
  lora-kernels plan -m 4096 -k 4096 -n 4096 -r 16 --on h100
  lora-kernels plan -m 192 -k 384 -n 1536 -r 8 --dropout --bias --what backward
q, k and v, of which k has no adapter, with f32 adapters:
  lora-kernels plan -m 8 -k 2048 -n 2048,512,512 -r 8,0,8 --adapter-dtype f32
one launch for a batch of 8 rows, each of which goes through up to 2 of 1000 adapters:
  lora-kernels plan -m 8 -k 4096 -n 4096 -r 64 --inference --slots 1000 --per-row 2 --on h100
two adapters into one weight:
  lora-kernels plan -k 4096 -n 4096 -r 16,64 --what merge

Without --on, the plan is for the device that is there. What it prints is what the library would launch: nothing here asks for a GPU when a name is given.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Tokens: rows of x
    #[arg(short = 'm', long, default_value_t = 1)]
    tokens: usize,
    /// in_features: columns of x
    #[arg(short = 'k', long)]
    in_features: usize,
    /// out_features; several numbers for projections that share x
    #[arg(
        short = 'n',
        long,
        value_delimiter = ',',
        required = true,
        value_name = "N,N..."
    )]
    out_features: Vec<usize>,
    /// Ranks: one for all projections or one for each, where 0 means no adapter; for a merge, one
    /// for each adapter
    #[arg(
        short,
        long,
        value_delimiter = ',',
        required = true,
        value_name = "R,R..."
    )]
    rank: Vec<usize>,
    /// Type of the tensors
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Type,
    /// Type of the adapters [default: that of the tensors]
    #[arg(long, value_enum)]
    adapter_dtype: Option<Type>,
    /// With a bias
    #[arg(long)]
    bias: bool,
    /// With dropout on the adapters' input
    #[arg(long)]
    dropout: bool,
    /// Draw the dropout mask again in backward instead of storing it
    #[arg(long, requires = "dropout")]
    redraw_mask: bool,
    /// Weights stored (in_features, out_features)
    #[arg(long)]
    fan_in_fan_out: bool,
    /// Without a backward: up to 64 tokens without dropout take one launch
    #[arg(long)]
    inference: bool,
    /// Rows go through adapters of a table with so many slots; --rank is the largest of a
    /// projection
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// The most adapters of a row
    #[arg(long, requires = "slots", default_value_t = 1, value_name = "N")]
    per_row: usize,
    /// A row's bits depend on nothing but this row
    #[arg(long)]
    batch_invariant: bool,
    /// Only the adapters' part, added to y
    #[arg(long, conflicts_with = "bias")]
    delta_only: bool,
    /// Without the gradient of x
    #[arg(long)]
    no_dx: bool,
    /// Which plans
    #[arg(long, value_enum, default_value = "layer")]
    what: What,
    /// A GPU by name instead of the one in this machine [possible values: a100, rtx3090, rtx4090,
    /// l40s, h100, b200, rtx5090]
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    on: Option<String>,
    /// The number of the GPU in this machine
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Forward and, unless it is for inference, backward
    Layer,
    Forward,
    Backward,
    Merge,
}

impl From<Type> for DType {
    fn from(given: Type) -> DType {
        match given {
            Type::F32 => DType::F32,
            Type::Bf16 => DType::BF16,
            Type::F16 => DType::F16,
        }
    }
}

#[derive(Serialize)]
struct Document {
    device: DeviceSummary,
    plans: Vec<Plan>,
}

#[derive(Serialize)]
struct DeviceSummary {
    name: String,
    compute_capability: String,
    multiprocessors: u32,
    shared_per_block: u32,
    l2_bytes: u64,
}

#[derive(Serialize)]
struct Plan {
    operation: &'static str,
    problem: String,
    launches: Vec<Step>,
    saved_bytes: Option<usize>,
    workspace_bytes: usize,
    flags_bytes: usize,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Step {
    kernel: String,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    schedule: Option<String>,
    reason: String,
}

impl Step {
    fn new(launch: &Launch) -> Self {
        Self {
            kernel: launch.variant.symbol().to_owned(),
            blocks: launch.blocks,
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            schedule: launch.schedule.map(|schedule| schedule.to_string()),
            reason: launch.reason.clone(),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Wrong sizes are reported before a device is looked for.
    let plans = plans(arguments)?;
    let (name, props) = device(arguments)?;
    let plans = plans
        .iter()
        .map(|plan| plan(&props))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let (major, minor) = props.compute_capability();
    let device = DeviceSummary {
        name,
        compute_capability: format!("{major}.{minor}"),
        multiprocessors: props.multiprocessors(),
        shared_per_block: props.shared_per_block(),
        l2_bytes: props.l2_bytes(),
    };
    if arguments.json {
        return show::json(&Document { device, plans });
    }
    show::line(&format!(
        "{}: compute capability {}, {} multiprocessors, {} of shared memory per block, {} of L2",
        device.name,
        device.compute_capability,
        device.multiprocessors,
        show::bytes(device.shared_per_block.into()),
        show::bytes(device.l2_bytes)
    ))?;
    plans.iter().try_for_each(|plan| show::lines(&plan.text))
}

type Planner = Box<dyn Fn(&DeviceProps) -> lora_kernels::Result<Plan>>;

fn plans(arguments: &Arguments) -> Result<Vec<Planner>, Failure> {
    if arguments.what == What::Merge {
        let problem = merge_problem(arguments)?;
        return Ok(vec![Box::new(move |props| {
            let plan = MergePlan::new(&problem, props)?;
            Ok(Plan {
                operation: "merge",
                problem: problem.to_string(),
                launches: plan.launches().iter().map(Step::new).collect(),
                saved_bytes: None,
                workspace_bytes: plan.workspace_bytes(),
                flags_bytes: 0,
                text: plan.to_string(),
            })
        })]);
    }
    let problem = problem(arguments)?;
    let backward = problem.clone();
    let forward: Planner = Box::new(move |props| {
        let plan = ForwardPlan::new(&problem, props)?;
        Ok(Plan {
            operation: "forward",
            problem: problem.to_string(),
            launches: plan.launches().iter().map(Step::new).collect(),
            saved_bytes: Some(plan.saved().bytes()),
            workspace_bytes: plan.workspace_bytes(),
            flags_bytes: plan.flags_bytes(),
            text: plan.to_string(),
        })
    });
    let backward: Planner = Box::new(move |props| {
        let plan = BackwardPlan::new(&backward, props)?;
        Ok(Plan {
            operation: "backward",
            problem: backward.to_string(),
            launches: plan.launches().iter().map(Step::new).collect(),
            saved_bytes: Some(plan.saved().bytes()),
            workspace_bytes: plan.workspace_bytes(),
            flags_bytes: 0,
            text: plan.to_string(),
        })
    });
    Ok(match arguments.what {
        What::Forward => vec![forward],
        What::Layer if arguments.inference => vec![forward],
        What::Backward => vec![backward],
        What::Layer | What::Merge => vec![forward, backward],
    })
}

fn problem(arguments: &Arguments) -> Result<Problem, Failure> {
    let (widths, ranks) = (&arguments.out_features, &arguments.rank);
    let rank_of = |index: usize| match ranks[..] {
        [rank] => Some(rank),
        _ => ranks.get(index).copied(),
    };
    if ranks.len() != 1 && ranks.len() != widths.len() {
        return Err(Failure::Refused(format!(
            "--rank has {} numbers and --out-features {}: give one rank, or one for each projection",
            ranks.len(),
            widths.len()
        )));
    }
    let projection = |(index, &out_features): (usize, &usize)| Projection {
        out_features,
        rank: rank_of(index).unwrap_or_default(),
    };
    let projections: Vec<Projection> = widths.iter().enumerate().map(projection).collect();
    let (dtype, layout) = (DType::from(arguments.dtype), layout(arguments));
    let problem = Problem::sharing_x(arguments.tokens, arguments.in_features, &projections, dtype)
        .map_err(refused)?;
    let problem = problem
        .with_bias(arguments.bias)
        .with_dropout(arguments.dropout)
        .with_weight_layout(layout)
        .with_input_gradient(!arguments.no_dx)
        .with_inference(arguments.inference)
        .with_batch_invariance(arguments.batch_invariant)
        .with_delta_only(arguments.delta_only)
        .with_mask(if arguments.redraw_mask {
            Mask::Redrawn
        } else {
            Mask::Stored
        });
    let adapters = arguments.adapter_dtype.map_or(dtype, DType::from);
    let rows = match (arguments.slots, arguments.per_row) {
        (Some(slots), per_row) => RowAdapters::Table { slots, per_row },
        (None, _) => RowAdapters::One,
    };
    problem
        .with_adapter_dtype(adapters)
        .and_then(|problem| problem.with_row_adapters(rows))
        .map_err(refused)
}

fn merge_problem(arguments: &Arguments) -> Result<MergeProblem, Failure> {
    let [out_features] = arguments.out_features[..] else {
        return Err(Failure::Refused(
            "a merge has one weight: give one number to --out-features".into(),
        ));
    };
    let dtype = DType::from(arguments.dtype);
    let problem = MergeProblem::new(out_features, arguments.in_features, &arguments.rank, dtype)
        .map_err(refused)?;
    let adapters = arguments.adapter_dtype.map_or(dtype, DType::from);
    let problem = problem.with_adapter_dtype(adapters).map_err(refused)?;
    Ok(problem
        .with_weight_layout(layout(arguments))
        .with_report(true))
}

fn layout(arguments: &Arguments) -> WeightLayout {
    if arguments.fan_in_fan_out {
        WeightLayout::InOut
    } else {
        WeightLayout::OutIn
    }
}

/// An error caused by an argument, not by the device.
fn refused(error: lora_kernels::Error) -> Failure {
    Failure::Refused(error.to_string())
}

fn device(arguments: &Arguments) -> Result<(String, DeviceProps), Failure> {
    let named = DeviceProps::named();
    let Some(on) = &arguments.on else {
        let gpu = Gpu::open(arguments.device).map_err(|failure| match failure {
            Failure::Kernels(lora_kernels::Error::NoDriver) => Failure::NoDevice(format!(
                "{}; --on plans for a GPU by name",
                lora_kernels::Error::NoDriver
            )),
            other => other,
        })?;
        return Ok((gpu.name()?, *gpu.layer.kernels().props()));
    };
    let found = named.iter().find(|(name, _)| name.eq_ignore_ascii_case(on));
    let (name, props) = found.cloned().ok_or_else(|| {
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        Failure::Refused(format!(
            "--on {on}: the GPUs known by name are {}",
            names.join(", ")
        ))
    })?;
    Ok((name.to_owned(), props))
}
