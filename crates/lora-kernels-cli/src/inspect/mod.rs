//! `inspect`: shows the contents of an adapter.

mod norms;

use std::collections::BTreeSet;
use std::path::PathBuf;

use indicatif::ProgressBar;
use lora_kernels_adapters::{Adapter, Kind, Module, OpenedFiles, ScalingSource, Tensor};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::read::Reading;
use crate::show;
use norms::Norms;

const AFTER_HELP: &str = "\
Examples:
  lora-kernels inspect my-adapter
  lora-kernels inspect lora.safetensors --scaling 2
  lora-kernels inspect my-adapter --json

The norms are Frobenius', of lora_A, of lora_B, and of what is added to the weight, scaling·B·A.
A module is dead if it adds nothing: its lora_A or its lora_B is all zeros.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// A PEFT folder, or a safetensors file of Mistral, loralib, diffusers, ComfyUI or kohya
    adapter: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// Leave out the norms, which need every number to be read
    #[arg(long)]
    no_norms: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    path: String,
    /// How the path given led to `path`, if it is another.
    followed: Option<String>,
    format: String,
    /// The adapter's name in the tensors' names.
    name: Option<String>,
    bytes: usize,
    parameters: u64,
    modules: Vec<Row>,
    /// Tensors of the base model that were trained in full.
    saved: Vec<Whole>,
    /// Rows of embeddings that were trained in full.
    tokens: Vec<Rows>,
    /// Unchanged base weights of adapted modules.
    base_weights: Vec<String>,
    /// Tensors that aren't understood.
    unknown: Vec<Reason>,
    /// Tensors that are understood and change nothing, or are another adapter's.
    left_out: Vec<Reason>,
    /// The config's fields that make the adapter more than B·A added to a weight of the original
    /// base.
    variants: Vec<String>,
    dora: bool,
    config: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    component: Option<String>,
    kind: String,
    rank: usize,
    scaling: f32,
    /// Where the scaling comes from.
    scaled_by: String,
    in_features: usize,
    out_features: usize,
    /// The number of matrices.
    experts: usize,
    /// A convolution's kernel.
    kernel: Option<Vec<usize>>,
    /// The types of lora_A and lora_B, or of both.
    dtype: String,
    bias: bool,
    magnitude: bool,
    /// Whether it adds nothing; unknown without norms.
    dead: Option<bool>,
    #[serde(flatten)]
    norms: Option<Norms>,
}

#[derive(Serialize)]
struct Whole {
    name: String,
    component: Option<String>,
    dtype: String,
    shape: Vec<usize>,
}

#[derive(Serialize)]
struct Rows {
    path: String,
    component: Option<String>,
    indices: Vec<usize>,
    dtype: String,
}

#[derive(Serialize)]
struct Reason {
    name: String,
    reason: String,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let opened = OpenedFiles::begin();
    let adapters = { &arguments.reading }
        .read(std::slice::from_ref(&arguments.adapter), false)
        .map_err(|failure| failure.or_change(&opened))?;
    { adapters.iter() }.try_for_each(|adapter| {
        let document =
            document(adapter, arguments).map_err(|failure| failure.or_change(&opened))?;
        // Nothing is printed of a file that changed while it was read.
        opened.check_unchanged()?;
        match arguments.json {
            true => show::json(&document),
            false => print(&document, adapter),
        }
    })
}

