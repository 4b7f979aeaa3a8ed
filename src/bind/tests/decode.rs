//! Forwards for inference of few tokens, and rows that go through a table of adapters.

use super::*;
use crate::bind::params::DecodeParams;
use crate::bind::{RawRows, RawTable};
use crate::{Argument, RowAdapters};

const FLAGS: DevicePointer = 0x6_0000_0000;
const ENTRIES: DevicePointer = 0x7_0000_0000;
const WRONG: DevicePointer = 0x8_0000_0000;
const SLOTS: DevicePointer = 0x9_0000_0000;
const WEIGHTS: DevicePointer = 0xA_0000_0000;

const ROWS: RawRows = RawRows {
    table: RawTable {
        entries: ENTRIES,
        wrong: WRONG,
        gradients: 0,
    },
    slots: SLOTS,
    weights: Some(WEIGHTS),
};

fn one() -> Problem {
    problem(5).with_inference(true)
}

fn table() -> Problem {
    let rows = RowAdapters::Table {
        slots: 10,
        per_row: 2,
    };
    one().with_row_adapters(rows).expect("a table")
}

type Args<'a> = Forward<Raw, &'a [ForwardProjection<Raw>]>;

/// The parameters of a forward with one thing changed.
fn run(
    problem: &Problem,
    change: impl FnOnce(&mut Args<'_>, &mut [ForwardProjection<Raw>]),
) -> Result<DecodeParams> {
    let plan = ForwardPlan::new(problem, &DeviceProps::h100())?;
    let mut projections = forward_projections(problem);
    let is_table = problem.row_adapters().is_table();
    if is_table {
        projections.iter_mut().for_each(|given| given.lora = None);
    }
    let mut args = Forward {
        saved: Saved::Empty,
        flags: Some(FLAGS),
        rows: is_table.then_some(ROWS),
        ..forward_args(problem, &[])
    };
    change(&mut args, &mut projections);
    args.projections = &projections;
    let (launched, _) = run_forward(&plan, &args)?;
    let [params] = &launched[..] else {
        panic!("{} launches", launched.len())
    };
    Ok(bytemuck::pod_read_unaligned(params))
}

#[test]
fn s_and_the_flags_are_those_of_the_call_and_nothing_is_saved() {
    let params = run(&one(), |_, _| ()).expect("parameters");
    assert_eq!((params.x, params.flags), (X, FLAGS));
    let plan = ForwardPlan::new(&one(), &DeviceProps::h100()).expect("a plan");
    let workspace = WORKSPACE..WORKSPACE + plan.workspace_bytes() as u64;
    let regions = [params.s, params.s_partial, params.partial];
    for (i, region) in regions.iter().enumerate() {
        assert!(workspace.contains(region), "{region:x}");
        assert!(!regions[..i].contains(region), "{region:x}");
    }
    // q has no adapter, k has 8 ranks and v 24.
    assert_eq!(params.rows.s_rank[..3], [0, 16, 32]);
    assert_eq!(params.rows.s_first[..3], [0, 0, 16]);
    assert_eq!(params.rows.s_stride, 48);
    assert_eq!((params.rows.entries, params.rows.slot), (0, 0));
    for (index, lora) in [(1, lora(1)), (2, lora(2))] {
        let entry = params.rows.one[index];
        assert_eq!((entry.lora_a, entry.lora_b), (lora.a, lora.b));
        assert_eq!(entry.scaling, lora.scaling);
    }
}

#[test]
fn rows_have_the_table_of_the_call() {
    let rows = run(&table(), |_, _| ()).expect("parameters").rows;
    assert_eq!((rows.entries, rows.wrong), (ENTRIES, WRONG));
    assert_eq!((rows.slot, rows.weight), (SLOTS, WEIGHTS));
    assert_eq!((rows.slots, rows.per_row), (10, 2));
    // Both places have their ranks.
    assert_eq!(rows.s_first[..3], [0, 0, 32]);
    assert_eq!(rows.s_stride, 96);
    let without = run(&table(), |args, _| {
        let rows = args.rows.as_mut().expect("rows");
        rows.weights = None;
        rows.table.wrong = 0;
    });
    let rows = without.expect("parameters").rows;
    assert_eq!((rows.weight, rows.wrong), (0, 0));
}

#[test]
fn what_is_missing_or_too_much_is_refused() {
    let optional = |what: Argument, given: bool, result: Result<DecodeParams>| match result {
        Err(Error::Optional {
            what: refused,
            given: was,
            ..
        }) => assert_eq!((refused, was), (what, given)),
        other => panic!("{what}: {other:?}"),
    };
    let none = run(&table(), |args, _| args.rows = None);
    optional(Argument::Rows, false, none);
    let some = run(&one(), |args, _| args.rows = Some(ROWS));
    optional(Argument::Rows, true, some);
    let both = run(&table(), |_, given| given[1].lora = Some(lora(1)));
    optional(Argument::Lora(Some(1)), true, both);
    let neither = run(&one(), |_, given| given[2].lora = None);
    optional(Argument::Lora(Some(2)), false, neither);
}

#[test]
fn null_and_misaligned_addresses_are_refused() {
    type Change = fn(&mut Args<'_>, DevicePointer);
    let rows: [(Argument, Change); 3] = [
        (Argument::RowSlots, |args, address| {
            args.rows.as_mut().expect("rows").slots = address;
        }),
        (Argument::RowWeights, |args, address| {
            args.rows.as_mut().expect("rows").weights = Some(address);
        }),
        (Argument::Table, |args, address| {
            args.rows.as_mut().expect("rows").table.entries = address;
        }),
    ];
    for (what, change) in rows {
        match run(&table(), |args, _| change(args, 0)) {
            Err(Error::Null { what: refused }) => assert_eq!(refused, what),
            other => panic!("{what}: {other:?}"),
        }
        match run(&table(), |args, _| change(args, 0x7FFF_0002)) {
            Err(Error::Alignment { tensor, given, .. }) => assert_eq!((tensor, given), (what, 2)),
            other => panic!("{what}: {other:?}"),
        }
    }
    for flags in [None, Some(0)] {
        let result = run(&one(), |args, _| args.flags = flags);
        let what = Argument::Flags;
        assert!(matches!(result, Err(Error::Null { what: refused }) if refused == what));
    }
}

#[test]
fn what_is_written_shares_no_byte_with_anything() {
    let overlap = |result: Result<DecodeParams>, arguments: [Argument; 2]| match result {
        Err(Error::Overlap { output, other }) => {
            assert!(arguments.contains(&output), "{output}");
            assert!(arguments.contains(&other), "{other}");
        }
        other => panic!("{arguments:?}: {other:?}"),
    };
    let y = Argument::Tensor(Role::Y, Some(2));
    let flags = run(&one(), |args, _| args.flags = Some(at(2, Role::Y)));
    overlap(flags, [Argument::Flags, y]);
    let flags = run(&table(), |args, _| args.flags = Some(SLOTS));
    overlap(flags, [Argument::Flags, Argument::RowSlots]);
    let workspace = run(&table(), |args, _| args.workspace = Some(ENTRIES));
    overlap(workspace, [Argument::Workspace, Argument::Table]);
    let wrong = run(&table(), |args, _| {
        args.rows.as_mut().expect("rows").table.wrong = at(2, Role::Y);
    });
    overlap(wrong, [Argument::Table, y]);
}

#[test]
fn a_weight_that_is_not_used_may_be_null() {
    let nulls = |_: &mut Args<'_>, given: &mut [ForwardProjection<Raw>]| {
        given.iter_mut().for_each(|given| given.weight = 0);
    };
    let params = run(&one().with_delta_only(true), nulls).expect("parameters");
    assert_eq!((params.steps, params.accumulate), (0, 1));
    assert!(matches!(run(&one(), nulls), Err(Error::Null { .. })));
}
