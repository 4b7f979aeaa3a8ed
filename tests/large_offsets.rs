//! Offsets beyond 2³¹ elements: rows of x, y, dy, dx and weight so far apart that any 32-bit index wraps. Only the rows themselves are
//! ever touched, so a device that commits memory on use needs little of it.

mod common;

use common::check::bits;
use common::data::{Placed, Placement};
use common::device::{Number, gpu};
use common::layer::{Case, Layer};
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::{Backward, BackwardPlan, Forward, ForwardPlan, Layout, MatMut, MatRef, Problem, Tensor};

/// Three rows of it reach beyond 2³¹ elements. A multiple of 16 bytes in every type, as in the dense layer compared with: the same kernels.
const STRIDE: usize = (1 << 30) + 64;

/// A matrix whose rows are `STRIDE` elements apart.
struct Far<T> {
    rows: usize,
    columns: usize,
    data: CudaSlice<T>,
}

impl<T: Number> Far<T> {
    fn new(rows: usize, columns: usize) -> Self {
        // SAFETY: what is read of it is written first: `holding` writes whole rows, and outputs are read back only where kernels wrote.
        let data = unsafe { gpu().stream.alloc::<T>((rows - 1) * STRIDE + columns) }.expect("device memory");
        Self { rows, columns, data }
    }

    fn holding(matrix: &Placed<T>) -> Self {
        let mut far = Self::new(matrix.rows, matrix.cols);
        for (row, line) in matrix.rows().chunks_exact(matrix.cols).enumerate() {
            let mut to = far.data.slice_mut(row * STRIDE..row * STRIDE + matrix.cols);
            gpu().stream.memcpy_htod(line, &mut to).expect("writing a row");
        }
        far
    }

    fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(self.data.as_view(), self.rows, self.columns).with_row_stride(STRIDE as i64)
    }

    fn matrix_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(self.data.as_view_mut(), self.rows, self.columns).with_row_stride(STRIDE as i64)
    }

    fn read_back(&self) -> Placed<T> {
        let mut values = Vec::new();
        for row in 0..self.rows {
            let line = self.data.slice(row * STRIDE..row * STRIDE + self.columns);
            values.extend(gpu().stream.clone_dtoh(&line).expect("reading a row"));
        }
        Placed::from_rows(&values, self.rows, self.columns, Placement::Dense)
    }
}

fn problem<T: Number>(case: &Case) -> Problem {
    let far = Layout {
        row_stride: STRIDE as i64,
        alignment: 16,
    };
    [Tensor::X, Tensor::Weight, Tensor::Y, Tensor::DY, Tensor::DX]
        .into_iter()
        .fold(case.problem::<T>(), |problem, tensor| {
            problem.with_layout(tensor, far).expect("a stride that problems take")
        })
}

fn rows_beyond_31_bits_give_the_bits_of_a_dense_layer<T: Number>() {
    let gpu = gpu();
    let case = Case::new(4, 64, 3, 8).bias(false).dropout(0.25);
    let layer = Layer::<T>::random(&case);
    let dense_forward = layer.forward();
    let dense_backward = layer.backward(&dense_forward.saved);

    let problem = problem::<T>(&case);
    let forward = ForwardPlan::new(&problem, gpu.kernels.props()).expect("a forward plan");
    let [x, weight, dy] = [&layer.x, &layer.weight, &layer.dy].map(Far::holding);
    let small = |matrix: &Placed<T>| gpu.stream.clone_htod(&matrix.rows()).expect("device memory");
    let (lora_a, lora_b) = (small(&layer.lora_a), small(&layer.lora_b));
    let lora_a = MatRef::new(lora_a.as_view(), case.rank, case.in_features);
    let lora_b = MatRef::new(lora_b.as_view(), case.out_features, case.rank);
    let mut y = Far::<T>::new(case.tokens, case.out_features);
    let mut saved = gpu
        .stream
        .alloc_zeros::<u8>(forward.saved().bytes())
        .expect("device memory");
    let arguments = Forward {
        x: x.matrix(),
        weight: weight.matrix(),
        bias: None,
        lora_a: lora_a.clone(),
        lora_b: lora_b.clone(),
        scaling: case.scaling,
        dropout: case.dropout,
        y: y.matrix_mut(),
        saved: saved.as_view_mut(),
    };
    gpu.kernels
        .forward(&gpu.stream, &forward, arguments)
        .expect("forward runs");
    assert_eq!(bits(&y.read_back()), bits(&dense_forward.y));

    let backward = BackwardPlan::new(&problem, gpu.kernels.props()).expect("a backward plan");
    let mut dx = Far::<T>::new(case.tokens, case.in_features);
    let zeros = |elements| gpu.stream.alloc_zeros::<T>(elements).expect("device memory");
    let (mut d_lora_a, mut d_lora_b) = (
        zeros(case.rank * case.in_features),
        zeros(case.out_features * case.rank),
    );
    let mut workspace = gpu
        .stream
        .alloc_zeros::<u8>(backward.workspace_bytes())
        .expect("device memory");
    let arguments = Backward {
        dy: dy.matrix(),
        x: x.matrix(),
        weight: weight.matrix(),
        lora_a,
        lora_b,
        scaling: case.scaling,
        dropout: case.dropout,
        saved: saved.as_view(),
        dx: dx.matrix_mut(),
        d_lora_a: MatMut::new(d_lora_a.as_view_mut(), case.rank, case.in_features),
        d_lora_b: MatMut::new(d_lora_b.as_view_mut(), case.out_features, case.rank),
        workspace: workspace.as_view_mut(),
    };
    gpu.kernels
        .backward(&gpu.stream, &backward, arguments)
        .expect("backward runs");
    assert_eq!(bits(&dx.read_back()), bits(&dense_backward.dx));
    let read = |data: &CudaSlice<T>| gpu.stream.clone_dtoh(data).expect("reading back");
    assert!(read(&d_lora_a) == dense_backward.d_lora_a.rows());
    assert!(read(&d_lora_b) == dense_backward.d_lora_b.rows());
}

for_each_dtype!(rows_beyond_31_bits_give_the_bits_of_a_dense_layer);
