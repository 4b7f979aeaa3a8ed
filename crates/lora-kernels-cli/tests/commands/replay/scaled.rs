//! Gradients outside f16's range are computed from a scaled dy, and written as if computed from dy
//! itself.

use std::path::Path;

use half::f16;
use lora_kernels::reference::relative_error;
use safetensors::{Dtype, SafeTensors};

use super::layer_file::LayerFile;
use super::{assert_status, folder, replay, stdout, written};

/// A tensor of a file as (type, elements).
fn tensor(file: &Path, name: &str) -> (Dtype, Vec<f64>) {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F16 => data
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64())
            .collect(),
        Dtype::F32 => data
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        other => panic!("{name} is {other:?}"),
    };
    (view.dtype(), values)
}

/// Runs the layer in f16 and in f32, compares the files that --out wrote, and returns what the f16
/// run printed.
fn f16_agrees_with_f32(test: &str, case: &LayerFile, gradients: Dtype) -> String {
    let folder = folder(test);
    let path = written(&folder, &case.bytes());
    let [narrow, wide] = ["f16", "f32"].map(|dtype| {
        let out = folder.join(format!("{dtype}.safetensors"));
        let output = replay(&path, &["--dtype", dtype, "--out", out.to_str().unwrap()]);
        assert_status(&output, 0);
        (out, stdout(&output))
    });
    for name in ["y", "dx", "d_lora_A", "d_lora_B"] {
        let ((dtype, given), (_, expected)) = (tensor(&narrow.0, name), tensor(&wide.0, name));
        assert_eq!(
            dtype,
            if name == "y" { Dtype::F16 } else { gradients },
            "{name}"
        );
        let error = relative_error(&given, &expected);
        assert!(error < 2e-3, "{name} is off by {error:e}");
    }
    narrow.1
}

#[test]
fn a_dy_that_f16_holds_is_taken_as_it_is() {
    for (test, factor) in [("as_it_is", 1.0), ("as_it_is_small", 2f32.powi(-6))] {
        let text = f16_agrees_with_f32(test, &LayerFile::good().times("dy", factor), Dtype::F16);
        assert!(!text.contains("computed with dy times"), "{text}");
    }
}

#[test]
fn a_dy_below_the_range_of_f16_gives_its_own_gradients() {
    let case = LayerFile::good().times("dy", 2f32.powi(-30));
    let text = f16_agrees_with_f32("below", &case, Dtype::F32);
    assert!(text.contains("computed with dy times"), "{text}");
}

#[test]
fn a_dy_or_gradients_above_the_range_of_f16_are_computed() {
    for (test, factor) in [
        ("gradients_above", 2f32.powi(15)),
        ("dy_above", 2f32.powi(20)),
    ] {
        let text = f16_agrees_with_f32(test, &LayerFile::good().times("dy", factor), Dtype::F32);
        assert!(text.contains("computed with dy times 0."), "{text}");
    }
}

/// dx needs a scale, but a scale that brings dy to 1 makes d_lora_A overflow.
#[test]
fn the_scale_leaves_every_gradient_in_range() {
    let case = LayerFile::good()
        .times("x", 2f32.powi(14))
        .times("weight", 2f32.powi(-7))
        .times("lora_A", 2f32.powi(-7))
        .times("dy", 2f32.powi(-12));
    let text = f16_agrees_with_f32("between", &case, Dtype::F32);
    assert!(text.contains("computed with dy times"), "{text}");
}
