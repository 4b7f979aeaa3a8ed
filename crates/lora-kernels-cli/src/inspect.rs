//! `inspect`: shows the contents of an adapter.

use std::path::PathBuf;

use indicatif::ProgressBar;
use lora_kernels::DType;
use lora_kernels_adapters::{Adapter, Kind, Module, Tensor};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::merge::numbers::{converted, with_type};
use crate::read::Reading;
use crate::show;

const AFTER_HELP: &str = "\
Examples:
  lora-kernels inspect my-adapter
  lora-kernels inspect lora.safetensors --scaling 2
  lora-kernels inspect my-adapter --json

The norms are Frobenius', of lora_A, of lora_B, and of what is added to the weight, scaling·B·A.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// A PEFT folder, or Mistral's or loralib's safetensors file
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
    format: String,
    bytes: usize,
    parameters: u64,
    modules: Vec<Row>,
    /// Tensors of the base model that were trained in full.
    saved: Vec<Whole>,
    /// Unchanged base weights of adapted modules.
    base_weights: Vec<String>,
    /// Tensors of methods other than LoRA.
    unknown: Vec<String>,
    /// The config's fields that make the adapter more than B·A added to a weight of the original
    /// base.
    variants: Vec<String>,
    dora: bool,
    config: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    kind: String,
    rank: usize,
    scaling: f32,
    in_features: usize,
    out_features: usize,
    dtype: String,
    bias: bool,
    magnitude: bool,
    #[serde(flatten)]
    norms: Option<Norms>,
}

/// Frobenius norms.
#[derive(Serialize, Clone, Copy)]
struct Norms {
    norm_a: f64,
    norm_b: f64,
    /// The norm of scaling·B·A.
    norm_delta: f64,
}

#[derive(Serialize)]
struct Whole {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let adapters = arguments
        .reading
        .read(std::slice::from_ref(&arguments.adapter))?;
    adapters
        .iter()
        .try_for_each(|adapter| show(adapter, arguments))
}

fn show(adapter: &Adapter, arguments: &Arguments) -> Result<(), Failure> {
    let bar = ProgressBar::new(adapter.modules().len() as u64);
    let mut parameters = 0;
    let modules = adapter.modules().map(|module| {
        let tensors = [
            Some(module.a),
            Some(module.b),
            module.bias,
            module.magnitude,
        ];
        parameters += tensors
            .into_iter()
            .flatten()
            .map(|tensor| elements(&tensor))
            .sum::<u64>();
        bar.inc(1);
        Row {
            path: module.path.to_owned(),
            kind: module.kind.to_string(),
            rank: module.rank,
            scaling: module.scaling,
            in_features: module.in_features,
            out_features: module.out_features,
            dtype: format!("{:?}", module.a.dtype),
            bias: module.bias.is_some(),
            magnitude: module.magnitude.is_some(),
            norms: (!arguments.no_norms).then(|| norms(&module)),
        }
    });
    let modules: Vec<Row> = modules.collect();
    bar.finish_and_clear();
    let saved: Vec<Whole> = adapter
        .saved()
        .map(|saved| {
            parameters += elements(&saved.tensor);
            Whole {
                name: saved.name.to_owned(),
                dtype: format!("{:?}", saved.tensor.dtype),
                shape: saved.tensor.shape.to_vec(),
            }
        })
        .collect();
    let config = adapter.config();
    let document = Document {
        path: arguments.adapter.display().to_string(),
        format: adapter.format().to_string(),
        bytes: adapter.file().bytes(),
        parameters,
        dora: modules.iter().any(|module| module.magnitude),
        modules,
        saved,
        base_weights: adapter
            .base_weights()
            .map(|weight| weight.name.to_owned())
            .collect(),
        unknown: adapter
            .unknown()
            .map(|unknown| unknown.tensor.name.to_owned())
            .collect(),
        variants: config.map(|config| config.variants()).unwrap_or_default(),
        config: config.and_then(|config| RawValue::from_string(config.to_json()).ok()),
    };
    if arguments.json {
        show::json(&document)
    } else {
        print(&document, adapter)
    }
}

fn elements(tensor: &Tensor<'_>) -> u64 {
    tensor.shape.iter().product::<usize>() as u64
}

