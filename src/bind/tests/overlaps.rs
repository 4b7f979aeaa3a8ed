//! Outputs that share memory, and addresses at which an argument would wrap.

use super::*;
use crate::plan::BUFFER_ALIGNMENT;
use crate::{Argument, Layout};

/// The largest number of projections, all adapted, with every optional argument: a call with as
/// many arguments as there can be.
fn everything() -> Problem {
    let projections = [Projection {
        out_features: 64,
        rank: 8,
    }; Problem::MAX_PROJECTIONS];
    Problem::sharing_x(40, 4096, &projections, DType::BF16)
        .expect("a problem")
        .with_bias(true)
        .with_dropout(true)
}

/// Where each argument of a call lies.
type Addresses = Vec<(Argument, DevicePointer)>;

/// Runs a call with its arguments at these addresses.
type Run = dyn Fn(&Addresses) -> Result<()>;

/// A call whose arguments can each be put elsewhere.
struct Call {
    /// The outputs come first.
    addresses: Addresses,
    outputs: usize,
    run: Box<Run>,
}

impl Call {
    fn new(
        outputs: Addresses,
        inputs: Addresses,
        run: impl Fn(&Addresses) -> Result<()> + 'static,
    ) -> Self {
        Self {
            outputs: outputs.len(),
            addresses: outputs.into_iter().chain(inputs).collect(),
            run: Box::new(run),
        }
    }

    /// The call with one argument elsewhere.
    fn moved(&self, argument: Argument, to: DevicePointer) -> Result<()> {
        let mut addresses = self.addresses.clone();
        let given = addresses.iter_mut().find(|(name, _)| *name == argument);
        given.expect("an argument of the call").1 = to;
        (self.run)(&addresses)
    }
}

fn of(addresses: &Addresses, argument: Argument) -> DevicePointer {
    let given = addresses.iter().find(|(name, _)| *name == argument);
    given.expect("an argument of the call").1
}

fn tensor(tensor: Role, projection: usize) -> Argument {
    Argument::Tensor(tensor, Some(projection))
}

/// A tensor that there is one of in every call.
fn shared(tensor: Role) -> Argument {
    Argument::Tensor(tensor, None)
}

/// These tensors of each projection.
fn of_projections(roles: &[Role]) -> Addresses {
    let each = (0..Problem::MAX_PROJECTIONS)
        .flat_map(|index| roles.iter().map(move |&role| (index, role)));
    each.map(|(index, role)| (tensor(role, index), at(index, role)))
        .collect()
}

fn lora_of(addresses: &Addresses, projection: usize) -> Lora<DevicePointer> {
    Lora {
        a: of(addresses, tensor(Role::LoraA, projection)),
        b: of(addresses, tensor(Role::LoraB, projection)),
        scaling: 1.0,
    }
}

fn saved_of(addresses: &Addresses) -> Saved<DevicePointer> {
    Saved::Split {
        s: of(addresses, Argument::SavedS),
        mask: Some(of(addresses, Argument::SavedMask)),
    }
}

const SPLIT: [(Argument, DevicePointer); 2] =
    [(Argument::SavedS, SAVED), (Argument::SavedMask, MASK)];

fn forward_call() -> Call {
    let plan = ForwardPlan::new(&everything(), &device()).expect("a plan");
    assert!(plan.workspace_bytes() > 0, "an argument of this test");
    let mut outputs = of_projections(&[Role::Y]);
    outputs.push((Argument::Workspace, WORKSPACE));
    outputs.extend(SPLIT);
    let mut inputs = of_projections(&[Role::Weight, Role::Bias, Role::LoraA, Role::LoraB]);
    inputs.push((shared(Role::X), X));
    Call::new(outputs, inputs, move |given| {
        let projection = |index| ForwardProjection {
            weight: of(given, tensor(Role::Weight, index)),
            bias: Some(of(given, tensor(Role::Bias, index))),
            lora: Some(lora_of(given, index)),
            y: of(given, tensor(Role::Y, index)),
        };
        let projections: [_; Problem::MAX_PROJECTIONS] = std::array::from_fn(projection);
        let args = Forward {
            x: of(given, shared(Role::X)),
            projections: projections.as_slice(),
            dropout: Some(DROPOUT),
            saved: saved_of(given),
            workspace: Some(of(given, Argument::Workspace)),
            rows: None,
            flags: None,
        };
        run_forward(&plan, &args).map(|_| ())
    })
}

