//! Calls through registers, as nvcc makes them of function pointers and virtual functions; stacks
//! that grow at run time; addresses as initial values.

use ptx_emulator::decode::Program;
use ptx_emulator::exec::FaultKind;
use ptx_emulator::parse::parse_module;

use super::harness::Machine;

const PTX: &str = include_str!("../fixtures/indirect.ptx");

#[test]
fn each_lane_calls_the_function_that_its_pointer_names() {
    let out = Machine::new(PTX).run("through_table", 1, 64, 64, &[]);
    let expected: Vec<u32> = (0..64_u32)
        .map(|t| match t % 3 {
            0 => 2 * t,
            1 => t * t,
            _ => t.wrapping_neg(),
        })
        .collect();
    assert_eq!(out, expected);
}

#[test]
fn virtual_functions_are_called_through_their_tables() {
    let out = Machine::new(PTX).run("through_vtable", 1, 64, 64, &[]);
    let expected: Vec<u32> = (0..64_u32)
        .map(|t| if t % 2 == 1 { t * t } else { t * t / 2 })
        .collect();
    assert_eq!(out, expected);
}

#[test]
fn a_stack_grows_at_run_time_and_shrinks_at_the_functions_end() {
    // 100 calls of up to 160 bytes each: more than there is, if nothing were given back.
    let out = Machine::new(PTX).run("with_alloca", 1, 64, 64, &[]);
    let expected: Vec<u32> = (0..64_u32)
        .map(|t| (0..t % 40).map(|i| i * i).sum())
        .collect();
    assert_eq!(out, expected);
}

fn module(body: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .func (.param .b32 r) twice(.param .b32 a)
        {{
            .reg .b32 %r<3>;
            ld.param.u32 %r1, [a]; shl.b32 %r2, %r1, 1; st.param.b32 [r], %r2; ret;
        }}
        .func (.param .b32 r) recursive(.param .b32 a)
        {{
            .reg .b32 %r<3>; .reg .b64 %f;
            ld.param.u32 %r1, [a];
            mov.u64 %f, recursive;
            {{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r1;
              p: .callprototype (.param .b32 _) _ (.param .b32 _);
              call (y), %f, (x), p; ld.param.b32 %r2, [y]; }}
            st.param.b32 [r], %r2; ret;
        }}
        .global .u64 pointers[2] = {{twice, generic(word)+4}};
        .global .u32 word[2] = {{7, 9}};
        .visible .entry k(.param .u64 out) {{
            .reg .pred %p; .reg .b32 %r<9>; .reg .b64 %d<9>, %f, %sp, %at;
            ld.param.u64 %d1, [out];
            mov.u32 %r1, %tid.x;
            mad.wide.u32 %d1, %r1, 4, %d1;
            {body}
            st.global.u32 [%d1], %r2;
            ret; }}"
    )
}

const CALL: &str = "{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r1;
    p: .callprototype (.param .b32 _) _ (.param .b32 _);
    call (y), %f, (x), p;
    ld.param.b32 %r2, [y]; }";

#[test]
fn addresses_are_initial_values() {
    let body = "ld.global.u64 %d2, [pointers+8]; ld.u32 %r2, [%d2];";
    assert_eq!(Machine::new(&module(body)).run("k", 1, 2, 2, &[]), [9, 9]);
    let body = format!("ld.global.u64 %f, [pointers]; {CALL}");
    assert_eq!(
        Machine::new(&module(&body)).run("k", 1, 4, 4, &[]),
        [0, 2, 4, 6]
    );
    let wrong = module("").replace("generic(word)", "generic(nothing)");
    let parsed = parse_module(&wrong).expect("it parses");
    let Err(error) = Program::decode(&parsed) else {
        panic!("an address of nothing was taken");
    };
    assert_eq!(error.opcode, "pointers");
    assert!(error.reason.contains("nothing is no variable"), "{error}");
}

#[test]
fn calls_of_what_is_no_function_and_recursion_are_faults() {
    let cases = [
        (format!("mov.u64 %f, 4096; {CALL}"), "no function"),
        (format!("mov.u64 %f, recursive; {CALL}"), "recursion"),
    ];
    for (body, message) in cases {
        let machine = Machine::new(&module(&body));
        let out = machine.words(&[0; 32]);
        let fault = machine
            .launch("k", 1, 32, &[super::harness::Arg::Pointer(out)])
            .expect_err("it can't be called");
        assert_eq!(fault.kind, FaultKind::IllegalInstruction);
        assert!(fault.message.contains(message), "{fault}");
    }
}

#[test]
fn a_guarded_call_through_a_register_leaves_the_other_lanes() {
    let guarded = CALL.replace("call (y)", "@%p call (y)");
    let body = format!(
        "mov.u64 %f, twice; setp.lt.u32 %p, %r1, 2; mov.u32 %r2, 5; {}",
        guarded.replace(
            "st.param.b32 [x], %r1;",
            "st.param.b32 [x], %r1; st.param.b32 [y], %r2;"
        )
    );
    let out = Machine::new(&module(&body)).run("k", 1, 4, 4, &[]);
    assert_eq!(out, [0, 2, 5, 5]);
}

#[test]
fn a_stack_is_saved_restored_and_aligned() {
    let body = "
        stacksave.u64 %sp;
        mov.u64 %d3, 24;
        alloca.u64 %d2, %d3;
        alloca.u64 %d4, %d3, 64;
        st.local.u32 [%d2+20], %r1;
        st.local.u32 [%d4+20], 77;
        ld.local.u32 %r2, [%d2+20];
        and.b64 %d5, %d4, 63;
        cvt.u32.u64 %r3, %d5;
        add.u32 %r2, %r2, %r3;
        stackrestore.u64 %sp;
        alloca.u64 %d6, %d3;
        sub.u64 %d6, %d6, %d2;
        cvt.u32.u64 %r3, %d6;
        add.u32 %r2, %r2, %r3;";
    assert_eq!(
        Machine::new(&module(body)).run("k", 1, 4, 4, &[]),
        [0, 1, 2, 3]
    );
    let body = "
        mov.u64 %d3, 100000;
        alloca.u64 %d2, %d3;
        st.local.u32 [%d2+99996], %r1;
        mov.u32 %r2, 0;";
    let machine = Machine::new(&module(body));
    let out = machine.words(&[0; 4]);
    let fault = machine
        .launch("k", 1, 4, &[super::harness::Arg::Pointer(out)])
        .expect_err("no thread has so much");
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert!(fault.message.contains("local memory"), "{fault}");
}
