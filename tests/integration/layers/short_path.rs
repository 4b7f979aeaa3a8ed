//! `LoraLinear`: the bits of the calls below it, in memory of its own, and what it refuses.

use std::sync::{Arc, OnceLock};

use half::bf16;
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::layer::{BackwardOptions, DynLoraInputs};
use lora_kernels::{
    Argument, DType, Dropout, DynMatRef, Error, Lora, LoraGradients, LoraInputs, LoraLinear,
    LoraProjection, Mask, MatMut, MatRef, Role,
};

use crate::common::case::LayerCase;
use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::device::{Number, gpu};
use crate::common::layer::{TestLayer, assert_same_bits};
use crate::common::memory::Output;
use crate::common::short_path::{
    BytesOnDevice, OnDevice, bits_of_gradients, bits_of_y, lora_linear, read,
};

fn cases() -> Vec<LayerCase> {
    let case = LayerCase::new(70, 200, 136, 24);
    vec![
        case.clone().bias(false),
        case.clone().dropout(0.3),
        case.clone().dropout(0.3).redrawn(true),
        case.clone().transposed(true),
        case.clone().placed(AlignedView).dropout(0.1),
        case.clone().placed(OddView),
        case.with_placement(Role::X, OddView),
        LayerCase::new(1, 384, 1536, 8),
        LayerCase::new(1, 72, 40, 16).placed(OddView).dropout(0.5),
        LayerCase::new(17, 33, 51, 3).dropout(0.2),
        LayerCase::new(130, 264, 1000, 1),
        LayerCase::sharing_x(65, 72, &[(96, 16), (40, 0), (24, 3)]).dropout(0.2),
        LayerCase::sharing_x(33, 71, &[(51, 33), (7, 0)]).transposed(true),
    ]
}

/// Those have been compared with the reference.
fn bits_are_those_of_the_typed_calls<T: Number, A: Number>() {
    let short = lora_linear();
    for case in cases() {
        let layer = TestLayer::<T, A>::random(&case);
        let (forward, backward) = layer.check();
        let device = OnDevice::new(&layer);
        let inputs = device.inputs();
        let (y, saved) = short.forward(&inputs).expect("forward runs");
        let what = format!("{case:?}");
        let y_bits = &forward.bits()[..case.projections.len()];
        assert_same_bits(&bits_of_y(&y), y_bits, &what);
        assert_eq!(saved.bytes(), forward.saved.len(), "{what}");
        let inference = TestLayer {
            case: case.clone().redrawn(true).inference(),
            ..layer.clone()
        };
        let inferred = inference.forward();
        inference.check_forward(&inferred);
        assert_same_bits(
            &bits_of_y(&short.infer(&inputs).expect("runs")),
            &inferred.bits()[..case.projections.len()],
            &what,
        );
        // Twice: what forward saved stays.
        for _ in 0..2 {
            let gradients = short
                .backward(&inputs, &saved, &device.dy())
                .expect("backward runs");
            assert_same_bits(&bits_of_gradients(&gradients), &backward.bits(), &what);
        }
    }
}

fn adapters_of_the_tensors_type<T: Number>() {
    bits_are_those_of_the_typed_calls::<T, T>();
}

fn adapters_in_f32<T: Number>() {
    bits_are_those_of_the_typed_calls::<T, f32>();
}

mod alike {
    use super::adapters_of_the_tensors_type;
    for_each_dtype!(adapters_of_the_tensors_type);
}

mod wide {
    use super::adapters_in_f32;
    for_each_narrow_dtype!(adapters_in_f32);
}

