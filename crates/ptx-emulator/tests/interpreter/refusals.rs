//! What the decoder does not know is refused, with the full opcode and its line.

use ptx_emulator::decode::{DecodeError, Program};
use ptx_emulator::parse::parse_module;

fn refusal(line: &str) -> DecodeError {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<9>;\n.reg .b64 %d<4>;\n{line}\nret;\n}}\n"
    );
    let module = parse_module(&text).expect("it parses");
    match Program::decode(&module) {
        Ok(_) => panic!("{line} was taken"),
        Err(error) => error,
    }
}

#[test]
fn unknown_instructions_modifiers_and_types_are_named() {
    let cases = [
        ("frobnicate.u32 %r1, %r2;", "frobnicate.u32"),
        ("add.wrong.s32 %r1, %r2, %r3;", "add.wrong.s32"),
        ("wgmma.fence.aligned;", "wgmma.fence.aligned"),
        (
            "mbarrier.init.shared::cluster.b64 [%r1], 1;",
            "mbarrier.init.shared::cluster.b64",
        ),
        (
            "tex.2d.v4.f32.f32 {%r1,%r2,%r3,%r4}, [%d1, {%r1,%r2}];",
            "tex.2d.v4.f32.f32",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%d1], [%r1], 16, %h1;",
            "cp.async.bulk.global",
        ),
        ("mul.s32 %r1, %r2, %r3;", "mul.s32"),
        ("and.s32 %r1, %r2, %r3;", "and.s32"),
        ("cvt.f16.f32 %h1, %r1;", "cvt.f16.f32"),
        ("add.NaN.f32 %r1, %r2, %r3;", "add.NaN.f32"),
        ("max.rn.f32 %r1, %r2, %r3;", "max.rn.f32"),
        (
            "sqrt.rn.xorsign.abs.f32 %r1, %r2;",
            "sqrt.rn.xorsign.abs.f32",
        ),
        ("setp.ltu.s32 %p1, %r1, %r2;", "setp.ltu.s32"),
        (
            "atom.global.fma.f32 %r1, [%d1], %r2;",
            "atom.global.fma.f32",
        ),
        ("shfl.up.b32 %r1, %r2, 1, 0;", "shfl.up.b32"),
        (
            "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%r1}, {%r2}, {%r3}, {%r4};",
            "mma.sync",
        ),
        ("ld.global.b128 %d1, [%d2];", "ld.global.b128"),
    ];
    for (line, opcode) in cases {
        let error = refusal(line);
        assert!(error.opcode.starts_with(opcode), "{line}: {error}");
        assert_eq!(error.line, 10, "{line}");
    }
}

/// Combinations of known words that PTX lacks: ptxas 13.0 refuses each of them too.
#[test]
fn forms_that_ptx_lacks_are_refused() {
    let lines = include_str!("refused.ptx");
    let lines: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("//"))
        .collect();
    assert!(lines.len() > 100, "the list was read");
    for line in lines {
        let error = refusal(line);
        let opcode = line.split_whitespace().next().unwrap_or_default();
        assert_eq!(
            error.opcode,
            opcode.trim_end_matches(';'),
            "{line}: {error}"
        );
        assert_eq!(error.line, 10, "{line}");
    }
}

#[test]
fn operands_of_the_wrong_size_or_kind_are_refused() {
    let lines = [
        "add.s32 %r1, %d1, %r2;",
        "add.s64 %r1, %d1, %d2;",
        "add.f32 %r1, %r2, 1;",
        "add.s32 %r1, %r2;",
        "mov.b64 {%r1, %r2, %r3}, %d1;",
        "ld.global.v4.u32 {%r1, %r2}, [%d1];",
        "selp.b32 %r1, %r2, %r3, %r4;",
        "st.shared.u32 [absent], %r1;",
        "mov.u32 %r1, %no_such_register;",
        "cp.async.cg.shared.global [%r1], [%d1], 8;",
        "call (), absent, ();",
    ];
    for line in lines {
        refusal(line);
    }
}

#[test]
fn recursion_is_refused() {
    let text = ".version 8.0 .target sm_80 .address_size 64
        .func again() { call.uni again; ret; }
        .visible .entry k() { call.uni again; ret; }";
    let error = Program::decode(&parse_module(text).unwrap())
        .err()
        .expect("a refusal");
    assert!(error.reason.contains("recursive"), "{error}");
}

