//! Kernels that Triton compiled compute what they should.

use std::process::Command;

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
    use super::{Command, SM_90};

    const DEVICE: &str = "PTX_EMULATOR_DEVICE";

    /// In a process of its own: the first CUDA call decides which device a process has.
    fn runs(name: &str) {
        if std::env::var(DEVICE).is_ok_and(|device| device == "h100") {
            return super::runs(SM_90, name);
        }
        let test = format!("committed::hopper::{name}");
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", &test, "--nocapture"])
            .env(DEVICE, "h100")
            .output()
            .expect("a process");
        let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        let text = text.concat();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
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
