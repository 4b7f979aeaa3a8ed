//! Tensors of candle's CUDA device: the same bits as from the same tensors carried to that device, in candle's own memory and on its own stream.
//! `cargo xtask candle-cuda` runs it on the emulated device.

#[path = "against_candle/data.rs"]
#[allow(dead_code)]
mod data;

use candle_core::{DType, Device, Result, Tensor, Var};
use data::{backends, numbers};
use lora_kernels::Dropout;
use lora_kernels_candle::{Backend, Lora, Options, Projection, lora_linears};

struct Case {
    x: Vec<usize>,
    projections: Vec<(usize, usize)>,
    dtype: DType,
    adapter_dtype: DType,
    dropout: Option<Dropout>,
}

/// y of each projection, dx, the gradients of each adapter, and the merged weights, as f32 on the CPU.
fn run(case: &Case, device: &Device, backend: Backend) -> Result<Vec<Vec<f32>>> {
    let there = |dims: &[usize], seed, dtype| numbers(dims, 0.5, seed, dtype)?.to_device(device);
    let in_features = case.x[case.x.len() - 1];
    let x = Var::from_tensor(&there(&case.x, 1, case.dtype)?)?;
    let layers = case.projections.iter().zip(1..).map(|(&(out_features, rank), index)| {
        let matrix = |dims: &[usize], seed| Var::from_tensor(&there(dims, 10 * index + seed, case.adapter_dtype)?);
        let lora = (rank > 0).then(|| {
            Ok::<_, candle_core::Error>(Lora {
                a: matrix(&[rank, in_features], 1)?.into_inner(),
                b: matrix(&[out_features, rank], 2)?.into_inner(),
                scaling: 1.7,
            })
        });
        Ok::<_, candle_core::Error>(Projection {
            weight: there(&[out_features, in_features], 10 * index + 3, case.dtype)?,
            bias: Some(there(&[out_features], 10 * index + 4, case.dtype)?),
            lora: lora.transpose()?,
        })
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let options = Options {
        dropout: case.dropout,
        backend,
        ..Options::default()
    };
    let merged = layers.iter().map(|layer| layer.merged_weight(&options));
    let merged = merged.collect::<Result<Vec<_>>>()?;
    let ys = lora_linears(&x, &layers, &options)?;
    let squares = ys.iter().map(|y| y.to_dtype(DType::F32)?.sqr()?.sum_all());
    let loss = squares.reduce(|sum, one| sum? + one?).expect("a projection")?;
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
        (DType::F16, DType::F16),
    ] {
        for (x, projections, p) in [
            (vec![1, 40], vec![(24, 3)], 0.0),
            (vec![2, 19, 64], vec![(64, 3), (24, 0), (16, 9)], 0.3),
            (vec![33, 65], vec![(31, 5)], 0.1),
        ] {
            let case = Case {
                x,
                projections,
                dtype,
                adapter_dtype,
                dropout: (p > 0.0).then_some(Dropout { p, seed: 3, offset: 4 }),
            };
            let local = run(&case, &device, Backend::Local)?;
            let expected = run(&case, &Device::Cpu, carried.clone())?;
            assert!(local == expected, "{:?} {:?} {dtype:?}", case.x, case.projections);
        }
    }
    Ok(())
}

/// Rows of a wider tensor, the first of them in its middle; and an output that the loss doesn't need.
#[test]
fn views_are_read_where_they_lie() -> Result<()> {
    let device = Device::new_cuda(0)?;
    for offset in [8, 5] {
        let run = |device: &Device, backend: Backend| -> Result<Vec<f64>> {
            let there = |dims: &[usize], seed| numbers(dims, 0.5, seed, DType::F32)?.to_device(device);
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
            let ys = lora_linears(&wide.narrow(2, offset, 40)?, &[layer(10)?, layer(20)?], &options)?;
            let dx = ys[1].backward()?.remove(&wide).expect("a gradient");
            let both = [&ys[0], &ys[1], &dx].map(|tensor| data::values(&tensor.to_device(&Device::Cpu)?));
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
    let case = Case {
        x: vec![3, 8],
        projections: vec![(8, 2)],
        dtype: DType::F32,
        adapter_dtype: DType::F32,
        dropout: None,
    };
    let error = run(&case, &device, carried).expect_err("a refusal").to_string();
    assert!(error.contains("Backend::Carried is for tensors of the CPU"), "{error}");
    Ok(())
}
