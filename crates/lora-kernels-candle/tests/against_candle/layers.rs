//! Layers made from variables and tensors, and trained.

use candle_core::{DType, Device, ModuleT, Result, Tensor};
use candle_nn::{AdamW, Linear, Module, Optimizer, VarBuilder, VarMap};
use lora_kernels_candle::{Lora, LoraLinear, LoraLinears, Masks, Projection, lora_linears};

use crate::compare::{ComparisonCase, assert_close};
use crate::data::{backends, numbers, values};

fn linear(out_features: usize, in_features: usize) -> Result<Linear> {
    let weight = numbers(&[out_features, in_features], 0.3, 2, DType::F32)?;
    Ok(Linear::new(
        weight,
        Some(numbers(&[out_features], 1.0, 3, DType::F32)?),
    ))
}

#[test]
fn a_new_adapter_changes_nothing_and_has_pefts_names() -> Result<()> {
    let (variables, base) = (VarMap::new(), linear(24, 40)?);
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let lora = Lora::load(40, 24, 3, 1.7, &vb.pp("query"))?;
    let mut names: Vec<String> = variables.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["query.lora_A.weight", "query.lora_B.weight"]);
    let a = values(&lora.a)?;
    let bound = 1.0 / 40f64.sqrt();
    assert!(
        a.iter().all(|value| value.abs() <= bound)
            && a.iter().any(|value| value.abs() > bound / 2.0)
    );

    let x = numbers(&[2, 5, 40], 1.0, 1, DType::F32)?;
    for (name, backend) in backends() {
        let layer = LoraLinear::new(&base, lora.clone()).with_backend(backend);
        assert_close(&layer.forward(&x)?, &base.forward(&x)?, DType::F32, name)?;
        assert_close(
            &x.apply_t(&layer, true)?,
            &base.forward(&x)?,
            DType::F32,
            name,
        )?;
    }
    Ok(())
}

#[test]
fn a_layer_with_dropout_drops_in_training_only() -> Result<()> {
    let case = ComparisonCase::new(&[5, 40], &[(24, 3)]);
    let layer = case.layers()?.swap_remove(0);
    let base = Linear::new(layer.weight.clone(), layer.bias.clone());
    let x = numbers(&case.x, 1.0, 1, DType::F32)?;
    let layer =
        LoraLinear::new(&base, layer.lora.expect("an adapter")).with_dropout(Masks::new(0.5, 3));
    let (eval, train) = (
        values(&layer.forward(&x)?)?,
        values(&layer.forward_t(&x, true)?)?,
    );
    assert_eq!(eval, values(&layer.forward_t(&x, false)?)?);
    assert_ne!(eval, train);
    Ok(())
}

/// Training learns a change of rank 2 to one of two layers that share x.
#[test]
fn training_learns_a_low_rank_change() -> Result<()> {
    let x = numbers(&[32, 24], 1.0, 1, DType::F32)?;
    let bases = [linear(16, 24)?, linear(8, 24)?];
    let change =
        numbers(&[24, 2], 0.5, 5, DType::F32)?.matmul(&numbers(&[2, 16], 0.5, 6, DType::F32)?)?;
    let target = (bases[0].forward(&x)? + x.matmul(&change)?)?;
    for (name, backend) in backends() {
        let mut variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let seeded = numbers(&[4, 24], 0.2, 7, DType::F32)?;
        let lora = Lora::load(24, 16, 4, 2.0, &vb)?;
        variables.set([("lora_A.weight", seeded)].into_iter())?;
        let layers = LoraLinears::new(vec![
            Projection::new(&bases[0], Some(lora)),
            Projection::new(&bases[1], None),
        ]);
        let layers = layers.with_backend(backend);
        let mut optimiser = AdamW::new_lr(variables.all_vars(), 0.05)?;
        let mut losses = Vec::new();
        for _ in 0..40 {
            let loss: Tensor = (&layers.forward_t(&x, true)?[0] - &target)?
                .sqr()?
                .mean_all()?;
            losses.push(loss.to_scalar::<f32>()?);
            optimiser.backward_step(&loss)?;
        }
        assert!(losses[39] < losses[0] / 50.0, "{name}: {losses:?}");
    }
    Ok(())
}