fn backward_call() -> Call {
    let plan = BackwardPlan::new(&everything(), &device()).expect("a plan");
    let mut outputs = of_projections(&[Role::DLoraA, Role::DLoraB]);
    outputs.push((Argument::Workspace, WORKSPACE));
    outputs.push((shared(Role::DX), DX));
    let mut inputs = of_projections(&[Role::DY, Role::Weight, Role::LoraA, Role::LoraB]);
    inputs.push((shared(Role::X), X));
    inputs.extend(SPLIT);
    Call::new(outputs, inputs, move |given| {
        let projection = |index| BackwardProjection {
            dy: of(given, tensor(Role::DY, index)),
            weight: of(given, tensor(Role::Weight, index)),
            lora: Some(lora_of(given, index)),
            gradients: Some(LoraGradients {
                a: of(given, tensor(Role::DLoraA, index)),
                b: of(given, tensor(Role::DLoraB, index)),
            }),
        };
        let projections: [_; Problem::MAX_PROJECTIONS] = std::array::from_fn(projection);
        let args = Backward {
            x: of(given, shared(Role::X)),
            projections: projections.as_slice(),
            dropout: Some(DROPOUT),
            saved: saved_of(given),
            record: None,
            dx: Some(of(given, shared(Role::DX))),
            workspace: Some(of(given, Argument::Workspace)),
            rows: None,
        };
        run_backward(&plan, &args).map(|_| ())
    })
}

fn merge_call() -> Call {
    const RANKS: [usize; MergeProblem::MAX_ADAPTERS] = [8; MergeProblem::MAX_ADAPTERS];
    let problem = MergeProblem::new(64, 256, &RANKS, DType::BF16).expect("a problem");
    let plan = MergePlan::new(&problem.with_safe(true), &device()).expect("a plan");
    let outputs = vec![
        (shared(Role::Merged), DX),
        (Argument::Report, SAVED),
        (Argument::Workspace, WORKSPACE),
    ];
    let mut inputs = vec![(shared(Role::Weight), X)];
    for index in 0..RANKS.len() {
        for role in [Role::LoraA, Role::LoraB] {
            inputs.push((Argument::Adapter(role, index), at(index, role)));
        }
    }
    Call::new(outputs, inputs, move |given| {
        let adapters: [_; RANKS.len()] = std::array::from_fn(|index| Lora {
            a: of(given, Argument::Adapter(Role::LoraA, index)),
            b: of(given, Argument::Adapter(Role::LoraB, index)),
            scaling: 1.0,
        });
        let args = Merge {
            weight: MergeWeight::Apart {
                weight: of(given, shared(Role::Weight)),
                merged: of(given, shared(Role::Merged)),
            },
            adapters: adapters.as_slice(),
            report: Some(of(given, Argument::Report)),
            workspace: Some(of(given, Argument::Workspace)),
        };
        merge(&plan, &args, |_, _| Ok(()))
    })
}

fn calls() -> [Call; 3] {
    [forward_call(), backward_call(), merge_call()]
}

#[test]
#[cfg_attr(miri, ignore = "thousands of calls")]
fn no_output_may_lie_where_an_input_or_another_output_does() {
    for call in calls() {
        (call.run)(&call.addresses).expect("all arguments lie apart");
        let outputs = &call.addresses[..call.outputs];
        for (output, other) in outputs
            .iter()
            .flat_map(|output| call.addresses.iter().map(move |other| (output, other)))
        {
            if output == other {
                continue;
            }
            let names = format!("{} over {}", output.0, other.0);
            for offset in [0, BUFFER_ALIGNMENT as u64] {
                // A merge may be in place.
                let pair = (output.0, other.0, offset);
                if pair == (shared(Role::Merged), shared(Role::Weight), 0) {
                    continue;
                }
                let error = call.moved(output.0, other.1 + offset).expect_err(&names);
                assert!(matches!(error, Error::Overlap { .. }), "{names}: {error}");
            }
        }
    }
}