#[test]
fn gradients_are_added_to_what_is_there() {
    let case = LayerCase::sharing_x(33, 71, &[(51, 33), (40, 0), (7, 3)]).dropout(0.4);
    let case = case
        .accumulate(&[Role::DLoraA, Role::DLoraB])
        .input_gradient(false);
    for case in [
        case.clone(),
        case.clone().placed(OddView),
        case.placed(AlignedView),
    ] {
        let layer = TestLayer::<bf16, f32>::random(&case);
        let (_, expected) = layer.check();
        let device = OnDevice::new(&layer);
        let (inputs, short) = (device.inputs(), lora_linear());
        let (_, saved) = short.forward(&inputs).expect("forward runs");
        let before = layer
            .projections
            .iter()
            .map(|projection| projection.gradients.as_ref());
        let mut memory: Vec<_> = before
            .map(|lora| lora.map(|lora| [Output::new(&lora.a), Output::new(&lora.b)]))
            .collect();
        let targets: Vec<_> = memory
            .iter_mut()
            .map(|pair| {
                let [a, b] = pair.as_mut()?;
                Some(LoraGradients {
                    a: a.matrix(),
                    b: b.matrix(),
                })
            })
            .collect();
        let options = BackwardOptions::default()
            .with_input_gradient(false)
            .accumulate(targets);
        let gradients = short.backward_with(&inputs, &saved, &device.dy(), options);
        let gradients = gradients.expect("backward runs");
        assert!(gradients.dx.is_none());
        assert!(gradients.adapters.iter().all(Option::is_none));
        for (i, (memory, expected)) in memory.iter().zip(&expected.gradients).enumerate() {
            let (Some([a, b]), Some(expected)) = (memory, expected) else {
                assert!(memory.is_none() && expected.is_none());
                continue;
            };
            assert_eq!(
                a.read_back("d_lora_A").rows(),
                expected.a.rows(),
                "{i}: {case:?}"
            );
            assert_eq!(
                b.read_back("d_lora_B").rows(),
                expected.b.rows(),
                "{i}: {case:?}"
            );
        }
    }
}

fn no_tokens<T: Number, A: Number>() {
    let case = LayerCase::sharing_x(3, 40, &[(24, 16), (8, 0), (16, 3)]).dropout(0.2);
    let layer = TestLayer::<T, A>::random(&case);
    let device = OnDevice::new(&layer);
    let (short, stream) = (lora_linear(), &gpu().stream);
    let memory = stream.alloc_zeros::<T>(1).expect("memory");
    let empty = |columns| MatRef::new(memory.slice(0..0), 0, columns);
    let mut inputs = device.inputs();
    inputs.x = empty(40);
    let (y, saved) = short.forward(&inputs).expect("nothing to do");
    assert!(y.len() == 3 && y.iter().all(|y| y.is_empty()));
    assert!(
        short
            .infer(&inputs)
            .expect("nothing to do")
            .iter()
            .all(|y| y.is_empty())
    );
    let dy = [24, 8, 16].map(empty);
    let gradients = short
        .backward(&inputs, &saved, &dy)
        .expect("nothing but zeros");
    assert!(gradients.dx.expect("dx").is_empty());
    assert!(gradients.adapters[1].is_none());
    for (i, rank, out_features) in [(0, 16, 24), (2, 3, 16)] {
        let adapter = gradients.adapters[i].as_ref().expect("an adapter");
        for (elements, expected) in [
            (read(&adapter.a), rank * 40),
            (read(&adapter.b), out_features * rank),
        ] {
            assert_eq!(elements.len(), expected);
            assert!(elements.iter().all(|value| value.to_f64() == 0.0));
        }
    }
    // Its arguments are checked no less.
    inputs.projections[0].lora = None;
    inputs.projections[2].lora = None;
    assert!(matches!(short.forward(&inputs), Err(Error::NotAdapted)));
    let mut inputs = device.inputs();
    inputs.x = empty(41);
    assert!(matches!(short.infer(&inputs), Err(Error::Fit { .. })));
}

fn without_tokens<T: Number>() {
    no_tokens::<T, T>();
    no_tokens::<T, f32>();
}

for_each_dtype!(without_tokens);

#[test]
fn without_tokens_nothing_is_added() {
    let case = LayerCase::new(2, 40, 24, 8).accumulate(&[Role::DLoraA, Role::DLoraB]);
    let layer = TestLayer::<bf16>::random(&case);
    let device = OnDevice::new(&layer);
    let memory = gpu().stream.alloc_zeros::<bf16>(1).expect("memory");
    let empty = |columns| MatRef::new(memory.slice(0..0), 0, columns);
    let (short, mut inputs) = (lora_linear(), device.inputs());
    inputs.x = empty(40);
    let (_, saved) = short.forward(&inputs).expect("nothing to do");
    let before = layer.projections[0].gradients.as_ref().expect("an adapter");
    let [mut a, mut b] = [Output::new(&before.a), Output::new(&before.b)];
    let targets = [Some(LoraGradients {
        a: a.matrix(),
        b: b.matrix(),
    })];
    let options = BackwardOptions::default().accumulate(targets);
    let gradients = short.backward_with(&inputs, &saved, &[empty(24)], options);
    assert!(gradients.expect("nothing to do").dx.expect("dx").is_empty());
    assert_eq!(a.read_back("d_lora_A").rows(), before.a.rows());
    assert_eq!(b.read_back("d_lora_B").rows(), before.b.rows());
}

