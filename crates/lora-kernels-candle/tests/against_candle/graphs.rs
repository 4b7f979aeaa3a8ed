//! Calls within larger graphs: used twice, used in part, run again, and run after a failure.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use lora_kernels_candle::lora_linears;

use crate::compare::{ComparisonCase, Exact, assert_close};
use crate::data::{backends, exact, numbers, values, variable};

fn three() -> ComparisonCase {
    ComparisonCase::new(&[11, 40], &[(24, 3), (16, 0), (9, 5)])
}

fn gradient(gradients: &GradStore, tensor: &Tensor) -> Tensor {
    gradients.get(tensor).cloned().expect("a gradient")
}

#[test]
fn a_second_use_of_an_adapter_adds_to_its_gradient() -> Result<()> {
    let case = ComparisonCase::new(&[11, 24], &[(24, 3)]);
    for (name, backend) in backends() {
        let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
        let twice = |x: &Tensor| -> Result<Tensor> {
            let y = lora_linears(x, &layers, &case.options(&backend))?.swap_remove(0);
            Ok(lora_linears(&y.tanh()?, &layers, &case.options(&backend))?.swap_remove(0))
        };
        let gradients = twice(&x)?.sqr()?.sum_all()?.backward()?;
        let (expected_x, layer) = (exact(&x)?, Exact::new(&layers[0], &case)?);
        let y = layer.forward(&expected_x, None)?;
        let expected = layer
            .forward(&y.tanh()?, None)?
            .sqr()?
            .sum_all()?
            .backward()?;
        let (a, b, _) = layer.lora.as_ref().unwrap();
        let lora = layers[0].lora.as_ref().unwrap();
        for (given, exact) in [
            (x.as_tensor(), expected_x.as_tensor()),
            (&lora.a, a),
            (&lora.b, b),
        ] {
            assert_close(
                &gradient(&gradients, given),
                &gradient(&expected, exact),
                DType::F32,
                name,
            )?;
        }
    }
    Ok(())
}

