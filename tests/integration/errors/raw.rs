//! Raw calls: pointers are checked without being dereferenced.

use half::bf16;
use lora_kernels::Error;
use lora_kernels::raw::{
    BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs, LoraArgs,
    LoraGradientsArgs,
};

use super::call::{case, three};
use crate::common::device::gpu;
use crate::common::layer::LayerCase;

const ADDRESS: u64 = 256;

const LORA: LoraArgs = LoraArgs {
    a: ADDRESS,
    b: ADDRESS,
    scaling: 1.0,
};

const GRADIENTS: LoraGradientsArgs = LoraGradientsArgs {
    a: ADDRESS,
    b: ADDRESS,
};

fn forward(
    case: &LayerCase,
    change: impl FnOnce(&mut ForwardArgs<'_>, &mut [ForwardProjectionArgs]),
) -> Result<(), Error> {
    let plan = case.forward_plan::<bf16>();
    let args = |adapted: bool| ForwardProjectionArgs {
        weight: ADDRESS,
        bias: Some(ADDRESS),
        lora: adapted.then_some(LORA),
        y: ADDRESS,
    };
    let mut projections: Vec<_> = case
        .projections
        .iter()
        .map(|sizes| args(sizes.rank > 0))
        .collect();
    let mut args = ForwardArgs {
        x: ADDRESS,
        projections: &[],
        dropout: None,
        saved: ADDRESS.into(),
        workspace: Some(ADDRESS),
        rows: None,
        flags: None,
    };
    change(&mut args, &mut projections);
    args.projections = &projections;
    // SAFETY: the call returns before it launches anything, so no pointer is followed.
    unsafe {
        gpu()
            .kernels
            .forward_raw(&plan, &args, gpu().stream.cu_stream())
    }
    .map(|_| ())
}

fn backward(
    case: &LayerCase,
    change: impl FnOnce(&mut BackwardArgs<'_>, &mut [BackwardProjectionArgs]),
) -> Result<(), Error> {
    let plan = case.backward_plan::<bf16>();
    let args = |adapted: bool| BackwardProjectionArgs {
        dy: ADDRESS,
        weight: ADDRESS,
        lora: adapted.then_some(LORA),
        gradients: adapted.then_some(GRADIENTS),
    };
    let mut projections: Vec<_> = case
        .projections
        .iter()
        .map(|sizes| args(sizes.rank > 0))
        .collect();
    let mut args = BackwardArgs {
        x: ADDRESS,
        projections: &[],
        dropout: None,
        saved: ADDRESS.into(),
        record: None,
        dx: Some(ADDRESS),
        workspace: Some(ADDRESS),
        rows: None,
    };
    change(&mut args, &mut projections);
    args.projections = &projections;
    // SAFETY: the call returns before it launches anything, so no pointer is followed.
    unsafe {
        gpu()
            .kernels
            .backward_raw(&plan, &args, gpu().stream.cu_stream())
    }
}

#[test]
fn forwards_refuse_null_pointers() {
    type Field = fn(&mut ForwardProjectionArgs) -> &mut u64;
    let fields: [(&str, Field); 4] = [
        ("weight", |args| &mut args.weight),
        ("lora_A", |args| &mut args.lora.as_mut().expect("adapted").a),
        ("lora_B", |args| &mut args.lora.as_mut().expect("adapted").b),
        ("y", |args| &mut args.y),
    ];
    for (name, field) in fields {
        let result = forward(&case(), |_, projections| *field(&mut projections[0]) = 0);
        assert_error!(
            result,
            Error::Null { .. },
            &format!("{name} is a null pointer")
        );
        let result = forward(&three(), |_, projections| *field(&mut projections[2]) = 0);
        assert_error!(
            result,
            Error::Null { .. },
            &format!("{name} of projection 2 is a null pointer")
        );
    }
    assert_error!(
        forward(&case(), |args, _| args.x = 0),
        Error::Null { .. },
        "x is a null"
    );
    assert_error!(
        forward(&case(), |args, _| args.saved = 0.into()),
        Error::Null { .. },
        "saved is a null"
    );
    let result = forward(&case(), |_, projections| projections[0].bias = Some(0));
    assert_error!(result, Error::Null { .. }, "bias is a null");
    let result = forward(&case(), |_, projections| projections[0].bias = None);
    assert_error!(result, Error::Optional { .. }, "bias was not given");
}

#[test]
fn backwards_refuse_null_pointers() {
    type Field = fn(&mut BackwardProjectionArgs) -> &mut u64;
    let fields: [(&str, Field); 6] = [
        ("dy", |args| &mut args.dy),
        ("weight", |args| &mut args.weight),
        ("lora_A", |args| &mut args.lora.as_mut().expect("adapted").a),
        ("lora_B", |args| &mut args.lora.as_mut().expect("adapted").b),
        ("d_lora_A", |args| {
            &mut args.gradients.as_mut().expect("adapted").a
        }),
        ("d_lora_B", |args| {
            &mut args.gradients.as_mut().expect("adapted").b
        }),
    ];
    for (name, field) in fields {
        let result = backward(&case(), |_, projections| *field(&mut projections[0]) = 0);
        assert_error!(
            result,
            Error::Null { .. },
            &format!("{name} is a null pointer")
        );
        let result = backward(&three(), |_, projections| *field(&mut projections[2]) = 0);
        assert_error!(
            result,
            Error::Null { .. },
            &format!("{name} of projection 2 is a null pointer")
        );
    }
    assert_error!(
        backward(&case(), |args, _| args.x = 0),
        Error::Null { .. },
        "x is a null"
    );
    assert_error!(
        backward(&case(), |args, _| args.saved = 0.into()),
        Error::Null { .. },
        "saved is a null"
    );
    let result = backward(&case(), |args, _| args.workspace = Some(0));
    assert_error!(result, Error::Null { .. }, "workspace is a null");
    let result = backward(&case(), |args, _| args.workspace = None);
    assert_error!(result, Error::Null { .. }, "workspace is a null");
    let result = backward(&case(), |args, _| args.dx = None);
    assert_error!(result, Error::Optional { .. }, "dx was not given");
    let result = backward(&case().input_gradient(false), |_, _| ());
    assert_error!(result, Error::Optional { .. }, "dx was given");
}

#[test]
fn a_projection_without_an_adapter_has_no_pointers_of_one() {
    let result = forward(&three(), |_, projections| projections[1].lora = Some(LORA));
    assert_error!(
        result,
        Error::Optional { .. },
        "lora of projection 1 was given"
    );
    let result = backward(&three(), |_, projections| projections[1].lora = Some(LORA));
    assert_error!(
        result,
        Error::Optional { .. },
        "lora of projection 1 was given"
    );
    let result = backward(&three(), |_, projections| {
        projections[1].gradients = Some(GRADIENTS)
    });
    assert_error!(
        result,
        Error::Optional { .. },
        "gradients of projection 1 was given"
    );
    let result = forward(&three(), |_, projections| {
        projections[2].lora.as_mut().expect("adapted").scaling = f32::INFINITY;
    });
    assert_error!(result, Error::Scaling { .. }, "inf");
}

#[test]
fn misaligned_pointers_are_refused() {
    let result = forward(&three(), |_, projections| projections[2].y = ADDRESS + 2);
    assert_error!(
        result,
        Error::Alignment { .. },
        "y of projection 2",
        "a multiple of 2 bytes"
    );
    let result = backward(&three(), |args, _| args.dx = Some(ADDRESS + 8));
    assert_error!(
        result,
        Error::Alignment { .. },
        "dx starts",
        "a multiple of 8 bytes"
    );
    let result = backward(&three(), |args, _| args.workspace = Some(ADDRESS + 8));
    assert_error!(
        result,
        Error::BufferAlignment { .. },
        "workspace",
        "a multiple of 8 bytes"
    );
}