#[test]
fn a_plan_is_made_once_for_a_shape_and_layout() {
    let short = lora_linear();
    let case = LayerCase::new(70, 200, 136, 24).dropout(0.2);
    let layer = TestLayer::<bf16>::random(&case);
    let device = OnDevice::new(&layer);
    let plan = |inputs: &LoraInputs<'_, bf16>| short.forward_plan(inputs).expect("a plan");
    let (first, second) = (plan(&device.inputs()), plan(&device.inputs()));
    assert!(Arc::ptr_eq(&first, &second));
    // Other numbers and another draw are the same shape.
    let (other, redrawn) = (
        TestLayer::<bf16>::random(&case),
        Dropout {
            p: 0.9,
            seed: 1,
            offset: 2,
        },
    );
    let other = OnDevice::new(&other);
    assert!(Arc::ptr_eq(
        &first,
        &plan(&other.inputs().with_dropout(redrawn))
    ));
    let backward = || {
        short
            .backward_plan(&device.inputs(), &device.dy())
            .expect("a plan")
    };
    assert!(Arc::ptr_eq(&backward(), &backward()));
    // The short call takes the plan that it shows.
    short.forward(&device.inputs()).expect("forward runs");
    assert!(Arc::ptr_eq(&first, &plan(&device.inputs())));
    for changed in [
        device.inputs().with_mask(Mask::Redrawn),
        device.inputs().with_dropout(None),
    ] {
        assert!(!Arc::ptr_eq(&first, &plan(&changed)));
    }
    for case in [
        case.clone().with_placement(Role::X, OddView),
        case.clone().with_placement(Role::Weight, AlignedView),
        case.with_placement(Role::LoraB, OddView),
    ] {
        let layer = TestLayer::<bf16>::random(&case);
        let device = OnDevice::new(&layer);
        let changed = plan(&device.inputs());
        assert!(!Arc::ptr_eq(&first, &changed), "{case:?}");
        assert_eq!(*changed, case.forward_plan::<bf16>(), "{case:?}");
    }
}

/// A layer of these sizes whose numbers nobody looks at.
fn with_tokens<R>(tokens: usize, call: impl FnOnce(&LoraInputs<'_, bf16>) -> R) -> R {
    let layer = TestLayer::<bf16>::random(&LayerCase::new(tokens, 16, 8, 3).bias(false));
    let device = OnDevice::new(&layer);
    call(&device.inputs())
}

#[test]
fn plans_that_are_not_used_make_room() {
    let short = lora_linear();
    let plan = |tokens| with_tokens(tokens, |inputs| short.forward_plan(inputs).expect("a plan"));
    let (first, second) = (plan(1), plan(2));
    for tokens in 3..=256 {
        plan(tokens);
    }
    // All are kept; now the second is the one used least lately.
    assert!(Arc::ptr_eq(&first, &plan(1)));
    plan(257);
    assert!(Arc::ptr_eq(&first, &plan(1)));
    assert!(!Arc::ptr_eq(&second, &plan(2)));
}

#[test]
fn kernels_are_loaded_once_for_a_context() {
    let other = gpu().stream.context().new_stream().expect("a stream");
    let layers = [&gpu().stream, &other].map(|stream| LoraLinear::new(stream).expect("loads"));
    let [first, second] = &layers;
    assert!(Arc::ptr_eq(first.kernels(), second.kernels()));
    assert!(Arc::ptr_eq(second.stream(), &other));
    with_tokens(5, |inputs| {
        let plans = [first, second].map(|layer| layer.forward_plan(inputs).expect("a plan"));
        assert!(Arc::ptr_eq(&plans[0], &plans[1]), "plans are shared");
    });
}

/// Matrices that no kernel will look at.
fn some_memory() -> &'static CudaSlice<bf16> {
    static MEMORY: OnceLock<CudaSlice<bf16>> = OnceLock::new();
    MEMORY.get_or_init(|| gpu().stream.alloc_zeros(4096).expect("memory"))
}

