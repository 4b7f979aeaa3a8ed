//! The PTX parser: what nvcc writes is read in full, what is not PTX is refused with the line,
//! whatever it is.

use ptx_emulator::ast::{Function, Instruction, Module, Operand, Space, Statement};
use ptx_emulator::parse::{ParseError, parse_module};

const NVCC: &str = include_str!("../fixtures/parser.ptx");

fn module(text: &str) -> Module {
    parse_module(text).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> ParseError {
    parse_module(text).expect_err("the text is not PTX")
}

fn in_kernel(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n{body}\n}}\n"
    )
}

fn function<'a>(module: &'a Module, name: &str) -> &'a Function {
    let found = module
        .functions
        .iter()
        .find(|function| function.name.contains(name));
    found.unwrap_or_else(|| panic!("no function {name}"))
}

fn instructions(function: &Function) -> Vec<&Instruction> {
    let statements = function.body.iter();
    statements
        .filter_map(|s| {
            if let Statement::Instruction(i) = s {
                Some(i)
            } else {
                None
            }
        })
        .collect()
}

fn labels(function: &Function) -> Vec<&str> {
    let statements = function.body.iter();
    statements
        .filter_map(|s| {
            if let Statement::Label(l) = s {
                Some(l.as_str())
            } else {
                None
            }
        })
        .collect()
}

fn register(name: &str) -> Operand {
    Operand::Register(name.to_owned())
}

#[test]
fn nvcc_output_is_read_in_full() {
    let module = module(NVCC);
    assert_eq!(module.version, (9, 0));
    assert_eq!(module.target, "sm_80");
    assert_eq!(module.files.first(), Some(&(1, "parser.cu".to_owned())));
    let kernels = module
        .functions
        .iter()
        .filter(|function| function.is_entry)
        .count();
    assert_eq!((kernels, module.functions.len()), (5, 10));
    let read: Vec<&Instruction> = module.functions.iter().flat_map(instructions).collect();
    // On the lines of `scopes` that start with a brace or a label.
    const IN_BRACES: [&str; 8] = ["setp", "mov", "setp", "mov", "setp", "mov", "add", "selp"];
    for opcode in [
        "ld", "st", "add", "fma", "setp", "bra", "cvt", "mov", "call", "cp", "ldmatrix", "mma",
        "shfl", "ret",
    ] {
        // One statement a line, except in the inline assembly of `scopes`.
        let starts = |line: &&str| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| word.starts_with('@'));
            words
                .next()
                .is_some_and(|word| word.split(['.', ';']).next() == Some(opcode))
        };
        let written = NVCC.lines().filter(starts).count()
            + IN_BRACES.iter().filter(|&&known| known == opcode).count();
        assert!(written > 0, "{opcode}");
        assert_eq!(
            read.iter().filter(|i| i.opcode == opcode).count(),
            written,
            "{opcode}"
        );
    }
}