#[test]
fn calls_that_double_at_each_level_are_refused_in_time() {
    let mut text =
        ".version 8.0 .target sm_80 .address_size 64\n.func f0() { .reg .b32 %r<2>; mov.u32 %r0, 1; ret; }\n"
            .to_owned();
    for level in 1..30 {
        let below = level - 1;
        text.push_str(&format!(
            ".func f{level}() {{ call.uni f{below}; call.uni f{below}; ret; }}\n"
        ));
    }
    text.push_str(".visible .entry k() { call.uni f29; ret; }");
    let error = Program::decode(&parse_module(&text).unwrap())
        .err()
        .expect("a refusal");
    assert!(error.reason.contains("instructions"), "{error}");
}

/// A refusal of a whole module.
fn refused(text: &str) -> DecodeError {
    let module = parse_module(text).expect("it parses");
    { Program::decode(&module).err() }.expect("a refusal")
}

/// Functions f0 to f`levels`, of which each calls the one before twice.
fn doubling(levels: usize, first: &str) -> String {
    let mut text = format!(
        ".version 8.0 .target sm_80 .address_size 64\n.func f0() {{ .reg .b32 %r<2>; {first} }}\n"
    );
    for level in 1..=levels {
        let below = level - 1;
        text.push_str(&format!(
            ".func f{level}() {{ call.uni f{below}; call.uni f{below}; }}\n"
        ));
    }
    text
}

/// Each kernel is within the bound of one, and they are many.
#[test]
fn a_module_is_bounded_as_a_whole() {
    let mut text = doubling(17, "mov.u32 %r0, 1;");
    for kernel in 0..100 {
        text.push_str(&format!(".entry k{kernel}() {{ call.uni f17; ret; }}\n"));
    }
    assert!(text.len() < 6000);
    let error = refused(&text);
    assert!(error.reason.contains("256 MiB"), "{error}");
    // One of them is a module that is taken.
    let end = text.find(".entry k1(").unwrap();
    assert!(Program::decode(&parse_module(&text[..end]).unwrap()).is_ok());
}

/// Empty functions give no instructions, but labels and frames.
#[test]
fn calls_of_nothing_are_bounded() {
    let text = doubling(30, "") + ".entry k() { call.uni f30; ret; }";
    let error = refused(&text);
    assert!(error.reason.contains("256 MiB"), "{error}");
}

/// A table of labels is decoded with each branch, and a branch with each call.
#[test]
fn tables_of_branches_are_bounded() {
    let labels = vec!["a"; 1000].join(",");
    let branch = format!("t: .branchtargets {labels}; a: brx.idx %r0, t;");
    let text = doubling(16, &branch) + ".entry k() { call.uni f16; ret; }";
    let error = refused(&text);
    assert!(error.reason.contains("256 MiB"), "{error}");
    let labels = vec!["a"; 20_000].join(",");
    let branches = "brx.idx %r0, t;".repeat(100);
    let text = format!(
        ".version 8.0 .target sm_80 .address_size 64
        .entry k() {{ .reg .b32 %r<2>; t: .branchtargets {labels}; a: {branches} ret; }}"
    );
    let error = parse_module(&text).expect_err("a refusal").to_string();
    assert!(error.contains("1048576 labels"), "{error}");
}

/// Forms that tests of values leave out, because they change nothing or stand for others.
#[test]
fn forms_that_ptx_has_are_taken() {
    let lines = include_str!("accepted.ptx");
    for line in lines.lines().filter(|line| !line.starts_with("//")) {
        let text = format!(
            ".version 9.0 .target sm_90a .address_size 64
            .visible .entry k(.param .align 64 .b8 parameter[128]) {{
            .reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %r<19>; .reg .f32 %f<19>;
            .reg .b64 %d<9>; .reg .b128 %q<4>;
            {line}
            ret; }}"
        );
        let module = parse_module(&text).unwrap_or_else(|error| panic!("{line}: {error}"));
        if let Err(error) = Program::decode(&module) {
            panic!("{line}: {error}");
        }
    }
}