#[test]
fn an_output_that_the_loss_does_not_need_has_no_part_in_the_gradients() -> Result<()> {
    let case = three();
    for (name, backend) in backends() {
        for used in [vec![0], vec![1], vec![2], vec![1, 2]] {
            let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
            let ys = lora_linears(&x, &layers, &case.options(&backend))?;
            let loss = |ys: &[Tensor]| -> Result<Tensor> {
                let used = used.iter().map(|&i| ys[i].sqr()?.sum_all());
                Tensor::stack(&used.collect::<Result<Vec<_>>>()?, 0)?.sum_all()
            };
            let gradients = loss(&ys)?.backward()?;
            let exact_x = exact(&x)?;
            let exact_layers = layers
                .iter()
                .map(|layer| Exact::new(layer, &case))
                .collect::<Result<Vec<_>>>()?;
            let ys = exact_layers
                .iter()
                .map(|layer| layer.forward(&exact_x, None));
            let expected = loss(&ys.collect::<Result<Vec<_>>>()?)?.backward()?;
            let what = format!("{name}, {used:?}");
            assert_close(
                &gradient(&gradients, &x),
                &gradient(&expected, &exact_x),
                DType::F32,
                &what,
            )?;
            for (i, (layer, exact)) in layers.iter().zip(&exact_layers).enumerate() {
                let (Some(lora), Some((a, _, _))) = (&layer.lora, &exact.lora) else {
                    continue;
                };
                let given = gradient(&gradients, &lora.a);
                if used.contains(&i) {
                    assert_close(&given, &gradient(&expected, a), DType::F32, &what)?;
                } else {
                    assert!(
                        values(&given)?.iter().all(|&value| value == 0.0),
                        "{what}: {given}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn without_a_variable_before_it_x_gets_no_gradient_and_adapters_theirs() -> Result<()> {
    for case in [
        three(),
        ComparisonCase::new(&[11, 40], &[(24, 3)]).dropout(0.2, 4),
    ] {
        for (name, backend) in backends() {
            let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
            let run = |x: &Tensor| -> Result<GradStore> {
                let ys = lora_linears(x, &layers, &case.options(&backend))?;
                let sums = ys
                    .iter()
                    .map(|y| y.sqr()?.sum_all())
                    .collect::<Result<Vec<_>>>()?;
                Tensor::stack(&sums, 0)?.sum_all()?.backward()
            };
            let (with, without) = (run(&x)?, run(&x.detach())?);
            assert!(
                with.get(&x).is_some() && without.get(&x).is_none(),
                "{name}"
            );
            for lora in layers.iter().filter_map(|layer| layer.lora.as_ref()) {
                for tensor in [&lora.a, &lora.b] {
                    let same =
                        values(&gradient(&with, tensor))? == values(&gradient(&without, tensor))?;
                    assert!(same, "{name}: whether dx is computed changes nothing else");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn without_any_variable_there_is_no_graph() -> Result<()> {
    let case = three();
    let mut layers = case.layers()?;
    for lora in layers.iter_mut().filter_map(|layer| layer.lora.as_mut()) {
        (lora.a, lora.b) = (lora.a.detach(), lora.b.detach());
    }
    let x = numbers(&case.x, 1.0, 1, DType::F32)?;
    for (name, backend) in backends() {
        let ys = lora_linears(&x, &layers, &case.options(&backend))?;
        assert!(ys.iter().all(|y| !y.track_op()), "{name}");
        let tracked = lora_linears(&x, &case.layers()?, &case.options(&backend))?;
        for (plain, tracked) in ys.iter().zip(&tracked) {
            // One launch sums in another order than two.
            assert_close(plain, tracked, DType::F32, name)?;
        }
    }
    Ok(())
}

#[test]
fn a_graph_can_be_walked_twice_and_gives_the_same_bits() -> Result<()> {
    for case in [
        three().dropout(0.3, 5),
        ComparisonCase::new(&[11, 40], &[(24, 3)]),
    ] {
        for (name, backend) in backends() {
            let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
            let ys = lora_linears(&x, &layers, &case.options(&backend))?;
            let sums = ys
                .iter()
                .map(|y| y.sqr()?.sum_all())
                .collect::<Result<Vec<_>>>()?;
            let loss = Tensor::stack(&sums, 0)?.sum_all()?;
            let (first, second) = (loss.backward()?, loss.backward()?);
            let lora = layers[0].lora.as_ref().unwrap();
            for tensor in [x.as_tensor(), &lora.a, &lora.b] {
                let same =
                    values(&gradient(&first, tensor))? == values(&gradient(&second, tensor))?;
                assert!(same, "{name}");
            }
        }
    }
    Ok(())
}

/// An operation whose backward fails.
struct OneWay;

impl CustomOp1 for OneWay {
    fn name(&self) -> &'static str {
        "one_way"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }
}

/// The dy that a failed pass left must not be used by the next pass, whether or not that has a dy
/// for the same y.
#[test]
fn a_backward_that_failed_leaves_nothing_to_the_next() -> Result<()> {
    let case = three();
    for (name, backend) in backends() {
        let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
        let ys = lora_linears(&x, &layers, &case.options(&backend))?;
        let fresh = lora_linears(&x, &layers, &case.options(&backend))?;
        let fails = (ys[2].apply_op1(OneWay)?.sum_all()? + ys[0].sum_all()?)?;
        for y in [0, 1, 2] {
            let refused = fails
                .backward()
                .expect_err("an operation without a backward");
            assert!(refused.to_string().contains("one_way"), "{name}: {refused}");
            let (after, expected) = (
                ys[y].sqr()?.sum_all()?.backward()?,
                fresh[y].sqr()?.sum_all()?.backward()?,
            );
            for lora in layers.iter().filter_map(|layer| layer.lora.as_ref()) {
                for tensor in [x.as_tensor(), &lora.a, &lora.b] {
                    let same =
                        values(&gradient(&after, tensor))? == values(&gradient(&expected, tensor))?;
                    assert!(same, "{name}: y {y}");
                }
            }
        }
    }
    Ok(())
}

/// The first link that is part of the graph ends the chain: no gradient flows to a token before it.
#[test]
fn a_frozen_adapter_before_a_trained_one_has_no_part_in_backward() -> Result<()> {
    let case = three();
    for (name, backend) in backends() {
        let (x, mut layers) = (numbers(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
        let trained = lora_linears(&x, &layers, &case.options(&backend))?;
        let expected = trained[2].sqr()?.sum_all()?.backward()?;
        let lora = layers[0].lora.as_mut().expect("an adapter");
        (lora.a, lora.b) = (lora.a.detach(), lora.b.detach());
        let ys = lora_linears(&x, &layers, &case.options(&backend))?;
        let gradients = ys[2].sqr()?.sum_all()?.backward()?;
        let lora = layers[2].lora.as_ref().expect("an adapter");
        for tensor in [&lora.a, &lora.b] {
            let same =
                values(&gradient(&gradients, tensor))? == values(&gradient(&expected, tensor))?;
            assert!(same, "{name}");
        }
        assert_eq!(
            gradients.get_ids().count(),
            2,
            "{name}: lora_A and lora_B of the last"
        );
    }
    Ok(())
}

/// Each thread has a pass of its own. This is tested on the CPU only: on candle's CUDA device,
/// threads must not share graphs (see `Backend::Local`).
#[test]
fn two_threads_walk_one_graph_of_the_cpu_backwards() -> Result<()> {
    let case = three();
    for (name, backend) in backends() {
        let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
        let ys = lora_linears(&x, &layers, &case.options(&backend))?;
        let losses = [ys[0].sqr()?.sum_all()?, ys[2].sum_all()?];
        let alone = losses
            .iter()
            .map(|loss| values(&gradient(&loss.backward()?, &x)));
        let alone = alone.collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            for (loss, alone) in losses.iter().zip(&alone) {
                let x = &x;
                scope.spawn(move || {
                    for _ in 0..8 {
                        let gradients = loss.backward().expect("a backward");
                        assert_eq!(&values(&gradient(&gradients, x)).unwrap(), alone, "{name}");
                    }
                });
            }
        });
    }
    Ok(())
}

#[test]
fn without_tokens_outputs_are_empty_and_gradients_zero() -> Result<()> {
    for dims in [[2, 0, 40], [0, 3, 40]] {
        let case = ComparisonCase::new(&dims, &[(24, 3), (16, 0), (9, 5)]);
        for (name, backend) in backends() {
            let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
            let y = lora_linears(&x, &layers, &case.options(&backend))?;
            let mut loss = Tensor::zeros((), DType::F32, x.device())?;
            for (y, out_features) in y.iter().zip([24, 16, 9]) {
                assert_eq!(y.dims(), [dims[0], dims[1], out_features], "{name}");
                loss = (loss + y.sum_all()?)?;
            }
            let gradients = loss.backward()?;
            assert_eq!(gradient(&gradients, &x).dims(), dims, "{name}");
            for layer in [&layers[0], &layers[2]] {
                let lora = layer.lora.as_ref().expect("an adapter");
                for matrix in [&lora.a, &lora.b] {
                    let gradient = gradient(&gradients, matrix);
                    assert_eq!(gradient.dims(), matrix.dims(), "{name}");
                    assert!(
                        values(&gradient)?.iter().all(|value| *value == 0.0),
                        "{name}"
                    );
                }
            }
        }
    }
    Ok(())
}