#[test]
fn initialised_variables_keep_their_bytes() {
    let module = module(NVCC);
    let variable = |name: &str| {
        module
            .variables
            .iter()
            .find(|v| v.name == name)
            .expect("declared")
    };
    let floats: Vec<u8> = [1.0_f32, 2.0, 3.5, -1.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(variable("coefficients").init, floats);
    assert_eq!(variable("coefficients").space, Space::Const);
    assert_eq!(
        (variable("unset").size, variable("unset").init.len()),
        (64, 0)
    );
    assert_eq!(
        variable("numbers").init.get(..8),
        Some(&[1, 0, 0, 0, 254, 255, 255, 255][..])
    );
    assert_eq!(variable("scalar").init, 3.25_f64.to_le_bytes());
    let dynamic = variable("dynamic_bytes");
    assert!(dynamic.is_extern && dynamic.space == Space::Shared);
    assert_eq!((dynamic.size, dynamic.align), (0, 128));
}

#[test]
fn launch_bounds_parameters_and_shared_variables_are_kept() {
    let module = module(NVCC);
    let kernel = function(&module, "tile_sumILi64Ed");
    assert_eq!(kernel.max_ntid, Some([64, 1, 1]));
    let sizes: Vec<(u64, u32)> = kernel.params.iter().map(|p| (p.size, p.align)).collect();
    assert_eq!(sizes, [(8, 8), (8, 8), (4, 4)]);
    let shared: Vec<u64> = kernel
        .variables
        .iter()
        .filter(|v| v.space == Space::Shared)
        .map(|v| v.size)
        .collect();
    assert_eq!(shared, [512, 128]);
    let calls = function(&module, "calls");
    assert_eq!(
        calls.params.first().map(|p| (p.size, p.align)),
        Some((96, 16))
    );
    let callee = function(&module, "scaled");
    assert_eq!((callee.returns.len(), callee.params.len()), (1, 3));
}

#[test]
fn calls_have_results_callee_and_arguments() {
    let text = in_kernel(
        ".reg .b32 %r<3>; .reg .b64 %rd<2>;\n\
         { .param .b32 a; .param .b32 r; call.uni (r), f, (a); }\n\
         call g;\n\
         { .param .b32 a; proto : .callprototype (.param .b32 _) _ (.param .b32 _); call (a), %rd1, (a), proto; }",
    );
    let module = module(&text);
    let found = instructions(function(&module, "k"));
    let symbol = |name: &str| Operand::Symbol(name.to_owned(), 0);
    let operands: Vec<&[Operand]> = found.iter().map(|i| i.operands.as_slice()).collect();
    assert_eq!(
        operands[0],
        [
            Operand::Vector(vec![symbol("r#1")]),
            symbol("f"),
            Operand::Vector(vec![symbol("a#1")])
        ]
    );
    assert_eq!(
        operands[1],
        [
            Operand::Vector(vec![]),
            symbol("g"),
            Operand::Vector(vec![])
        ]
    );
    assert_eq!(operands[2].get(1), Some(&register("%rd1")));
    assert_eq!(operands[2].len(), 4);
}

#[test]
fn nested_scopes_get_registers_and_labels_of_their_own() {
    let module = module(NVCC);
    let kernel = function(&module, "scopes");
    let predicates: Vec<&str> = kernel
        .registers
        .iter()
        .filter(|(_, ty)| ty == "pred")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(predicates, ["p#1", "p#2", "p#3"]);
    let own: Vec<&str> = labels(kernel)
        .into_iter()
        .filter(|label| label.contains('#'))
        .collect();
    assert_eq!(own, ["LAB#2", "DONE#2", "LAB#3", "DONE#3"]);
    let targets: Vec<String> = instructions(kernel)
        .iter()
        .filter(|i| i.opcode == "bra")
        .map(|i| format!("{:?}", i.operands))
        .collect();
    let expected =
        ["DONE#2", "LAB#2", "DONE#3", "LAB#3"].map(|label| format!("[Symbol({label:?}, 0)]"));
    assert_eq!(targets, expected);
}

#[test]
fn a_declared_register_hides_the_outer_one_only_inside_its_scope() {
    let module = module(&in_kernel(
        ".reg .b32 x, %r<4>;\nmov.u32 x, 1;\n{ .reg .b32 x; mov.u32 x, %r3; }\nmov.u32 x, 2;",
    ));
    let kernel = function(&module, "k");
    let destinations: Vec<&Operand> = instructions(kernel)
        .iter()
        .filter_map(|i| i.operands.first())
        .collect();
    assert_eq!(
        destinations,
        [&register("x"), &register("x#1"), &register("x")]
    );
    // Only what is used becomes a register, however many a range declares.
    assert_eq!(kernel.registers.len(), 3);
}

#[test]
fn jump_tables_are_put_in_place() {
    let module = module(&in_kernel(
        ".reg .b32 %r<2>;\n$T: .branchtargets $A, $B;\nbrx.idx %r1, $T;\n$A:\nret;\n$B:\nret;",
    ));
    let table = instructions(function(&module, "k"))
        .first()
        .and_then(|i| i.operands.get(1))
        .cloned();
    let label = |name: &str| Operand::Symbol(name.to_owned(), 0);
    assert_eq!(table, Some(Operand::Vector(vec![label("$A"), label("$B")])));
}

#[test]
fn operands_of_every_kind_are_read() {
    let module = module(&in_kernel(
        ".reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .f32 %f<5>; .shared .align 4 .b8 tile[16];\n\
         @!%p1 ld.global.nc.L2::128B.v4.f32 {%f1, %f2, _, 0f3F800000}, [%rd1+-16];\n\
         setp.lt.and.s32 %p1|%p2, %r1, -5, !%p2;\n\
         st.shared.u32 [tile+4], 0x1F;\n\
         mov.f64 %rd1, 0d3FF0000000000000;\n\
         mov.u32 %r2, %tid.x;\n\
         ld.param.u64 %rd2, [p];\n\
         add.s32 %r3, %r4, 017U;\n\
         mov.f32 %f1, 1.5;\n\
         ld.shared.b32 %r1, [64];\n\
         cp.async.bulk.tensor.2d.shared::cta.global.tile [%r1], [%rd1, {%r1, %r2}], [%r3];",
    ));
    let found = instructions(function(&module, "k"));
    let load = found[0];
    assert_eq!(load.guard, Some(("%p1".to_owned(), true)));
    assert_eq!(
        (load.opcode.as_str(), load.modifiers.join(" ")),
        ("ld", "global nc L2::128B v4 f32".to_owned())
    );
    assert_eq!(
        load.operands,
        [
            Operand::Vector(vec![
                register("%f1"),
                register("%f2"),
                Operand::Sink,
                Operand::F32(0x3F80_0000)
            ]),
            Operand::Address(Some(Box::new(register("%rd1"))), -16)
        ]
    );
    assert_eq!(
        found[1].operands[0],
        Operand::Pair(Box::new(register("%p1")), Box::new(register("%p2")))
    );
    assert_eq!(
        found[1].operands[2],
        Operand::Integer((-5_i64).cast_unsigned())
    );
    assert_eq!(
        found[1].operands[3],
        Operand::NegatedPredicate("%p2".to_owned())
    );
    let tile = Operand::Address(Some(Box::new(Operand::Symbol("tile".to_owned(), 0))), 4);
    assert_eq!(found[2].operands, [tile, Operand::Integer(31)]);
    assert_eq!(found[3].operands[1], Operand::F64(1.0_f64.to_bits()));
    assert_eq!(found[4].operands[1], register("%tid.x"));
    assert_eq!(found[6].operands[2], Operand::Integer(15));
    assert_eq!(found[7].operands[1], Operand::F64(1.5_f64.to_bits()));
    assert_eq!(found[8].operands[1], Operand::Address(None, 64));
    assert_eq!(found[9].modifiers[4], "shared::cta");
    assert!(matches!(&found[9].operands[1], Operand::Vector(parts) if parts.len() == 2));
}

#[test]
fn triton_style_is_read() {
    let text = ".version 8.4\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 global_smem[];\n\
        .visible .entry k(\n\t.param .u64 .ptr .global .align 16 k_0,\n\t.param .u32 k_1\n)\n.reqntid 128\n.minnctapersm 1\n{\n\
        \t.reg .pred \t%p<2>;\n\t.reg .b32 \t%r<9>;\n\t.reg .b64 \t%rd<2>;\n\
        $L__func_begin0:\n\t.loc\t1 18 0                          // kernel.py:18:0\n\
        \t@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 16 ];\n\
        \t@%p1 st.shared.b32 [ %r5 + 0 ], { %r1 };\n$L__tmp1:\n\tret;\n$L__func_end0:\n}\n\
        \t.file\t1 \"/home/kernel.py\"\n\
        \t.section\t.debug_abbrev\n\t{\n.b8 1                                   // Abbreviation Code\n\t}\n\
        \t.section\t.debug_info\n\t{\n.b32 $L__func_end0-$L__func_begin0\n.b64 $L__tmp1\n\t}\n\t.section\t.debug_macinfo\t{\t}\n";
    let module = module(text);
    let kernel = function(&module, "k");
    assert_eq!(kernel.req_ntid, Some([128, 1, 1]));
    assert_eq!(
        kernel
            .params
            .iter()
            .map(|p| (p.size, p.align))
            .collect::<Vec<_>>(),
        [(8, 8), (4, 4)]
    );
    assert_eq!(instructions(kernel).len(), 3);
}

#[test]
fn places_follow_the_line_directives() {
    let module = module(&in_kernel(
        ".reg .b32 %r<2>;\n.loc 1 17 3\nmov.u32 %r1, 1;\n\
         .loc 2 40 1, function_name $L__info_string0, inlined_at 1 18 5\nmov.u32 %r1, 2;",
    ));
    let places: Vec<(u32, u32, u32)> = instructions(function(&module, "k"))
        .iter()
        .map(|i| (i.place.ptx_line, i.place.file, i.place.line))
        .collect();
    assert_eq!(places, [(8, 1, 17), (10, 2, 40)]);
}

#[test]
fn refusals_name_the_line_and_what_was_expected() {
    let cases = [
        ("", 1, "`.version`"),
        (".version 9.0\n.target hopper", 2, "a target"),
        (".version 9.0\n.target sm_80\n.address_size 32", 3, "64"),
        (".version 9.0\n.target sm_80\n.texref t;", 3, "`.entry`"),
        (
            ".version 9.0\n.target sm_80\n.global .u32 q = x;",
            3,
            "64-bit elements",
        ),
        (
            ".version 9.0\n.target sm_80\n.global .b8 q[2] = {1, 2, 3};",
            3,
            "at most 2 bytes",
        ),
        (
            ".version 9.0\n.target sm_80\n.extern .global .u32 q;",
            3,
            "no linker",
        ),
        (
            ".version 9.0\n.target sm_80\n.global .b8 q[99999999999999999];",
            3,
            "at most 1 TiB",
        ),
        (
            ".version 9.0\n.target sm_80\n/* no end",
            3,
            "a closing `*/`",
        ),
        (
            &in_kernel("mov.u32 %r1 1;"),
            6,
            "`,` after an operand of `mov.u32`",
        ),
        (&in_kernel("bra NOWHERE;"), 6, "a label of this function"),
        (&in_kernel("A:\nA:"), 7, "not yet used"),
        (&in_kernel("@q bra A;"), 6, "a declared predicate register"),
        (&in_kernel("ld..u32 a, [b];"), 6, "an opcode"),
        (&in_kernel(".reg .v4 .f32 v;"), 6, "a scalar register type"),
        (&in_kernel("é"), 6, "a PTX token"),
        (&in_kernel(&"{".repeat(101)), 6, "at most 100 nested scopes"),
        (
            ".version 9.0\n.target sm_80\n.entry k() { ret;",
            3,
            "an instruction",
        ),
        (
            ".version 9.0\n.target sm_80\n.entry k()\n.reqntid 32, 0\n{ ret; }",
            4,
            "above zero",
        ),
        (
            ".version 9.0\n.target sm_80\n.entry k()\n.minnctapersm 0\n{ ret; }",
            4,
            "above zero",
        ),
        (
            ".version 9.0\n.target sm_80\n.entry k()\n.maxntid 32 .reqntid 32\n{ ret; }",
            4,
            "beside",
        ),
    ];
    for (text, line, expected) in cases {
        let error = error(text);
        assert!(
            error.line == line && error.to_string().contains(expected),
            "{text:?} gave: {error}"
        );
    }
}

#[test]
fn huge_claims_cost_nothing() {
    let module = module(&in_kernel(
        ".reg .b32 %r<4294967295>;\nmov.u32 %r4294967294, 1;",
    ));
    assert_eq!(function(&module, "k").registers.len(), 1);
    assert!(parse_module(&in_kernel(".reg .b32 %r<4294967296>;")).is_err());
}

#[test]
fn damaged_text_never_panics() {
    for end in (0..NVCC.len()).step_by(61) {
        let _ = parse_module(&NVCC[..end]);
    }
    // Single-byte damage, spread over the text by a fixed generator.
    let mut state = 1_u64;
    let mut bytes = NVCC.as_bytes().to_vec();
    for _ in 0..600 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % bytes.len();
        let old = std::mem::replace(
            &mut bytes[at],
            b"{}[]();:.,%$@!|<>-+09azAZ_\"/* \n"[(state >> 27) as usize % 31],
        );
        let _ = parse_module(std::str::from_utf8(&bytes).expect("ASCII"));
        bytes[at] = old;
    }
}

#[test]
fn directives_need_no_blanks_between_them() {
    let text = in_kernel(
        "{.reg.b32 f, g;\n.reg.pred p;\n.shared.align 8 .b8 tile[16];\nmov.b32 f, g;}\nret;",
    );
    let parsed = module(&text);
    let kernel = function(&parsed, "k");
    let types: Vec<&str> = kernel.registers.iter().map(|(_, ty)| ty.as_str()).collect();
    assert_eq!(types, ["b32", "b32", "pred"]);
    assert_eq!(
        (kernel.variables[0].align, kernel.variables[0].size),
        (8, 16)
    );
    let sections =
        ".version 9.0\n.target sm_80\n.address_size 64\n.section .nv_debug.ptx_txt {\n.b8 1,2\n}\n";
    assert!(module(sections).functions.is_empty());
}
