//! Tensors of candle's CUDA device, in candle's own memory and on its own stream, give the same
//! bits as CPU tensors copied to that device. `cargo xtask candle-cuda` runs this on the emulated
//! device.

#[path = "against_candle/data.rs"]
#[allow(dead_code)]
mod data;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var,
};
use data::{backends, numbers};
use lora_kernels::{Dropout, Mask, WeightLayout};
use lora_kernels_candle::{Backend, Lora, Options, Projection, lora_linears};

#[derive(Debug, Clone)]
struct CudaCase {
    x: Vec<usize>,
    projections: Vec<(usize, usize)>,
    dtype: DType,
    adapter_dtype: DType,
    dropout: Option<Dropout>,
    mask: Mask,
    weight_layout: WeightLayout,
}

impl CudaCase {
    fn new(x: &[usize], projections: &[(usize, usize)], p: f32) -> Self {
        Self {
            x: x.to_vec(),
            projections: projections.to_vec(),
            dtype: DType::F32,
            adapter_dtype: DType::F32,
            dropout: (p > 0.0).then_some(Dropout {
                p,
                seed: 3,
                offset: 4,
            }),
            mask: Mask::Stored,
            weight_layout: WeightLayout::OutIn,
        }
    }
}

/// Returns y of each projection, dx, the gradients of each adapter, and the merged weights, as f32
/// on the CPU.
fn run(case: &CudaCase, device: &Device, backend: Backend) -> Result<Vec<Vec<f32>>> {
    let there = |dims: &[usize], seed, dtype| numbers(dims, 0.5, seed, dtype)?.to_device(device);
    let in_features = case.x[case.x.len() - 1];
    let x = Var::from_tensor(&there(&case.x, 1, case.dtype)?)?;
    let layers = case
        .projections
        .iter()
        .zip(1..)
        .map(|(&(out_features, rank), index)| {
            let weight = match case.weight_layout {
                WeightLayout::OutIn => [out_features, in_features],
                WeightLayout::InOut => [in_features, out_features],
            };
            let matrix = |dims: &[usize], seed| {
                Var::from_tensor(&there(dims, 10 * index + seed, case.adapter_dtype)?)
            };
            let lora = (rank > 0).then(|| {
                Ok::<_, candle_core::Error>(Lora {
                    a: matrix(&[rank, in_features], 1)?.into_inner(),
                    b: matrix(&[out_features, rank], 2)?.into_inner(),
                    scaling: 1.7,
                })
            });
            Ok::<_, candle_core::Error>(Projection {
                weight: there(&weight, 10 * index + 3, case.dtype)?,
                bias: Some(there(&[out_features], 10 * index + 4, case.dtype)?),
                lora: lora.transpose()?,
            })
        });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let options = Options {
        dropout: case.dropout,
        mask: case.mask,
        weight_layout: case.weight_layout,
        backend,
        ..Options::default()
    };
    let merged = layers
        .iter()
        .map(|layer| Ok(layer.merged_weight_with_report(&options)?.0));
    let merged = merged.collect::<Result<Vec<_>>>()?;
    let ys = lora_linears(&x, &layers, &options)?;
    let squares = ys.iter().map(|y| y.to_dtype(DType::F32)?.sqr()?.sum_all());
    let loss = squares
        .reduce(|sum, term| sum? + term?)
        .expect("a projection")?;
    let gradients = loss.backward()?;
    let adapters = layers.iter().filter_map(|layer| layer.lora.as_ref());
    let leaves = std::iter::once(x.as_tensor()).chain(adapters.flat_map(|lora| [&lora.a, &lora.b]));
    let leaves = leaves.map(|leaf| gradients.get(leaf).cloned().expect("a gradient"));
    let results: Vec<Tensor> = ys.iter().cloned().chain(leaves).chain(merged).collect();
    let on_cpu = results.iter().map(|tensor| {
        tensor
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()
    });
    on_cpu.collect()
}

#[test]
fn results_are_those_of_carried_tensors_bit_for_bit() -> Result<()> {
    let [_, (_, carried)] = backends();
    let device = Device::new_cuda(0)?;
    for (dtype, adapter_dtype) in [
        (DType::F32, DType::F32),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::F16, DType::F32),
        (DType::F16, DType::F16),
    ] {
        for case in [
            CudaCase::new(&[1, 40], &[(24, 3)], 0.0),
            CudaCase::new(&[2, 19, 64], &[(64, 3), (24, 0), (16, 9)], 0.3),
            CudaCase::new(&[33, 65], &[(31, 5)], 0.1),
            CudaCase {
                mask: Mask::Redrawn,
                weight_layout: WeightLayout::InOut,
                ..CudaCase::new(&[9, 40], &[(24, 3), (17, 2)], 0.2)
            },
        ] {
            let case = CudaCase {
                dtype,
                adapter_dtype,
                ..case
            };
            let local = run(&case, &device, Backend::Local)?;
            let expected = run(&case, &Device::Cpu, carried.clone())?;
            assert!(local == expected, "{case:?}");
        }
    }
    Ok(())
}

