//! Dropout: forward and backward use the reference's mask (which `cases` tests too), every call
//! draws another mask, and the mean over masks is the result without dropout.

use candle_core::{DType, Result, Tensor};
use lora_kernels::Mask;
use lora_kernels_candle::{Backend, LoraLinears, Masks, lora_linears};

use crate::compare::{ComparisonCase, assert_close};
use crate::data::{backends, numbers, values, variable};

#[test]
fn the_mask_is_philox_of_the_flattened_rows() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        for p in [0.0, 0.1, 0.9] {
            ComparisonCase::new(&[3, 7, 70], &[(24, 3)])
                .dtypes(dtype, dtype)
                .dropout(p, u64::MAX)
                .check()?;
        }
    }
    Ok(())
}

#[test]
fn a_mask_drawn_again_gives_the_same_gradients_as_a_stored_one() -> Result<()> {
    for case in [
        ComparisonCase::new(&[9, 70], &[(24, 3)]).dropout(0.4, 6),
        ComparisonCase::new(&[9, 70], &[(24, 3), (8, 4)]).dropout(0.4, 6),
    ] {
        for (name, backend) in backends() {
            let (x, layers) = (variable(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
            let run = |mask| -> Result<Vec<f64>> {
                let mut options = case.options(&backend);
                options.mask = mask;
                let y = lora_linears(&x, &layers, &options)?.swap_remove(0);
                values(y.sqr()?.sum_all()?.backward()?.get(&x).expect("a gradient"))
            };
            assert_eq!(run(Mask::Stored)?, run(Mask::Redrawn)?, "{name}");
        }
    }
    Ok(())
}

#[test]
fn masks_differ_from_call_to_call_and_repeat_from_the_same_offset() -> Result<()> {
    let case = ComparisonCase::new(&[6, 40], &[(24, 3)]);
    let x = numbers(&case.x, 1.0, 1, DType::F32)?;
    for (name, backend) in backends() {
        let layer = |masks: &Masks| -> Result<LoraLinears> {
            let layers = LoraLinears::new(case.layers()?);
            Ok(layers
                .with_dropout(masks.clone())
                .with_backend(backend.clone()))
        };
        let masks = Masks::new(0.3, 7);
        let (first, second) = (layer(&masks)?, layer(&masks)?);
        let y = |layer: &LoraLinears, train| values(&layer.forward_t(&x, train)?[0]);
        let calls = [y(&first, true)?, y(&first, true)?, y(&second, true)?];
        assert!(
            calls[0] != calls[1] && calls[1] != calls[2] && calls[0] != calls[2],
            "{name}"
        );
        assert_eq!(masks.offset(), 3);
        let again = layer(&Masks::new(0.3, 7).starting_at(1))?;
        assert_eq!(y(&again, true)?, calls[1], "{name}");
        let _ = masks.clone().starting_at(70);
        assert_eq!(
            masks.offset(),
            3,
            "{name}: a sequence of its own doesn't rewind the shared one"
        );
        let without = values(
            &LoraLinears::new(case.layers()?)
                .with_backend(backend.clone())
                .forward(&x)?[0],
        )?;
        assert_eq!(
            y(&first, false)?,
            without,
            "{name}: no dropout outside of training"
        );
        assert_eq!(masks.offset(), 3, "{name}: and no mask drawn");
    }
    Ok(())
}

/// The mean of y over many masks approaches y without dropout: the error of the adapter's part is
/// its standard deviation divided by √calls.
#[test]
fn in_expectation_dropout_changes_nothing() -> Result<()> {
    let case = ComparisonCase::new(&[4, 40], &[(24, 3)]).bias(false);
    let (x, layers) = (numbers(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
    let expected = lora_linears(&x, &layers, &case.options(&Backend::Local))?.swap_remove(0);
    let calls = 400;
    let dropped = (0..calls).map(|offset| {
        let case = case.clone().dropout(0.5, offset);
        Ok(lora_linears(&x, &layers, &case.options(&Backend::Local))?.swap_remove(0))
    });
    let dropped = Tensor::stack(&dropped.collect::<Result<Vec<_>>>()?, 0)?;
    let single =
        lora_kernels::reference::relative_error(&values(&dropped.get(0)?)?, &values(&expected)?);
    let mean =
        lora_kernels::reference::relative_error(&values(&dropped.mean(0)?)?, &values(&expected)?);
    assert!(single > 0.3, "one mask alone is far off: {single}");
    assert!(
        mean < 2.0 * single / (calls as f64).sqrt(),
        "{mean} after {calls} masks, {single} after one"
    );
    Ok(())
}

/// Dropout with p = 0 gives the result without dropout.
#[test]
fn without_a_probability_nothing_is_dropped() -> Result<()> {
    let case = ComparisonCase::new(&[5, 33], &[(24, 3)]);
    let (x, layers) = (numbers(&case.x, 1.0, 1, DType::F32)?, case.layers()?);
    for (name, backend) in backends() {
        let y = |case: &ComparisonCase| {
            Ok::<_, candle_core::Error>(
                lora_linears(&x, &layers, &case.options(&backend))?.swap_remove(0),
            )
        };
        assert_close(
            &y(&case.clone().dropout(0.0, 3))?,
            &y(&case)?,
            DType::F32,
            name,
        )?;
    }
    Ok(())
}
