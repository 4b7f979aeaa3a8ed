//! Layers recorded from Hugging Face PEFT: the same results, from every type and placement.

mod common;

// The example uses all of both.
#[allow(dead_code)]
#[path = "../examples/replay/case.rs"]
mod case;
#[allow(dead_code)]
#[path = "../examples/replay/inputs.rs"]
mod inputs;

use std::path::{Path, PathBuf};

use case::{Case, Matrix};
use common::data::{Placed, Placement};
use common::device::Number;
use common::layer::{self, Layer};
use inputs::Inputs;
use lora_kernels::DType;
use lora_kernels::reference::relative_error;

/// The largest relative error against what PEFT computed in f32. In the narrow types the inputs are rounded first.
fn largest_error(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
    }
}

/// The recorded layers in a folder below this crate's.
fn recordings(folder: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    paths.sort();
    paths
}

fn layer_of<T: Number>(case: &Case, inputs: &Inputs<T>, placement: Placement) -> Layer<T> {
    let placed = |matrix: &Matrix, values: &[T]| Placed::from_rows(values, matrix.rows, matrix.cols, placement);
    let dy = case
        .dy
        .as_ref()
        .zip(inputs.dy.as_ref())
        .expect("recorded layers have a dy");
    Layer {
        case: layer::Case::new(case.tokens(), case.in_features(), case.out_features(), case.rank())
            .scaling(case.scaling)
            .bias(case.bias.is_some())
            .placed(placement),
        x: placed(&case.x, &inputs.x),
        weight: placed(&case.weight, &inputs.weight),
        bias: case
            .bias
            .as_ref()
            .zip(inputs.bias.as_ref())
            .map(|(bias, values)| placed(bias, values)),
        lora_a: placed(&case.lora_a, &inputs.lora_a),
        lora_b: placed(&case.lora_b, &inputs.lora_b),
        dy: placed(dy.0, dy.1),
    }
}

/// Compares with the reference element by element, and with PEFT's results as a whole.
fn check<T: Number>(path: &Path) {
    let case = Case::read(path).unwrap();
    let inputs = Inputs::<T>::new(&case).unwrap();
    for placement in [Placement::Dense, Placement::OddView] {
        let (forward, backward) = layer_of(&case, &inputs, placement).check();
        for (given, recorded, scale) in [
            (&forward.y, &case.recorded.y, 1.0),
            (&backward.dx, &case.recorded.dx, inputs.gradient_scale),
            (&backward.d_lora_a, &case.recorded.d_lora_a, inputs.gradient_scale),
            (&backward.d_lora_b, &case.recorded.d_lora_b, inputs.gradient_scale),
        ] {
            let Some(recorded) = recorded else { continue };
            let expected: Vec<f64> = recorded.data.iter().map(|&value| f64::from(value) * scale).collect();
            let error = relative_error(&given.rows(), &expected);
            println!("{} {} {}: {error:.2e}", path.display(), T::DTYPE, recorded.name);
            assert!(
                error <= largest_error(T::DTYPE),
                "{} of {} is off by {error:e}",
                recorded.name,
                path.display()
            );
        }
    }
}

fn layers_in_this_repository<T: Number>() {
    let paths = recordings("tests/fixtures");
    assert_eq!(paths.len(), 2, "{paths:?}");
    paths.iter().for_each(|path| check::<T>(path));
}

/// More of them lie beside some checkouts.
fn layers_beside_this_repository<T: Number>() {
    let paths = recordings("../shared/fixtures/peft-minilm");
    println!("{} recorded layers in ../shared/fixtures/peft-minilm", paths.len());
    let here = recordings("tests/fixtures");
    let is_here = |path: &&PathBuf| here.iter().any(|other| other.file_name() == path.file_name());
    paths
        .iter()
        .filter(|path| !is_here(path))
        .for_each(|path| check::<T>(path));
}

for_each_dtype!(layers_in_this_repository, layers_beside_this_repository);
