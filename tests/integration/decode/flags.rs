//! The flags between the blocks of a launch, and what a call for inference refuses before anything
//! is launched.

use half::bf16;
use lora_kernels::raw::{ForwardArgs, ForwardProjectionArgs, LoraArgs};
use lora_kernels::{Argument, Error, Flags};

use crate::common::call::ForwardCall;
use crate::common::device::{gpu, second_context};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use crate::common::memory::are_zero;

fn case() -> LayerCase {
    LayerCase::new(5, 136, 72, 20).inference()
}

fn flags(bytes: usize) -> Flags {
    Flags::new(&gpu().stream, bytes).expect("device memory")
}

/// A forward with these flags. Nothing is written if it is refused.
fn forward_with(flags: Option<&mut Flags>) -> Result<(), Error> {
    let layer = TestLayer::<bf16>::random(&case());
    let plan = layer.forward_plan();
    let mut call = ForwardCall::new(&layer, &plan);
    let before = call.read_back().bits();
    let mut arguments = call.arguments();
    arguments.flags = flags;
    let result = gpu().kernels.forward(&gpu().stream, &plan, arguments);
    if result.is_err() {
        assert_same_bits(&call.read_back().bits(), &before, "a refused call");
    }
    result.map(|_| ())
}

fn needed() -> usize {
    case().forward_plan::<bf16>().flags_bytes()
}

#[test]
fn flags_of_exactly_the_planned_size_are_enough() {
    forward_with(Some(&mut flags(needed()))).expect("forward runs");
}

#[test]
fn missing_flags_and_small_ones_are_refused() {
    assert_error!(
        forward_with(None),
        Error::Buffer {
            buffer: Argument::Flags,
            ..
        },
        "flags",
        "has 0 bytes",
        &needed().to_string()
    );
    assert_error!(
        forward_with(Some(&mut flags(needed() - 4))),
        Error::Buffer {
            buffer: Argument::Flags,
            ..
        },
        &(needed() - 4).to_string()
    );
}

#[test]
fn flags_of_another_context_are_refused() {
    let stream = second_context().default_stream();
    let mut flags = Flags::new(&stream, needed()).expect("device memory");
    assert_error!(
        forward_with(Some(&mut flags)),
        Error::Context {
            what: Argument::Flags
        },
        "flags"
    );
    gpu().kernels.context().bind_to_thread().expect("bound");
}

/// Layers of all sizes can take turns with the same flags.
#[test]
fn flags_serve_calls_of_any_size() {
    let cases = [
        LayerCase::new(64, 520, 264, 40),
        LayerCase::new(1, 1032, 72, 20).multiprocessors(1000),
        case(),
    ]
    .map(LayerCase::inference);
    let most = cases
        .iter()
        .map(|case| case.forward_plan::<bf16>().flags_bytes());
    let mut flags = flags(most.max().expect("a case"));
    for case in cases.iter().chain(cases.iter().rev()) {
        let layer = TestLayer::<bf16>::random(case);
        let plan = layer.forward_plan();
        let mut call = ForwardCall::new(&layer, &plan);
        let mut arguments = call.arguments();
        arguments.flags = Some(&mut flags);
        let run = gpu().kernels.forward(&gpu().stream, &plan, arguments);
        run.expect("forward runs");
        layer.check_forward(&call.read_back());
        assert!(are_zero(&flags), "flags stay set");
    }
}

const ADDRESS: u64 = 256;

fn raw(
    case: &LayerCase,
    change: impl FnOnce(&mut ForwardArgs<'_>, &mut ForwardProjectionArgs),
) -> Result<(), Error> {
    let plan = case.forward_plan::<bf16>();
    let mut projection = ForwardProjectionArgs {
        weight: ADDRESS,
        bias: case.bias.then_some(ADDRESS),
        lora: Some(LoraArgs {
            a: ADDRESS,
            b: ADDRESS,
            scaling: 1.0,
        }),
        // All else is read and may be in one place.
        y: 1 << 32,
    };
    let mut args = ForwardArgs {
        x: ADDRESS,
        projections: &[],
        dropout: None,
        saved: lora_kernels::Saved::Empty,
        workspace: Some(2 << 32),
        rows: None,
        flags: Some(3 << 32),
    };
    change(&mut args, &mut projection);
    let projections = [projection];
    args.projections = &projections;
    // SAFETY: the call returns before it launches anything, so no pointer is followed.
    let called = unsafe {
        gpu()
            .kernels
            .forward_raw(&plan, &args, gpu().stream.cu_stream())
    };
    called.map(|_| ())
}

#[test]
fn raw_calls_refuse_what_is_missing_or_shared() {
    let null = |what: &str, result| assert_error!(result, Error::Null { .. }, what);
    null("flags is a null", raw(&case(), |args, _| args.flags = None));
    null(
        "flags is a null",
        raw(&case(), |args, _| args.flags = Some(0)),
    );
    null(
        "workspace is a null",
        raw(&case(), |args, _| args.workspace = None),
    );
    null(
        "weight is a null",
        raw(&case(), |_, projection| projection.weight = 0),
    );
    null("x is a null", raw(&case(), |args, _| args.x = 0));
    assert_error!(
        raw(&case(), |args, _| args.flags = Some((3 << 32) + 2)),
        Error::BufferAlignment { .. },
        "flags"
    );
    // The flags lie in y, in the workspace, and the other way around.
    assert_error!(
        raw(&case(), |args, _| args.flags = Some((1 << 32) + 256)),
        Error::Overlap { .. },
        "flags",
        "y"
    );
    assert_error!(
        raw(&case(), |args, _| args.flags = args.workspace),
        Error::Overlap { .. },
        "flags",
        "workspace"
    );
    assert_error!(
        raw(&case(), |args, _| args.x = 3 << 32),
        Error::Overlap { .. },
        "flags",
        "x"
    );
}

#[test]
fn a_weight_that_is_not_used_may_be_null() {
    // Refused for the flags, so the null weight was taken.
    let result = raw(&case().bias(false).delta_only(), |args, projection| {
        projection.weight = 0;
        args.flags = None;
    });
    assert_error!(result, Error::Null { .. }, "flags");
}
