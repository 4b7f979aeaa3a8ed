//! Views are read in place.

use candle_core::{DType, Result, Tensor};
use lora_kernels_candle::{Projection, lora_linears};

use crate::compare::ComparisonCase;
use crate::data::{backends, numbers, values};

#[test]
fn x_may_be_a_part_of_the_columns_or_rows_of_a_larger_tensor() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let case = ComparisonCase::new(&[2, 9, 40], &[(24, 3)]).dtypes(dtype, dtype);
        case.check_view(&[2, 9, 101], &|x| x.narrow(2, 3, 40))?;
        case.check_view(&[2, 9, 64], &|x| x.narrow(2, 16, 40))?;
        case.check_view(&[5, 9, 40], &|x| x.narrow(0, 2, 2))?;
        let shared = ComparisonCase::new(&[9, 33], &[(24, 3), (17, 5)])
            .dtypes(dtype, dtype)
            .dropout(0.25, 3);
        shared.check_view(&[9, 2, 33], &|x| x.narrow(1, 1, 1)?.squeeze(1))?;
    }
    Ok(())
}

/// A view with the same numbers into a larger matrix.
fn within(tensor: &Tensor, before: usize, after: usize) -> Result<Tensor> {
    let (rows, columns) = tensor.dims2()?;
    let filler = |columns| numbers(&[rows, columns], 9.0, 77, tensor.dtype());
    let wide = Tensor::cat(&[filler(before)?, tensor.detach(), filler(after)?], 1)?;
    let view = wide.narrow(1, before, columns)?;
    assert!(rows == 1 || !view.is_contiguous());
    Ok(view)
}

#[test]
fn weights_and_adapters_may_be_views_too() -> Result<()> {
    for (name, backend) in backends() {
        for case in [
            ComparisonCase::new(&[7, 40], &[(24, 3)]),
            ComparisonCase::new(&[7, 40], &[(24, 3)]).transposed(),
        ] {
            let x = numbers(&case.x, 1.0, 1, DType::F32)?;
            let [layer] = &case.layers()?[..] else {
                unreachable!()
            };
            let lora = layer.lora.as_ref().unwrap();
            let viewed = Projection {
                weight: within(&layer.weight, 5, 3)?,
                bias: Some(within(&layer.bias.as_ref().unwrap().unsqueeze(0)?, 1, 2)?.squeeze(0)?),
                lora: Some(lora_kernels_candle::Lora {
                    a: within(&lora.a, 8, 8)?,
                    b: within(&lora.b, 1, 1)?,
                    ..*lora
                }),
            };
            let options = case.options(&backend);
            let whole = lora_linears(&x, std::slice::from_ref(layer), &options)?;
            let views = lora_linears(&x, &[viewed], &options)?;
            let (whole, views) = (values(&whole[0])?, values(&views[0])?);
            let error = lora_kernels::reference::relative_error(&views, &whole);
            assert!(error < 1e-6, "{name}: {error:e}");
        }
    }
    Ok(())
}