/// bf16 loses an adapter that is small beside the weight, and f16 overflows above 65504.
#[test]
fn a_merge_with_a_report_tells_what_is_lost_and_refuses_what_overflows() -> Result<()> {
    for (name, backend) in backends() {
        let options = lora_kernels_candle::Options {
            backend,
            ..Default::default()
        };
        let layer = |weight: f64, lora: f64, dtype| -> Result<Projection> {
            let tensor = |value, dims: (usize, usize)| {
                Tensor::full(value, dims, &Device::Cpu)?.to_dtype(dtype)
            };
            Ok(Projection {
                weight: tensor(weight, (5, 7))?,
                bias: None,
                lora: Some(Lora {
                    a: tensor(lora, (3, 7))?,
                    b: tensor(1.0, (5, 3))?,
                    scaling: 2.0,
                }),
            })
        };
        // The delta is 6 · 2⁻¹², and bf16's step at 1 is 2⁻⁷.
        let lossy = layer(1.0, 2f64.powi(-12), DType::BF16)?;
        let (weight, report) = lossy.merged_weight_with_report(&options)?;
        assert_eq!(
            values(&weight)?,
            values(&lossy.merged_weight(&options)?)?,
            "{name}"
        );
        assert_eq!(
            (report.elements, report.nonzero, report.unchanged),
            (35, 35, 35),
            "{name}"
        );

        let overflowing = layer(65000.0, 200.0, DType::F16)?;
        let error = overflowing
            .merged_weight_with_report(&options)
            .expect_err("a refusal");
        let error = error.to_string();
        assert!(
            error.contains("35 elements") && error.contains("F16"),
            "{name}: {error}"
        );
        let unchecked = values(&overflowing.merged_weight(&options)?)?;
        assert!(unchecked.iter().all(|value| value.is_infinite()), "{name}");

        let base = Projection {
            lora: None,
            ..overflowing
        };
        let (_, report) = base.merged_weight_with_report(&options)?;
        assert_eq!(report, lora_kernels::MergeReport::default(), "{name}");
    }
    Ok(())
}

/// Both backends give the same bits, and y is the same as without merging.
#[test]
fn a_merged_layer_computes_what_the_adapted_one_does() -> Result<()> {
    for (dtype, adapter_dtype) in [
        (DType::F32, DType::F32),
        (DType::BF16, DType::F32),
        (DType::F16, DType::F16),
    ] {
        for case in [
            ComparisonCase::new(&[5, 40], &[(24, 3), (17, 0), (9, 12)]),
            ComparisonCase::new(&[5, 33], &[(24, 3)]).transposed(),
        ] {
            let case = case.dtypes(dtype, adapter_dtype);
            let (x, layers) = (numbers(&case.x, 1.0, 1, dtype)?, case.layers()?);
            let mut weights = Vec::new();
            for (name, backend) in backends() {
                let options = case.options(&backend);
                let adapted = lora_linears(&x, &layers, &options)?;
                for (layer, y) in layers.iter().zip(&adapted) {
                    let linear = layer.merged(&options)?;
                    let exact = Linear::new(
                        linear.weight().to_dtype(DType::F32)?,
                        linear
                            .bias()
                            .map(|bias| bias.to_dtype(DType::F32))
                            .transpose()?,
                    );
                    assert_eq!(
                        (linear.weight().dtype(), linear.weight().track_op()),
                        (dtype, false)
                    );
                    assert_close(
                        &exact.forward(&x.to_dtype(DType::F32)?)?,
                        y,
                        dtype,
                        &format!("{name}: {case:?}"),
                    )?;
                    weights.push(values(linear.weight())?);
                }
            }
            let (first, second) = weights.split_at(layers.len());
            assert!(first == second, "{case:?}");
        }
    }
    Ok(())
}
