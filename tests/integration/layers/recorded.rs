//! Layers recorded from Hugging Face PEFT give the same results in every type and placement.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::common::data::{Placed, Placement};
use crate::common::device::Number;
use crate::common::layer::{self, Lora, Projection, TestLayer};
use lora_kernels::reference::relative_error;
use lora_kernels_cases::{Matrix, RecordedLayer, RoundedInputs, largest_relative_error};

const HERE: &str = "tests/fixtures";
/// A folder beside the checkout that may hold more recordings.
const BESIDE: &str = "../shared/fixtures/peft-minilm";

/// The recorded layers in a folder below this crate's, which cargo runs tests in. None where there
/// is no such folder.
fn recordings(folder: &str) -> Option<Vec<PathBuf>> {
    let path = Path::new(folder);
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .collect();
    paths.sort();
    Some(paths)
}

fn layer_of<T: Number>(
    case: &RecordedLayer,
    inputs: &RoundedInputs<T>,
    placement: Placement,
) -> TestLayer<T> {
    let placed = |matrix: &Matrix, values: &[T]| {
        Placed::from_rows(values, matrix.rows, matrix.cols, placement)
    };
    let result = |rows, cols| Placed::poisoned(rows, cols, placement);
    let dy = case.dy.as_ref().zip(inputs.dy.as_ref());
    let dy = dy.expect("recorded layers have a dy");
    let bias = case.bias.as_ref().zip(inputs.bias.as_ref());
    let sizes = layer::LayerCase::new(
        case.tokens(),
        case.in_features(),
        case.out_features(),
        case.rank(),
    );
    let projection = Projection {
        weight: placed(&case.weight, &inputs.weight),
        bias: bias.map(|(bias, values)| placed(bias, values)),
        lora: Some(Lora {
            a: placed(&case.lora_a, &inputs.lora_a),
            b: placed(&case.lora_b, &inputs.lora_b),
        }),
        dy: placed(dy.0, dy.1),
        y: result(case.tokens(), case.out_features()),
        gradients: Some(Lora {
            a: result(case.rank(), case.in_features()),
            b: result(case.out_features(), case.rank()),
        }),
    };
    TestLayer {
        case: sizes
            .scaling(case.scaling)
            .bias(bias.is_some())
            .placed(placement),
        x: placed(&case.x, &inputs.x),
        projections: vec![projection],
        dx: Some(result(case.tokens(), case.in_features())),
    }
}

/// Compares elements with the reference, and whole tensors with PEFT's results.
fn check<T: Number>(path: &Path) {
    let case = RecordedLayer::read(path).unwrap();
    let inputs = RoundedInputs::<T>::new(&case).unwrap();
    for placement in [Placement::Dense, Placement::OddView] {
        let (forward, backward) = layer_of(&case, &inputs, placement).check();
        for (given, recorded, scale) in [
            (&forward.y[0], &case.results.y, 1.0),
            (backward.dx(), &case.results.dx, inputs.gradient_scale),
            (
                &backward.lora().a,
                &case.results.d_lora_a,
                inputs.gradient_scale,
            ),
            (
                &backward.lora().b,
                &case.results.d_lora_b,
                inputs.gradient_scale,
            ),
        ] {
            let Some(recorded) = recorded else { continue };
            let expected: Vec<f64> = recorded
                .data
                .iter()
                .map(|&value| f64::from(value) * scale)
                .collect();
            let error = relative_error(&given.rows(), &expected);
            println!(
                "{} {} {}: {error:.2e}",
                path.display(),
                T::DTYPE,
                recorded.name
            );
            assert!(
                error <= largest_relative_error(T::DTYPE),
                "{} of {} is off by {error:e}",
                recorded.name,
                path.display()
            );
        }
    }
}

fn recorded_layers_give_pefts_results<T: Number>() {
    let mut layers = recordings(HERE).expect("the repository has recorded layers");
    assert_eq!(layers.len(), 2, "{layers:?}");
    let beside = recordings(BESIDE);
    let is_new = |path: &PathBuf| {
        layers
            .iter()
            .all(|other| other.file_name() != path.file_name())
    };
    let more: Vec<_> = beside
        .iter()
        .flatten()
        .filter(|path| is_new(path))
        .cloned()
        .collect();
    let found = match (&beside, more.len()) {
        (None, _) => format!("there is no {BESIDE}"),
        (Some(_), more) => format!("{more} more in {BESIDE}"),
    };
    layers.extend(more);
    // Written to stderr directly, because the test harness hides the output of passing tests.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{}: the 2 layers in {HERE}, {found}", T::DTYPE).unwrap();
    layers.iter().for_each(|path| check::<T>(path));
}

for_each_dtype!(recorded_layers_give_pefts_results);
