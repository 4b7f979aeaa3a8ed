//! cuBLAS's calls through a library that is loaded at run time: a stand-in for the emulated GPU,
//! compiled by g++.

use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use lora_kernels::Element;
use lora_kernels::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr};
use lora_kernels_baselines::cublas::products::{Factor, Matrix, Product};
use lora_kernels_baselines::cublas::{Cublas, Error, Type};
use lora_kernels_test_device::{Selection, select};

const WORKSPACE: usize = 256;

/// Compiles a library of this C++ source.
fn library(name: &str, source: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("{}-{name}.so", std::process::id()));
    let mut compiler = Command::new("g++");
    compiler.args([
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
    ]);
    let compiled = compiler.arg(&library).arg(source).arg("-ldl").status();
    assert!(compiled.expect("g++ runs").success());
    library
}

fn stand_in() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    library("stand-in", &tests.join("cublas/stand_in.cpp"))
}

/// Small multiples of 1/4, whose products have exact sums.
fn value(i: usize) -> f64 {
    ((i * 7) % 9) as f64 / 4.0 - 1.0
}

/// c = 0.5·op(a)·op(b), and c += 0.5·op(a)·op(b), against sums of the host.
fn products<T: Element + DeviceRepr + Into<f64>>(
    stream: &std::sync::Arc<CudaStream>,
    cublas: &Cublas,
    of: Type,
) {
    let (m, n, k) = (5, 7, 6);
    for (transpose_a, transpose_b, add) in [
        (false, false, false),
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ] {
        let factor = |rows: usize, columns: usize, transposed| {
            let (rows, columns) = if transposed {
                (columns, rows)
            } else {
                (rows, columns)
            };
            let data: Vec<T> = (0..rows * columns).map(|i| T::from_f64(value(i))).collect();
            let memory = stream.clone_htod(&data).expect("memory");
            let address = memory.device_ptr(stream).0;
            let stored = Matrix {
                address,
                rows,
                columns,
            };
            (memory, Factor { stored, transposed })
        };
        let (_a, a) = factor(m, k, transpose_a);
        let (_b, b) = factor(k, n, transpose_b);
        let (c_memory, c) = factor(m, n, false);
        let c = c.stored;
        let product = Product {
            a,
            b,
            c,
            alpha: 0.5,
            add,
        };
        // SAFETY: the matrices have this type, and live until the copy below has ended.
        unsafe { cublas.product(&product, of) }.expect("a product");
        let found = stream.clone_dtoh(&c_memory).expect("a copy");
        let at = |factor: Factor, row: usize, column: usize| {
            let (row, column) = if factor.transposed {
                (column, row)
            } else {
                (row, column)
            };
            value(row * factor.stored.columns + column)
        };
        for (i, &found) in found.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let sum: f64 = (0..k).map(|j| at(a, row, j) * at(b, j, column)).sum();
            let expected = 0.5 * sum + if add { value(i) } else { 0.0 };
            let expected: f64 = T::from_f64(expected).into();
            let found: f64 = found.into();
            assert_eq!(
                found, expected,
                "{of:?} {transpose_a} {transpose_b} {add}: {row}, {column}"
            );
        }
    }
}

#[test]
fn products_reach_a_library_with_their_shapes_types_and_memory() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("the stand-in multiplies in the memory of the emulated device");
        return;
    };
    let stream = lora_kernels::context(0)
        .expect("a device")
        .new_stream()
        .expect("a stream");
    let workspace = stream.alloc_zeros::<u8>(WORKSPACE).expect("memory");
    let address = workspace.device_ptr(&stream).0;
    let library = stand_in();
    // SAFETY: the stand-in behaves like cuBLAS; stream and workspace outlive it.
    let cublas =
        unsafe { Cublas::open_at(&library, stream.cu_stream().cast(), address, WORKSPACE) };
    let cublas = cublas.expect("a library");
    assert_eq!(
        cublas.describe(),
        format!("cuBLAS 0.0.0 ({})", library.display())
    );
    products::<bf16>(&stream, &cublas, Type::Bf16);
    products::<f16>(&stream, &cublas, Type::F16);
    products::<f32>(&stream, &cublas, Type::F32);
    let _ = std::fs::remove_file(library);
}

#[test]
fn a_library_that_is_no_cublas_is_named() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = source.join(format!("{}-empty.cpp", std::process::id()));
    std::fs::write(
        &source,
        "extern \"C\" int cublasCreate_v2(void**) { return 0; }\n",
    )
    .expect("a source");
    let library = library("empty", &source);
    let open = |path: &Path| {
        // SAFETY: no function of it is called, because one is missing.
        unsafe { Cublas::open_at(path, std::ptr::null_mut(), 0, 0) }.err()
    };
    let error = open(&library).expect("a failure");
    assert!(matches!(error, Error::Symbol { .. }), "{error}");
    assert!(error.to_string().contains("cublasDestroy_v2"), "{error}");
    for file in [&library, &source] {
        let _ = std::fs::remove_file(file);
    }
    let error = open(&library).expect("a failure");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("-empty.so"), "{error}");
}
