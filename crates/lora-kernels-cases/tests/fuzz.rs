//! Recorded layers with random damage cause no panic, and an error of one line. The cases are the
//! same on every run; `LORA_KERNELS_FUZZ_CASES` is their number.

use std::collections::HashMap;
use std::hint::black_box;

use lora_kernels_cases::{RecordedLayer, RoundedInputs};
use lora_kernels_fuzz::{Mutator, folder};
use safetensors::{Dtype, tensor::TensorView};

const CASES: u64 = 8_000;
const CASES_VARIABLE: &str = "LORA_KERNELS_FUZZ_CASES";

fn good() -> Vec<u8> {
    let shapes = [
        ("x", [3, 8]),
        ("weight", [6, 8]),
        ("lora_A", [2, 8]),
        ("lora_B", [6, 2]),
        ("dy", [3, 6]),
        ("y", [3, 6]),
        ("dx", [3, 8]),
        ("d_lora_A", [2, 8]),
        ("d_lora_B", [6, 2]),
    ];
    let data = shapes.map(|(_, [rows, cols])| {
        let values = (0..rows * cols).map(|i| i as f32 / 8.0 - 1.0);
        values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
    });
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        (*name, view)
    });
    let metadata = HashMap::from([
        ("scaling".to_owned(), "2".to_owned()),
        ("module".to_owned(), "a.q".to_owned()),
    ]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn recorded_layers() {
    let cases: u64 =
        std::env::var(CASES_VARIABLE).map_or(CASES, |text| text.parse().expect(CASES_VARIABLE));
    let folder = folder();
    let path = folder.path().join("layer.safetensors");
    let good = good();
    let mut read = 0;
    for case in 0..cases {
        std::fs::write(&path, Mutator::new(case).safetensors(&good)).unwrap();
        match RecordedLayer::read(&path) {
            Ok(layer) => {
                read += 1;
                // Numbers beyond the range of f16 are an error.
                black_box(RoundedInputs::<half::f16>::new(&layer).is_ok());
            }
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.lines().count() == 1 && text.len() < 2000,
                    "case {case}: {text:?}"
                );
            }
        }
    }
    assert!(read > cases / 20, "only {read} layers got through");
}
