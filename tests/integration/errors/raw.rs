//! Raw calls: pointers are checked without being dereferenced.

use half::bf16;
use lora_kernels::Error;
use lora_kernels::raw::{BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs};

use super::call::{case, three};
use crate::common::device::gpu;
use crate::common::layer::Case;

const ADDRESS: u64 = 256;

fn forward(
    case: &Case,
    change: impl FnOnce(&mut ForwardArgs<'_>, &mut [ForwardProjectionArgs]),
) -> Result<(), Error> {
    let plan = case.forward_plan::<bf16>();
    let one = |adapted: bool| ForwardProjectionArgs {
        weight: ADDRESS,
        bias: ADDRESS,
        lora_a: if adapted { ADDRESS } else { 0 },
        lora_b: if adapted { ADDRESS } else { 0 },
        scaling: 1.0,
        y: ADDRESS,
    };
    let mut projections: Vec<_> = case
        .projections
        .iter()
        .map(|sizes| one(sizes.rank > 0))
        .collect();
    let mut args = ForwardArgs {
        x: ADDRESS,
        projections: &[],
        dropout: None,
        saved: ADDRESS,
        workspace: ADDRESS,
    };
    change(&mut args, &mut projections);
    args.projections = &projections;
    // SAFETY: the call returns before it launches anything, so no pointer is followed.
    unsafe {
        gpu()
            .kernels
            .forward_raw(&plan, &args, gpu().stream.cu_stream())
    }
}

fn backward(
    case: &Case,
    change: impl FnOnce(&mut BackwardArgs<'_>, &mut [BackwardProjectionArgs]),
) -> Result<(), Error> {
    let plan = case.backward_plan::<bf16>();
    let one = |adapted: bool| {
        let lora = if adapted { ADDRESS } else { 0 };
        BackwardProjectionArgs {
            dy: ADDRESS,
            weight: ADDRESS,
            lora_a: lora,
            lora_b: lora,
            scaling: 1.0,
            d_lora_a: lora,
            d_lora_b: lora,
        }
    };
    let mut projections: Vec<_> = case
        .projections
        .iter()
        .map(|sizes| one(sizes.rank > 0))
        .collect();
    let mut args = BackwardArgs {
        x: ADDRESS,
        projections: &[],
        dropout: None,
        saved: ADDRESS,
        dx: ADDRESS,
        workspace: ADDRESS,
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
        ("lora_A", |args| &mut args.lora_a),
        ("lora_B", |args| &mut args.lora_b),
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
        forward(&case(), |args, _| args.saved = 0),
        Error::Null { .. },
        "saved is a null"
    );
    // A null bias means no bias.
    let result = forward(&case(), |_, projections| projections[0].bias = 0);
    assert_error!(result, Error::Optional { .. }, "bias was not given");
}

#[test]
fn backwards_refuse_null_pointers() {
    type Field = fn(&mut BackwardProjectionArgs) -> &mut u64;
    let fields: [(&str, Field); 6] = [
        ("dy", |args| &mut args.dy),
        ("weight", |args| &mut args.weight),
        ("lora_A", |args| &mut args.lora_a),
        ("lora_B", |args| &mut args.lora_b),
        ("d_lora_A", |args| &mut args.d_lora_a),
        ("d_lora_B", |args| &mut args.d_lora_b),
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
        backward(&case(), |args, _| args.saved = 0),
        Error::Null { .. },
        "saved is a null"
    );
    let result = backward(&case(), |args, _| args.workspace = 0);
    assert_error!(result, Error::Null { .. }, "workspace is a null");
    // A null dx means no dx.
    let result = backward(&case(), |args, _| args.dx = 0);
    assert_error!(result, Error::Optional { .. }, "dx was not given");
    let result = backward(&case().input_gradient(false), |_, _| ());
    assert_error!(result, Error::Optional { .. }, "dx was given");
}

#[test]
fn a_projection_without_an_adapter_has_no_pointers_of_one() {
    for second in [
        |args: &mut ForwardProjectionArgs| args.lora_a = ADDRESS,
        |args: &mut ForwardProjectionArgs| args.lora_b = ADDRESS,
    ] {
        let result = forward(&three(), |_, projections| second(&mut projections[1]));
        assert_error!(
            result,
            Error::Optional { .. },
            "lora of projection 1 was given"
        );
    }
    let result = backward(&three(), |_, projections| projections[1].lora_a = ADDRESS);
    assert_error!(
        result,
        Error::Optional { .. },
        "lora of projection 1 was given"
    );
    let result = backward(&three(), |_, projections| projections[1].d_lora_b = ADDRESS);
    assert_error!(
        result,
        Error::Optional { .. },
        "gradients of projection 1 was given"
    );
    // Its scaling is ignored, but the others' are checked.
    let result = forward(&three(), |_, projections| {
        projections[1].scaling = f32::NAN;
        projections[2].scaling = f32::INFINITY;
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
    let result = backward(&three(), |args, _| args.dx = ADDRESS + 8);
    assert_error!(
        result,
        Error::Alignment { .. },
        "dx starts",
        "a multiple of 8 bytes"
    );
    let result = backward(&three(), |args, _| args.workspace = ADDRESS + 8);
    assert_error!(
        result,
        Error::BufferAlignment { .. },
        "workspace",
        "a multiple of 8 bytes"
    );
}