fn document(adapter: &Adapter, arguments: &Arguments) -> Result<Document, Failure> {
    let bar = ProgressBar::new(adapter.modules().len() as u64);
    let modules = adapter.modules().map(|module| {
        #[cfg(test)]
        crate::between::step();
        bar.inc(1);
        Row::new(&module, arguments.no_norms)
    });
    let modules = modules.collect::<Result<Vec<Row>, Failure>>()?;
    bar.finish_and_clear();
    let mut parameters: u64 = adapter.modules().map(|module| parameters(&module)).sum();
    let saved = adapter.saved().map(|saved| {
        parameters += elements(&saved.tensor);
        Whole {
            name: saved.name.to_owned(),
            component: saved.component.map(str::to_owned),
            dtype: format!("{:?}", saved.tensor.dtype),
            shape: saved.tensor.shape.to_vec(),
        }
    });
    let saved: Vec<Whole> = saved.collect();
    let tokens = adapter.tokens().map(|tokens| {
        parameters += elements(&tokens.rows);
        Rows {
            path: tokens.path.to_owned(),
            component: tokens.component.map(str::to_owned),
            indices: tokens.indices.to_vec(),
            dtype: format!("{:?}", tokens.rows.dtype),
        }
    });
    let tokens: Vec<Rows> = tokens.collect();
    let reason = |tensor: Tensor<'_>, reason: &str| Reason {
        name: tensor.name.to_owned(),
        reason: reason.to_owned(),
    };
    let config = adapter.config();
    let variants: BTreeSet<String> = adapter
        .configs()
        .flat_map(|(_, config)| config.variants())
        .collect();
    Ok(Document {
        path: match adapter.followed() {
            Some(_) => adapter.path().display().to_string(),
            None => arguments.adapter.display().to_string(),
        },
        followed: adapter.followed().map(str::to_owned),
        format: adapter.format().to_string(),
        name: adapter.name().map(str::to_owned),
        bytes: adapter.file().bytes(),
        parameters,
        dora: modules.iter().any(|module| module.magnitude),
        modules,
        saved,
        tokens,
        base_weights: adapter
            .base_weights()
            .map(|weight| weight.name.to_owned())
            .collect(),
        unknown: adapter
            .unknown()
            .map(|unknown| reason(unknown.tensor, unknown.reason))
            .collect(),
        left_out: adapter
            .left_out()
            .map(|left_out| reason(left_out.tensor, left_out.reason))
            .collect(),
        variants: variants.into_iter().collect(),
        config: config.and_then(|config| RawValue::from_string(config.to_json()).ok()),
    })
}

fn parameters(module: &Module<'_>) -> u64 {
    let tensors = [
        Some(module.a),
        Some(module.b),
        module.bias,
        module.magnitude,
    ];
    tensors.iter().flatten().map(elements).sum()
}

fn elements(tensor: &Tensor<'_>) -> u64 {
    tensor.shape.iter().product::<usize>() as u64
}

impl Row {
    fn new(module: &Module<'_>, no_norms: bool) -> Result<Self, Failure> {
        let norms = match no_norms {
            true => None,
            false => Some(norms::of(module)?),
        };
        let kernel = (module.kind == Kind::Convolution)
            .then(|| module.a.shape.get(2..).unwrap_or_default().to_vec());
        let (a, b) = (module.a.dtype, module.b.dtype);
        Ok(Self {
            path: module.path.to_owned(),
            component: module.component.map(str::to_owned),
            kind: module.kind.to_string(),
            rank: module.rank,
            scaling: module.scaling,
            scaled_by: module.scaled_by.to_string(),
            in_features: module.in_features,
            out_features: module.out_features,
            experts: module.experts,
            kernel,
            dtype: if a == b {
                format!("{a:?}")
            } else {
                format!("{a:?}, {b:?}")
            },
            bias: module.bias.is_some(),
            magnitude: module.magnitude.is_some(),
            // A bias and a magnitude change the layer even so.
            dead: norms.map(|norms| {
                (norms.norm_a == 0.0 || norms.norm_b == 0.0)
                    && module.bias.is_none()
                    && module.magnitude.is_none()
            }),
            norms,
        })
    }

    fn cells(&self) -> Vec<String> {
        let path = match &self.component {
            Some(component) => format!("[{component}] {}", self.path),
            None => self.path.clone(),
        };
        let mut cells = vec![
            path,
            self.kind.clone(),
            self.rank.to_string(),
            format!("{:.4}", self.scaling),
            self.in_features.to_string(),
            self.out_features.to_string(),
            self.dtype.clone(),
        ];
        if let Some(norms) = self.norms {
            cells.extend(
                [norms.norm_a, norms.norm_b, norms.norm_delta].map(|norm| format!("{norm:.4}")),
            );
        }
        let mut marks = Vec::new();
        if self.experts > 1 {
            marks.push(format!("{} experts", self.experts));
        }
        if let Some(kernel) = &self.kernel {
            let sizes: Vec<String> = kernel.iter().map(usize::to_string).collect();
            marks.push(format!("kernel {}", sizes.join("x")));
        }
        let flags = [
            (self.bias, "bias"),
            (self.magnitude, "DoRA"),
            (self.dead == Some(true), "dead"),
        ];
        let flags = flags.into_iter().filter(|(is, _)| *is);
        marks.extend(flags.map(|(_, mark)| mark.to_owned()));
        cells.push(marks.join(", "));
        cells
    }
}

