//! Computes the products of a layer through a host implementation of `cublasGemmEx` that follows
//! its documentation: column-major, with leading dimensions and transposes.

use std::ffi::{c_int, c_void};
use std::ptr::{null_mut, without_provenance_mut};

use half::bf16;

use super::*;
use products::{self, LayerTensors, Matrix, Projection};

const HANDLE: usize = 0xB1A5;
const STREAM: usize = 0x57;
const WORKSPACE: u64 = 0x1000;

unsafe extern "C" fn create(handle: *mut RawHandle) -> c_int {
    // SAFETY: the caller passes a valid address for a handle.
    unsafe { *handle = without_provenance_mut(HANDLE) };
    0
}

unsafe extern "C" fn destroy(handle: RawHandle) -> c_int {
    assert_eq!(handle.addr(), HANDLE);
    0
}

unsafe extern "C" fn get_version(_: RawHandle, version: *mut c_int) -> c_int {
    // SAFETY: the caller passes a valid address for a number.
    unsafe { *version = 120_803 };
    0
}

unsafe extern "C" fn set_stream(_: RawHandle, stream: *mut c_void) -> c_int {
    assert_eq!(stream.addr(), STREAM);
    0
}

unsafe extern "C" fn set_workspace(_: RawHandle, workspace: *mut c_void, bytes: usize) -> c_int {
    assert_eq!((workspace.addr() as u64, bytes), (WORKSPACE, 256));
    0
}

unsafe extern "C" fn out_of_memory(_: *mut RawHandle) -> c_int {
    3
}

/// `cublasGemmEx` as documented, for bf16: C = alpha·op(A)·op(B) + beta·C with (m, k)·(k, n), all
/// column-major.
unsafe extern "C" fn gemm_ex(
    handle: RawHandle,
    op_a: c_int,
    op_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_type: c_int,
    lda: c_int,
    b: *const c_void,
    b_type: c_int,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_int,
    ldc: c_int,
    compute: c_int,
    algorithm: c_int,
) -> c_int {
    assert_eq!(handle.addr(), HANDLE);
    assert_eq!(
        (a_type, b_type, c_type, compute, algorithm),
        (14, 14, 14, 68, -1)
    );
    let valid = |op, rows, columns, leading| leading >= if op == OP_N { rows } else { columns };
    if !valid(op_a, m, k, lda) || !valid(op_b, k, n, ldb) || ldc < m {
        return 7;
    }
    // SAFETY: the matrices are the test's vectors, which have these sizes, and the scalars are f32.
    unsafe {
        let at = |base: *const c_void, op, row: c_int, column: c_int, leading: c_int| {
            let (row, column) = if op == OP_N {
                (row, column)
            } else {
                (column, row)
            };
            f32::from(*base.cast::<bf16>().add((row + column * leading) as usize))
        };
        let (alpha, beta) = (*alpha.cast::<f32>(), *beta.cast::<f32>());
        for row in 0..m {
            for column in 0..n {
                let terms = (0..k).map(|i| at(a, op_a, row, i, lda) * at(b, op_b, i, column, ldb));
                let sum = alpha * terms.sum::<f32>();
                let to = c.cast::<bf16>().add((row + column * ldc) as usize);
                // If beta is 0, C is not read.
                let old = if beta == 0.0 {
                    0.0
                } else {
                    beta * f32::from(*to)
                };
                *to = bf16::from_f32(sum + old);
            }
        }
    }
    0
}

fn cublas(create: Create) -> Result<Cublas, Error> {
    let functions = Functions {
        create,
        destroy,
        get_version,
        set_stream,
        set_workspace,
        gemm_ex,
    };
    // SAFETY: these functions only compare stream and workspace with the given ones.
    unsafe {
        Cublas::with(
            functions,
            None,
            "a test".to_owned(),
            without_provenance_mut(STREAM),
            WORKSPACE,
            256,
        )
    }
}

/// The memory of a test's matrices.
#[derive(Default)]
struct Memory(Vec<Box<[bf16]>>);

impl Memory {
    fn matrix(&mut self, rows: usize, columns: usize, value: impl Fn(usize) -> f32) -> Matrix {
        let data = (0..rows * columns).map(|i| bf16::from_f32(value(i)));
        self.0.push(data.collect());
        let address = self
            .0
            .last_mut()
            .map_or(null_mut(), |data| data.as_mut_ptr());
        Matrix {
            address: address.expose_provenance() as u64,
            rows,
            columns,
        }
    }

    fn input(&mut self, rows: usize, columns: usize) -> Matrix {
        let seed = self.0.len();
        // Small multiples of 1/4, so that every sum is exact until it is rounded to bf16.
        self.matrix(rows, columns, |i| {
            ((i * 7 + seed * 5) % 9) as f32 / 4.0 - 1.0
        })
    }

    fn output(&mut self, rows: usize, columns: usize) -> Matrix {
        self.matrix(rows, columns, |_| f32::NAN)
    }

    fn read(&self, matrix: Matrix) -> Values {
        let owner = self
            .0
            .iter()
            .find(|data| data.as_ptr().addr() as u64 == matrix.address);
        Values {
            columns: matrix.columns,
            data: owner
                .unwrap()
                .iter()
                .map(|&value| f32::from(value))
                .collect(),
        }
    }
}

struct Values {
    columns: usize,
    data: Vec<f32>,
}