#[test]
fn an_overlap_names_both_arguments() {
    let [forward, backward, merge] = calls();
    for (call, argument, other, expected) in [
        (
            &forward,
            tensor(Role::Y, 7),
            tensor(Role::Weight, 2),
            "y of projection 7 shares memory with weight of projection 2: give each output",
        ),
        (
            &backward,
            shared(Role::DX),
            shared(Role::X),
            "dx shares memory with x: give each output",
        ),
        (
            &merge,
            Argument::Report,
            Argument::Adapter(Role::LoraB, 7),
            "report shares memory with lora_B of adapter 7: give each output",
        ),
    ] {
        let error = call.moved(argument, of(&call.addresses, other));
        let text = error.expect_err("refused").to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn inputs_may_be_the_same_memory() {
    for call in calls() {
        let mut addresses = call.addresses.clone();
        for (_, address) in &mut addresses[call.outputs..] {
            *address = X;
        }
        (call.run)(&addresses).expect("tied weights, and adapters that are used twice");
    }
}

/// Two projections whose y and dy are column ranges of one buffer, as q, k and v often are.
fn side_by_side(gap: usize) -> (Problem, [DevicePointer; 2]) {
    let layer = Projection {
        out_features: 64,
        rank: 8,
    };
    let layout = Layout {
        row_stride: 2 * 64 + gap as i64,
        alignment: 2,
    };
    let mut problem = Problem::sharing_x(40, 256, &[layer; 2], DType::BF16).expect("a problem");
    for (index, tensor) in [(0, Role::Y), (1, Role::Y), (0, Role::DY), (1, Role::DY)] {
        problem = problem
            .with_layout_of(index, tensor, layout)
            .expect("a layout");
    }
    (problem, [X * 64, X * 64 + 2 * 64])
}

#[test]
fn outputs_may_be_column_ranges_of_one_buffer() {
    let (problem, [first, second]) = side_by_side(8);
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let run = |y: [DevicePointer; 2]| {
        let mut projections = forward_projections(&problem);
        for (projection, y) in projections.iter_mut().zip(y) {
            projection.y = y;
        }
        run_forward(&plan, &forward_args(&problem, &projections)).map(|_| ())
    };
    run([first, second]).expect("beside each other");
    run([second, first]).expect("in the other order");
    // The gap of 8 elements may be anywhere.
    run([first, second + 16]).expect("with the gap between them");
    for y in [
        [first, second - 2],
        [second, first + 2],
        [first, second + 18],
        [first, first],
    ] {
        let error = run(y).expect_err("an element belongs to both");
        assert!(matches!(error, Error::Overlap { .. }), "{error}");
    }
    // The last rows of one beside the first rows of the other.
    let row = 2 * (2 * 64 + 8);
    run([first, second + 39 * row]).expect("the columns still lie apart");
    run([first, first + 40 * row]).expect("behind each other");
    run([first, first + 39 * row]).expect_err("the last row of one is the first of the other");
}

#[test]
fn a_merge_is_in_place_or_apart() {
    let problem = MergeProblem::new(64, 256, &[8], DType::BF16).expect("a problem");
    let plan = MergePlan::new(&problem, &device()).expect("a plan");
    let run = |weight| {
        let args = Merge {
            weight,
            adapters: &[lora(0)][..],
            report: None,
            workspace: None,
        };
        merge(&plan, &args, |_, _| Ok(()))
    };
    let apart = |merged| MergeWeight::Apart { weight: X, merged };
    let bytes = 2 * 64 * 256;
    run(MergeWeight::InPlace(X)).expect("in place");
    run(apart(X)).expect("in place");
    run(apart(X + bytes)).expect("behind the weight");
    for merged in [X + 16, X + bytes - 16, X - bytes + 16] {
        let error = run(apart(merged)).expect_err("partly over the weight");
        assert!(matches!(error, Error::Overlap { .. }), "{error}");
        assert!(error.to_string().contains("merge in place"), "{error}");
    }
    let error = run(MergeWeight::InPlace(at(0, Role::LoraB))).expect_err("over an adapter");
    let text = error.to_string();
    assert!(
        text.starts_with("merged shares memory with lora_B of adapter 0"),
        "{text}"
    );
}

#[test]
fn a_weight_and_its_merged_weight_may_be_column_ranges_of_one_buffer() {
    let layout = Layout {
        row_stride: 512,
        alignment: 16,
    };
    let problem = MergeProblem::new(64, 256, &[8], DType::BF16)
        .and_then(|problem| problem.with_layout(Role::Weight, layout))
        .expect("a problem");
    let plan = MergePlan::new(&problem, &device()).expect("a plan");
    let run = |merged| {
        let args = Merge {
            weight: MergeWeight::Apart { weight: X, merged },
            adapters: &[lora(0)][..],
            report: None,
            workspace: None,
        };
        merge(&plan, &args, |_, _| Ok(()))
    };
    run(X + 2 * 256).expect("beside the weight");
    run(X + 2 * 256 - 16).expect_err("over the ends of the weight's rows");
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of calls")]
fn an_argument_that_would_wrap_around_the_address_space_is_refused() {
    // The last address that has every alignment.
    let last = DevicePointer::MAX - 15;
    for call in calls() {
        for (name, _) in &call.addresses {
            let error = call
                .moved(*name, last)
                .expect_err("beyond the last address");
            assert!(
                matches!(error, Error::AddressRange { .. }),
                "{name}: {error}"
            );
            let text = error.to_string();
            let given = format!("{name} is at address 0xfffffffffffffff0, where its ");
            assert!(text.starts_with(&given), "{text}");
        }
    }
}

#[test]
fn without_tokens_no_address_is_looked_at() {
    let problem = everything().with_tokens(0).expect("a problem");
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let mut projections = forward_projections(&problem);
    projections
        .iter_mut()
        .for_each(|projection| projection.y = DevicePointer::MAX);
    let mut args = forward_args(&problem, &projections);
    (args.x, args.workspace) = (DevicePointer::MAX, Some(DevicePointer::MAX));
    let split = Saved::Split {
        s: DevicePointer::MAX,
        mask: Some(DevicePointer::MAX),
    };
    for saved in [split, Saved::Whole(DevicePointer::MAX), Saved::Empty] {
        args.saved = saved;
        run_forward(&plan, &args).expect("nothing is read or written");
    }
}