fn norms(module: &Module<'_>) -> Norms {
    with_type!(module.a.element_type().unwrap_or(DType::F32), T => {
        let wide = |tensor: &Tensor<'_>| -> Vec<f64> { converted::<T>(tensor).iter().map(|value| f64::from(*value)).collect() };
        let (a, b, r) = (wide(&module.a), wide(&module.b), module.rank);
        let norm = |matrix: &[f64]| matrix.iter().map(|x| x * x).sum::<f64>().sqrt();
        let square = if r > module.in_features.min(module.out_features) {
            square_by_rows(&a, &b, r)
        } else {
            // ‖B·A‖² = tr((BᵀB)(AAᵀ)). Both factors are (r, r), so no matrix of the weight's size
            // is needed.
            gram_of_rows(&a, r).iter().zip(&gram_of_columns(&b, r)).map(|(x, y)| x * y).sum()
        };
        Norms {
            norm_a: norm(&a),
            norm_b: norm(&b),
            norm_delta: f64::from(module.scaling).abs() * square.max(0.0).sqrt(),
        }
    })
}

/// ‖B·A‖², computed row by row of B·A. It is for ranks so large that (r, r) exceeds A or B.
fn square_by_rows(a: &[f64], b: &[f64], r: usize) -> f64 {
    let mut row = vec![0.0; a.len() / r];
    let square_of = |factors: &[f64]| {
        row.fill(0.0);
        for (factor, of_a) in factors.iter().zip(a.chunks_exact(a.len() / r)) {
            for (sum, value) in row.iter_mut().zip(of_a) {
                *sum += factor * value;
            }
        }
        row.iter().map(|value| value * value).sum::<f64>()
    };
    b.chunks_exact(r).map(square_of).sum()
}

/// A·Aᵀ (r, r) of A (r, any width).
fn gram_of_rows(a: &[f64], r: usize) -> Vec<f64> {
    let rows: Vec<&[f64]> = a.chunks_exact(a.len() / r).collect();
    let mut gram = vec![0.0; r * r];
    for i in 0..r {
        for j in 0..=i {
            let dot = rows[i].iter().zip(rows[j]).map(|(x, y)| x * y).sum();
            (gram[i * r + j], gram[j * r + i]) = (dot, dot);
        }
    }
    gram
}

/// Bᵀ·B (r, r) of B (any height, r).
fn gram_of_columns(b: &[f64], r: usize) -> Vec<f64> {
    let mut gram = vec![0.0; r * r];
    for row in b.chunks_exact(r) {
        for (sums, x) in gram.chunks_exact_mut(r).zip(row) {
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum += x * y;
            }
        }
    }
    gram
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
    if let Some(config) = adapter.config() {
        let base = config.field("base_model_name_or_path").unwrap_or("null");
        let rslora = if config.use_rslora() { ", rsLoRA" } else { "" };
        let r = format!(
            "r {}, lora_alpha {}{rslora}",
            config.rank(),
            config.lora_alpha()
        );
        show::line(&format!("config: {r}, base model {base}"))?;
    }
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
    show::line(&show::table(&rows))?;
    for whole in &document.saved {
        show::line(&format!(
            "trained whole: {} {} {:?}",
            whole.name, whole.dtype, whole.shape
        ))?;
    }
    for name in &document.base_weights {
        show::line(&format!("the base's, saved beside its adapter: {name}"))?;
    }
    for name in &document.unknown {
        show::line(&format!("not understood: {name}"))?;
    }
    if !document.variants.is_empty() {
        show::line(&format!(
            "can't be merged: its config has {}",
            document.variants.join(", ")
        ))?;
    }
    let convolution = Kind::Convolution.to_string();
    if document.dora
        || document
            .modules
            .iter()
            .any(|module| module.kind == convolution)
    {
        show::line(
            "can't be merged yet: magnitude vectors (DoRA) and convolutions are not computed with",
        )?;
    }
    Ok(())
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.path.clone(),
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
        let marks = [(self.bias, "bias"), (self.magnitude, "DoRA")];
        cells.push(
            marks
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, mark)| mark)
                .collect::<Vec<_>>()
                .join(" "),
        );
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A is (3, 4) and B is (5, 3).
    #[test]
    fn both_ways_give_one_norm() {
        let made = |count: usize| {
            (0..count)
                .map(|i| (i * 37 % 11) as f64 - 5.0)
                .collect::<Vec<f64>>()
        };
        let (a, b) = (made(12), made(15));
        let grams: f64 = gram_of_rows(&a, 3)
            .iter()
            .zip(&gram_of_columns(&b, 3))
            .map(|(x, y)| x * y)
            .sum();
        assert_eq!(square_by_rows(&a, &b, 3), grams);
    }
}