/// The first shape that doesn't fit is named, and nothing runs.
#[track_caller]
fn assert_refused(change: impl FnOnce(&mut LoraInputs<'_, bf16>), what: Argument, words: &[&str]) {
    let case = LayerCase::sharing_x(9, 40, &[(24, 16), (8, 3)]);
    let layer = TestLayer::<bf16>::random(&case);
    let device = OnDevice::new(&layer);
    let mut inputs = device.inputs();
    change(&mut inputs);
    let Err(error) = lora_linear().forward(&inputs) else {
        panic!("{what} was taken");
    };
    let text = error.to_string();
    match error {
        Error::Fit { tensor, .. } | Error::Bounds { tensor, .. } => assert_eq!(tensor, what),
        other => panic!("{other:?}"),
    }
    for word in words {
        assert!(text.contains(word), "{text:?} has no {word:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_by_name() {
    let memory = some_memory();
    let matrix = |rows, columns| MatRef::new(memory.as_view(), rows, columns);
    let of = |tensor, projection| Argument::Tensor(tensor, Some(projection));
    let lora = |a, b| Some(Lora { a, b, scaling: 1.0 });
    assert_refused(
        |inputs| inputs.x = matrix(9, 39),
        of(Role::Weight, 0),
        &["weight of projection 0", "24 x 40", "24 x 39"],
    );
    assert_refused(
        |inputs| inputs.projections[1].weight = matrix(8, 41),
        of(Role::Weight, 1),
        &["weight of projection 1", "8 x 41", "8 x 40"],
    );
    assert_refused(
        |inputs| inputs.projections[0].bias = Some(memory.slice(..25)),
        of(Role::Bias, 0),
        &["1 x 25", "1 x 24"],
    );
    assert_refused(
        |inputs| inputs.projections[1].lora = lora(matrix(3, 41), matrix(8, 3)),
        of(Role::LoraA, 1),
        &["lora_A of projection 1", "3 x 41", "3 x 40"],
    );
    assert_refused(
        |inputs| inputs.projections[1].lora = lora(matrix(0, 40), matrix(8, 0)),
        of(Role::LoraA, 1),
        &["0 x 40", "at least 1"],
    );
    assert_refused(
        |inputs| inputs.projections[1].lora = lora(matrix(3, 40), matrix(8, 4)),
        of(Role::LoraB, 1),
        &["8 x 4", "8 x 3"],
    );
    assert_refused(
        |inputs| inputs.x = matrix(1000, 40),
        Argument::Tensor(Role::X, None),
        &["x needs 40000 elements"],
    );
    let far = || MatRef::new(memory.as_view(), 8, 3).with_row_stride(i64::MAX);
    assert_refused(
        |inputs| inputs.projections[1].lora = lora(matrix(3, 40), far()),
        of(Role::LoraB, 1),
        &["lora_B of projection 1"],
    );
}

#[test]
fn what_no_shape_tells_is_refused_too() {
    let layer = TestLayer::<bf16>::random(&LayerCase::sharing_x(9, 40, &[(24, 16), (8, 3)]));
    let device = OnDevice::new(&layer);
    let short = lora_linear();
    let memory = some_memory();
    let refused = |change: &dyn Fn(&mut LoraInputs<'_, bf16>)| {
        let mut inputs = device.inputs();
        change(&mut inputs);
        let forward = short.forward(&inputs).expect_err("refused").to_string();
        let inference = short.infer(&inputs).expect_err("refused").to_string();
        assert_eq!(forward, inference);
        forward
    };
    let text = refused(&|inputs| inputs.projections[1].bias = None);
    assert!(text.contains("projection 1 has no bias"), "{text}");
    let text = refused(&|inputs| inputs.projections.clear());
    assert!(text.contains("0 projections"), "{text}");
    let text = refused(&|inputs| inputs.projections[0].lora.as_mut().unwrap().scaling = f32::NAN);
    assert!(text.contains("scaling NaN"), "{text}");
    let dropout = Dropout {
        p: 1.0,
        seed: 0,
        offset: 0,
    };
    let text = refused(&|inputs| inputs.dropout = Some(dropout));
    assert!(text.contains("dropout probability 1"), "{text}");
    let text = refused(&|inputs| {
        inputs.x = MatRef::new(memory.as_view(), 2, 40).with_row_stride(-40);
    });
    assert!(text.contains("row stride of -40"), "{text}");
    let text = refused(&|inputs| {
        let projection = || LoraProjection::without_adapter(inputs.projections[0].weight.clone());
        inputs.projections = (0..9).map(|_| projection()).collect();
    });
    assert!(text.contains("9 projections"), "{text}");
}

#[test]
fn gradients_that_do_not_fit_are_refused() {
    let layer = TestLayer::<bf16>::random(&LayerCase::sharing_x(9, 40, &[(24, 16), (8, 0)]));
    let device = OnDevice::new(&layer);
    let (short, inputs) = (lora_linear(), device.inputs());
    let (_, saved) = short.forward(&inputs).expect("forward runs");
    let mut memory = gpu().stream.alloc_zeros::<bf16>(4096).expect("memory");
    let other = memory.try_clone().expect("memory");
    let mut dy = device.dy();
    dy[1] = MatRef::new(other.as_view(), 9, 7);
    let text = short
        .backward(&inputs, &saved, &dy)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        text.contains("dy of projection 1 is 9 x 7, it must be 9 x 8"),
        "{text}"
    );
    let error = short.backward(&inputs, &saved, &device.dy()[..1]).err();
    let counted = matches!(
        error,
        Some(Error::ProjectionCount {
            given: 1,
            planned: 2
        })
    );
    assert!(counted, "{error:?}");

    let mut into = |a: (usize, usize), b: (usize, usize)| {
        let (first, rest) = memory.split_at_mut(2048);
        let pair = LoraGradients {
            a: MatMut::new(first, a.0, a.1),
            b: MatMut::new(rest, b.0, b.1),
        };
        let options = BackwardOptions::default().accumulate([Some(pair), None]);
        let refused = short
            .backward_with(&inputs, &saved, &device.dy(), options)
            .err();
        refused.map(|error| error.to_string())
    };
    assert_eq!(into((16, 40), (24, 16)), None);
    let text = into((15, 40), (24, 16)).expect("refused");
    assert!(
        text.contains("d_lora_A of projection 0 is 15 x 40"),
        "{text}"
    );
    let text = into((16, 40), (24, 17)).expect("refused");
    assert!(
        text.contains("d_lora_B of projection 0 is 24 x 17"),
        "{text}"
    );
    let options = BackwardOptions::default().accumulate([None, None]);
    let error = short
        .backward_with(&inputs, &saved, &device.dy(), options)
        .err();
    let text = error.expect("refused").to_string();
    assert!(text.contains("gradients of projection 0"), "{text}");
}

#[test]
fn the_backward_of_another_forward_is_refused() {
    let case = LayerCase::sharing_x(9, 40, &[(24, 16), (24, 3)]).dropout(0.25);
    let layer = TestLayer::<bf16>::random(&case);
    let fewer = TestLayer::<bf16>::random(&LayerCase {
        tokens: 8,
        ..case.clone()
    });
    let narrower =
        TestLayer::<bf16>::random(&LayerCase::sharing_x(9, 40, &[(24, 15), (24, 3)]).dropout(0.25));
    let single = TestLayer::<bf16>::random(&LayerCase::new(9, 40, 24, 16).dropout(0.25));
    let wide = TestLayer::<bf16, f32>::random(&case);
    let (device, wide) = (OnDevice::new(&layer), OnDevice::new(&wide));
    let others = [&fewer, &narrower, &single].map(OnDevice::new);
    let short = lora_linear();
    let (_, saved) = short.forward(&device.inputs()).expect("forward runs");
    let refused = |inputs: &LoraInputs<'_, bf16>, device: &OnDevice<'_, bf16>| {
        let error = short.backward(inputs, &saved, &device.dy()).err();
        assert!(
            matches!(error, Some(Error::OtherForward { .. })),
            "{error:?}"
        );
        error.expect("refused").to_string()
    };
    let drawn = case.dropout.expect("dropout");
    for (word, dropout) in [
        ("p 0.5", Some(Dropout { p: 0.5, ..drawn })),
        ("seed 1", Some(Dropout { seed: 1, ..drawn })),
        ("offset 1", Some(Dropout { offset: 1, ..drawn })),
        ("none", None),
    ] {
        let text = refused(&device.inputs().with_dropout(dropout), &device);
        assert!(text.contains("dropout") && text.contains(word), "{text}");
    }
    let text = refused(&device.inputs().with_mask(Mask::Redrawn), &device);
    assert!(text.contains("mask"), "{text}");
    let mut inputs = device.inputs();
    inputs.projections[1]
        .lora
        .as_mut()
        .expect("an adapter")
        .scaling = 7.0;
    let text = refused(&inputs, &device);
    assert!(text.contains("scaling") && text.contains('7'), "{text}");
    for (other, words) in others.iter().zip([
        ["tokens", "8"],
        ["projection 0", "15"],
        ["projections", "1"],
    ]) {
        let text = refused(&other.inputs(), other);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let error = short.backward(&wide.inputs(), &saved, &wide.dy()).err();
    let text = error.expect("refused").to_string();
    assert!(text.contains("f32") && text.contains("bf16"), "{text}");
    // And still is the other's.
    short
        .backward(&device.inputs(), &saved, &device.dy())
        .expect("its own backward");
}

/// The same calls with element types that are known at run time give the same bytes.
fn run_time_types_give_the_same_bits<T: Number, A: Number>() {
    let short = lora_linear();
    for case in [
        LayerCase::new(17, 33, 51, 3).dropout(0.2),
        LayerCase::sharing_x(65, 72, &[(96, 16), (40, 0), (24, 3)]).bias(false),
    ] {
        let layer = TestLayer::<T, A>::random(&case);
        let device = OnDevice::new(&layer);
        let inputs = device.inputs();
        let (y, saved) = short.forward(&inputs).expect("forward runs");
        let gradients = short
            .backward(&inputs, &saved, &device.dy())
            .expect("backward runs");
        let inferred = short.infer(&inputs).expect("inference runs");

        let bytes = BytesOnDevice::new(&layer);
        let inputs = bytes.inputs();
        let (dyn_y, dyn_saved) = short.forward(&inputs).expect("forward runs");
        let dyn_dy = bytes.dy();
        let dyn_gradients = short
            .backward(&inputs, &dyn_saved, &dyn_dy)
            .expect("backward runs");
        let what = format!("{case:?}");
        assert_same_bits(&bits_of_y(&dyn_y), &bits_of_y(&y), &what);
        assert_same_bits(
            &bits_of_gradients(&dyn_gradients),
            &bits_of_gradients(&gradients),
            &what,
        );
        assert_same_bits(
            &bits_of_y(&short.infer(&inputs).expect("runs")),
            &bits_of_y(&inferred),
            &what,
        );
    }
}

fn run_time_types<T: Number>() {
    run_time_types_give_the_same_bits::<T, T>();
    run_time_types_give_the_same_bits::<T, f32>();
}

mod at_run_time {
    use super::run_time_types;
    for_each_dtype!(run_time_types);
}

#[test]
fn run_time_types_that_do_not_fit_are_refused_by_name() {
    let layer = TestLayer::<bf16>::random(&LayerCase::sharing_x(9, 40, &[(24, 16), (8, 3)]));
    let bytes = BytesOnDevice::new(&layer);
    let short = lora_linear();
    let memory = gpu().stream.alloc_zeros::<u8>(1 << 14).expect("memory");
    let refused =
        |inputs: &DynLoraInputs<'_>| short.forward(inputs).expect_err("refused").to_string();
    let mut inputs = bytes.inputs();
    inputs.projections[1].weight = DynMatRef::new(memory.as_view(), DType::F16, 8, 40);
    let text = refused(&inputs);
    assert!(
        text.contains("weight of projection 1 is f16, the plan was made for bf16"),
        "{text}"
    );
    let mut inputs = bytes.inputs();
    let lora = inputs.projections[1].lora.as_mut().expect("an adapter");
    lora.b = DynMatRef::new(memory.as_view(), DType::F32, 8, 3);
    let text = refused(&inputs);
    assert!(
        text.contains("lora_B of projection 1 is f32, the plan was made for bf16"),
        "{text}"
    );
    let mut inputs = bytes.inputs();
    for lora in inputs
        .projections
        .iter_mut()
        .flat_map(|projection| &mut projection.lora)
    {
        let (rank, out_features) = if lora.scaling == 1.7 {
            (16, 24)
        } else {
            (3, 8)
        };
        lora.a = DynMatRef::new(memory.as_view(), DType::F16, rank, 40);
        lora.b = DynMatRef::new(memory.as_view(), DType::F16, out_features, rank);
    }
    let text = refused(&inputs);
    assert!(text.contains("f16") && text.contains("bf16"), "{text}");
}
