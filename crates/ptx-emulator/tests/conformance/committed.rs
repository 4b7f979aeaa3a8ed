//! Kernels that Triton compiled compute what they should.

use super::triton::{PROGRAMS, run};

fn runs(name: &str) {
    assert!(PROGRAMS.contains(&name));
    let outcome = run(name).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.ok(), "{outcome:?}");
}

macro_rules! programs {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            runs(stringify!($name));
        })*

        #[test]
        fn every_program_of_the_manifest_has_a_test() {
            assert_eq!([$(stringify!($name)),*], PROGRAMS);
            let manifest = include_str!("triton/manifest.txt");
            let names: Vec<&str> = manifest
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split("; ").next())
                .collect();
            assert_eq!(names, PROGRAMS);
        }
    };
}

programs! {
    matmul_bf16
    matmul_f16
    matmul_f16_odd
    matmul_tf32
    matmul_i8
    split_k_f16
    split_k_bf16
    softmax_f32
    softmax_f16
    layer_norm_f32
    layer_norm_bf16
    attention_f16
    attention_bf16
}