fn two_layers(device: &Device, trained: bool) -> Result<Vec<Projection>> {
    let there = |dims: &[usize], seed| numbers(dims, 0.5, seed, DType::F32)?.to_device(device);
    let matrix = |dims: &[usize], seed| -> Result<Tensor> {
        let tensor = there(dims, seed)?;
        Ok(if trained {
            Var::from_tensor(&tensor)?.into_inner()
        } else {
            tensor
        })
    };
    let layer = |seed| -> Result<Projection> {
        Ok(Projection {
            weight: there(&[24, 40], seed)?,
            bias: None,
            lora: Some(Lora {
                a: matrix(&[3, 40], seed + 1)?,
                b: matrix(&[24, 3], seed + 2)?,
                scaling: 0.7,
            }),
        })
    };
    Ok(vec![layer(10)?, layer(20)?])
}

#[test]
fn without_any_variable_there_is_no_graph() -> Result<()> {
    let device = Device::new_cuda(0)?;
    let x = numbers(&[9, 40], 0.5, 1, DType::F32)?.to_device(&device)?;
    let plain = lora_linears(&x, &two_layers(&device, false)?, &Options::default())?;
    let tracked = lora_linears(&x, &two_layers(&device, true)?, &Options::default())?;
    for (plain, tracked) in plain.iter().zip(&tracked) {
        assert!(!plain.track_op() && tracked.track_op());
        // One launch sums in another order than two.
        let furthest = (plain - tracked)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(furthest < 1e-5, "{furthest}");
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

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

/// The dy that a failed pass left must not be used by the next pass, whether or not that has a dy
/// for the same y.
#[test]
fn a_backward_that_failed_leaves_nothing_to_the_next() -> Result<()> {
    let device = Device::new_cuda(0)?;
    let x = numbers(&[9, 40], 0.5, 1, DType::F32)?.to_device(&device)?;
    let layers = two_layers(&device, true)?;
    let [ys, fresh] = [0, 1].map(|_| lora_linears(&x, &layers, &Options::default()));
    let (ys, fresh) = (ys?, fresh?);
    let fails = (ys[1].apply_op1(OneWay)?.sum_all()? + ys[0].sum_all()?)?;
    for y in [0, 1] {
        let refused = fails
            .backward()
            .expect_err("an operation without a backward");
        assert!(refused.to_string().contains("one_way"), "{refused}");
        let (after, expected) = (
            ys[y].sqr()?.sum_all()?.backward()?,
            fresh[y].sqr()?.sum_all()?.backward()?,
        );
        for lora in layers.iter().filter_map(|layer| layer.lora.as_ref()) {
            for tensor in [&lora.a, &lora.b] {
                let [after, expected] =
                    [&after, &expected].map(|gradients| gradients.get(tensor).expect("a gradient"));
                assert_eq!(after.to_vec2::<f32>()?, expected.to_vec2::<f32>()?, "y {y}");
            }
        }
    }
    Ok(())
}

/// Views of rows in the middle of a wider tensor, and an output that the loss doesn't use.
#[test]
fn views_are_read_where_they_lie() -> Result<()> {
    let device = Device::new_cuda(0)?;
    for offset in [8, 5] {
        let run = |device: &Device, backend: Backend| -> Result<Vec<f64>> {
            let there =
                |dims: &[usize], seed| numbers(dims, 0.5, seed, DType::F32)?.to_device(device);
            let wide = Var::from_tensor(&there(&[3, 7, 61], 1)?)?;
            let layer = |seed| -> Result<Projection> {
                Ok(Projection {
                    weight: there(&[24, 50], seed)?.narrow(1, 3, 40)?,
                    bias: None,
                    lora: Some(Lora {
                        a: there(&[3, 40], seed + 1)?,
                        b: there(&[24, 9], seed + 2)?.narrow(1, 6, 3)?,
                        scaling: 0.7,
                    }),
                })
            };
            let options = Options {
                backend,
                ..Options::default()
            };
            let ys = lora_linears(
                &wide.narrow(2, offset, 40)?,
                &[layer(10)?, layer(20)?],
                &options,
            )?;
            let dx = ys[1].backward()?.remove(&wide).expect("a gradient");
            let both =
                [&ys[0], &ys[1], &dx].map(|tensor| data::values(&tensor.to_device(&Device::Cpu)?));
            let [first, second, dx] = both;
            Ok([first?, second?, dx?].concat())
        };
        let [_, (_, carried)] = backends();
        let (local, expected) = (run(&device, Backend::Local)?, run(&Device::Cpu, carried)?);
        let error = lora_kernels::reference::relative_error(&local, &expected);
        assert!(error < 1e-6, "columns from {offset}: {error:e}");
    }
    Ok(())
}

#[test]
fn a_backend_for_the_cpu_is_refused() -> Result<()> {
    let [_, (_, carried)] = backends();
    let device = Device::new_cuda(0)?;
    let options = Options {
        backend: carried,
        ..Options::default()
    };
    let layers = two_layers(&device, true)?;
    let x = numbers(&[3, 40], 0.5, 1, DType::F32)?;
    let words = "Backend::Carried is for tensors of the CPU";
    for (error, tensor) in [
        (
            lora_linears(&x.to_device(&device)?, &layers, &options).map(drop),
            "x is on",
        ),
        (layers[0].merged_weight(&options).map(drop), "weight is on"),
    ] {
        let error = error.expect_err("a refusal").to_string();
        assert!(
            error.starts_with(tensor) && error.contains(words),
            "{error}"
        );
    }
    let elsewhere = lora_linears(&x, &layers, &options)
        .expect_err("a refusal")
        .to_string();
    assert!(
        elsewhere.contains("x is on the CPU, and all must be on one device"),
        "{elsewhere}"
    );
    Ok(())
}