fn print(document: &Document, adapter: &Adapter) -> Result<(), Failure> {
    show::line(&format!(
        "{}: {} format, {}, {}, {} parameters",
        document.path,
        document.format,
        show::bytes(document.bytes as u64),
        show::count(document.modules.len(), "module"),
        document.parameters
    ))?;
    if let Some(followed) = &document.followed {
        show::line(&format!("the path given {followed}"))?;
    }
    if let Some(name) = &document.name {
        show::line(&format!("the adapter's name: {name}"))?;
    }
    for (component, config) in adapter.configs() {
        let base = config.field("base_model_name_or_path").unwrap_or("null");
        let rslora = if config.use_rslora() { ", rsLoRA" } else { "" };
        let of = component.map(|component| format!(" of {component}"));
        show::line(&format!(
            "config{}: r {}, lora_alpha {}{rslora}, base model {base}",
            of.unwrap_or_default(),
            config.rank(),
            config.lora_alpha()
        ))?;
    }
    print_scalings(adapter)?;
    let mut head = vec![
        "module",
        "kind",
        "rank",
        "scaling",
        "in",
        "out",
        "type",
        "|A|",
        "|B|",
        "|s·B·A|",
        "",
    ];
    if document.modules.iter().all(|module| module.norms.is_none()) {
        head.drain(7..10);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    rows.extend(document.modules.iter().map(Row::cells));
    show::lines(&show::table(&rows))?;
    print_others(document)
}

/// Says where scalings come from, unless the config has them all.
fn print_scalings(adapter: &Adapter) -> Result<(), Failure> {
    let mut sources: Vec<(ScalingSource, usize)> = Vec::new();
    for module in adapter.modules() {
        match sources
            .iter_mut()
            .find(|(source, _)| *source == module.scaled_by)
        {
            Some((_, count)) => *count += 1,
            None => sources.push((module.scaled_by, 1)),
        }
    }
    for (source, count) in sources {
        let from = match source {
            ScalingSource::Config => continue,
            ScalingSource::Header => "the config in the file's header",
            ScalingSource::AlphaTensor => "alpha tensors, alpha / r",
            ScalingSource::Params => "the params.json beside it",
            ScalingSource::Given => "the command line",
            _ => "kohya's rule for files without alpha, which is alpha = r",
        };
        show::line(&format!(
            "scaling of {} from {from}",
            show::count(count, "module")
        ))?;
    }
    Ok(())
}

fn print_others(document: &Document) -> Result<(), Failure> {
    let dead = document
        .modules
        .iter()
        .filter(|module| module.dead == Some(true));
    let dead: Vec<&str> = dead.map(|module| module.path.as_str()).collect();
    if !dead.is_empty() {
        let what = match dead.len() == document.modules.len() {
            true => "all modules add",
            false => "these add",
        };
        show::line(&format!(
            "dead, {what} nothing, because lora_A or lora_B is zero: {}",
            show::few(dead)
        ))?;
    }
    for whole in &document.saved {
        show::line(&format!(
            "trained whole: {} {} {:?}",
            whole.name, whole.dtype, whole.shape
        ))?;
    }
    for rows in &document.tokens {
        show::line(&format!(
            "rows trained whole: {} of {} {}",
            rows.indices.len(),
            rows.path,
            rows.dtype
        ))?;
    }
    for name in &document.base_weights {
        show::line(&format!("the base's, saved beside its adapter: {name}"))?;
    }
    print_reasons("left out", &document.left_out)?;
    print_reasons("not understood", &document.unknown)?;
    if !document.variants.is_empty() {
        show::line(&format!(
            "can't be merged: its config has {}",
            document.variants.join(", ")
        ))?;
    }
    Ok(())
}

/// The number of tensors that are listed with a reason.
const LISTED: usize = 10;

fn print_reasons(what: &str, tensors: &[Reason]) -> Result<(), Failure> {
    for Reason { name, reason } in tensors.iter().take(LISTED) {
        show::line(&format!("{what}: {name} {reason}"))?;
    }
    match tensors.len() {
        more if more > LISTED => show::line(&format!(
            "{what}: {} more (--json lists all)",
            more - LISTED
        )),
        _ => Ok(()),
    }
}