impl Values {
    fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.columns + column]
    }
}

const M: usize = 5;
const K: usize = 6;

fn layer(memory: &mut Memory, projections: &[(usize, usize)]) -> LayerTensors {
    let x = memory.input(M, K);
    let projection = |&(n, r): &(usize, usize)| Projection {
        weight: memory.input(n, K),
        lora_a: memory.input(r, K),
        lora_b: memory.input(n, r),
        scaling: 0.5,
        y: memory.output(M, n),
        dy: memory.input(M, n),
        d_lora_a: memory.output(r, K),
        d_lora_b: memory.output(n, r),
        s: memory.output(M, r),
        t: memory.output(M, r),
    };
    let projections = projections.iter().map(projection).collect();
    LayerTensors {
        x,
        dx: memory.output(M, K),
        projections,
    }
}

fn run(products: &[Product]) {
    let cublas = cublas(create).unwrap();
    for product in products {
        // SAFETY: the matrices are the test's vectors.
        unsafe { cublas.product(product, Type::Bf16) }.unwrap();
    }
}

#[track_caller]
fn assert_matrix(given: &Values, expected: impl Fn(usize, usize) -> f32) {
    for (index, &value) in given.data.iter().enumerate() {
        let (row, column) = (index / given.columns, index % given.columns);
        let expected = expected(row, column);
        // Intermediate values are rounded to bf16 too.
        let error = (value - expected).abs();
        assert!(
            error <= expected.abs().max(2.0) / 64.0,
            "({row}, {column}): {value}, not {expected}"
        );
    }
}

fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    (0..count).map(term).sum()
}

#[test]
fn unsloths_way_computes_forward_and_backward_of_every_projection() {
    let mut memory = Memory::default();
    let layer = layer(&mut memory, &[(7, 2), (3, 4)]);
    run(&products::unsloth_forward(&layer));
    run(&products::unsloth_backward(&layer));
    let x = memory.read(layer.x);
    let mut all = Vec::new();
    for projection in &layer.projections {
        let [w, a, b, dy] = [
            projection.weight,
            projection.lora_a,
            projection.lora_b,
            projection.dy,
        ]
        .map(|matrix| memory.read(matrix));
        let (n, r) = (projection.weight.rows, projection.lora_a.rows);
        let s = |row: usize, j: usize| sum(K, |k| x.at(row, k) * a.at(j, k));
        let t = |row: usize, j: usize| sum(n, |i| dy.at(row, i) * b.at(i, j));
        assert_matrix(&memory.read(projection.y), |row, column| {
            sum(K, |k| x.at(row, k) * w.at(column, k))
                + 0.5 * sum(r, |j| s(row, j) * b.at(column, j))
        });
        assert_matrix(&memory.read(projection.d_lora_a), |j, k| {
            0.5 * sum(M, |row| t(row, j) * x.at(row, k))
        });
        assert_matrix(&memory.read(projection.d_lora_b), |i, j| {
            0.5 * sum(M, |row| dy.at(row, i) * s(row, j))
        });
        all.push((w, a, b, dy, n, r));
    }
    assert_matrix(&memory.read(layer.dx), |row, k| {
        let parts = all.iter().map(|(w, a, b, dy, n, r)| {
            let t = |j: usize| sum(*n, |i| dy.at(row, i) * b.at(i, j));
            sum(*n, |i| dy.at(row, i) * w.at(i, k)) + 0.5 * sum(*r, |j| t(j) * a.at(j, k))
        });
        parts.sum()
    });
}

#[test]
fn the_plain_way_is_the_base_product_alone() {
    let mut memory = Memory::default();
    let layer = layer(&mut memory, &[(7, 2), (3, 4)]);
    run(&products::plain_forward(&layer));
    run(&products::plain_backward(&layer));
    let x = memory.read(layer.x);
    for projection in &layer.projections {
        let w = memory.read(projection.weight);
        assert_matrix(&memory.read(projection.y), |row, column| {
            sum(K, |k| x.at(row, k) * w.at(column, k))
        });
    }
    assert_matrix(&memory.read(layer.dx), |row, k| {
        let parts = layer.projections.iter().map(|projection| {
            let (w, dy) = (memory.read(projection.weight), memory.read(projection.dy));
            sum(projection.weight.rows, |i| dy.at(row, i) * w.at(i, k))
        });
        parts.sum()
    });
}

#[test]
fn what_cublas_refuses_is_named() {
    let error = cublas(out_of_memory).err().unwrap().to_string();
    assert_eq!(
        error,
        "cublasCreate_v2 failed: CUBLAS_STATUS_ALLOC_FAILED (3)"
    );
}

#[test]
fn factors_that_do_not_fit_are_refused_before_the_call() {
    let mut memory = Memory::default();
    let product = Product {
        a: memory.input(5, 6).as_is(),
        b: memory.input(7, 6).as_is(),
        c: memory.output(5, 7),
        alpha: 1.0,
        add: false,
    };
    // SAFETY: the call is refused before anything is computed.
    let error = unsafe { cublas(create).unwrap().product(&product, Type::F16) };
    assert!(matches!(error, Err(Error::Shapes { .. })), "{error:?}");
}

#[test]
fn versions_are_read_as_cublas_writes_them() {
    assert_eq!(cublas(create).unwrap().describe(), "cuBLAS 12.8.3 (a test)");
    assert_eq!(version_name(130_002), "13.0.2");
}
