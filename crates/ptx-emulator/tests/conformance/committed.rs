//! Kernels that Triton compiled compute what they should.

use super::process::alone_on;
use super::triton::{Collection, SM_80, SM_90, run};

fn runs(collection: Collection, name: &str) {
    let outcome = run(collection, name).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.ok(), "{outcome:?}");
}

fn names(collection: Collection) -> Vec<&'static str> {
    let lines = collection.manifest.lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split("; ").next()).collect()
}

macro_rules! programs {
    ($run:path, $collection:expr, $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $run(stringify!($name));
        })*

        #[test]
        fn every_program_of_the_manifest_has_a_test() {
            assert_eq!([$(stringify!($name)),*], $collection.programs);
            assert_eq!(super::names($collection), $collection.programs);
        }
    };
}

mod ampere {
    fn runs(name: &str) {
        super::runs(super::SM_80, name);
    }

    programs! {
        runs, super::SM_80,
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
}

mod hopper {
    use super::{SM_90, alone_on};

    fn runs(name: &str) {
        let test = format!("committed::hopper::{name}");
        alone_on("h100", &test, || super::runs(SM_90, name));
    }

    programs! {
        runs, SM_90,
        matmul_f16_odd
        matmul_tf32
        matmul_i8
        split_k_bf16
        attention_f16
        attention_bf16
        matmul_bf16
        matmul_f16
        matmul_e4m3
        matmul_e5m2
        split_k_wgmma_f16
        tensor_maps_bf16
        tensor_maps_f16
        persistent_bf16
        persistent_f16
        made_maps_bf16
        made_maps_f16
    }
}
