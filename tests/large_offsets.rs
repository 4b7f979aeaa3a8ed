//! Offsets beyond 2³² elements: the rows of one matrix at a time so far apart that any 32-bit index wraps. Only the
//! rows themselves are ever touched, so a device that commits memory on use needs little of it.

mod common;

use std::sync::{Mutex, PoisonError};

use common::check::bits;
use common::data::{Placed, Placement};
use common::device::{Number, gpu};
use common::layer::{Case, Layer};
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::{Backward, BackwardPlan, Forward, ForwardPlan, Layout, MatMut, MatRef, Tensor};

/// One far matrix takes 17 GB in f32: a GPU with 24 GB holds one, and not those of several tests.
static DEVICE_MEMORY: Mutex<()> = Mutex::new(());

/// A row stride with which the last of `rows` rows starts beyond 2³² elements. A multiple of 16 bytes in every type, as
/// the dense strides are: the kernels stay the same.
fn far_stride(rows: usize) -> usize {
    (1usize << 32).div_ceil(rows - 1).next_multiple_of(64) + 64
}

/// A matrix on the device, its rows `stride` elements apart.
struct Strided<T> {
    rows: usize,
    columns: usize,
    stride: usize,
    data: CudaSlice<T>,
}

impl<T: Number> Strided<T> {
    /// Memory for a matrix. What lies in a far one is undefined.
    fn new((rows, columns): (usize, usize), is_far: bool) -> Self {
        let stream = &gpu().stream;
        let stride = if is_far { far_stride(rows) } else { columns };
        let elements = (rows - 1) * stride + columns;
        // SAFETY: what is read of it is written first: `holding` writes whole rows, and outputs are read back only
        // where kernels wrote.
        let data = unsafe { stream.alloc::<T>(elements) };
        let data = data.unwrap_or_else(|error| {
            let bytes = elements * size_of::<T>();
            match stream.context().mem_get_info() {
                Ok((free, total)) => panic!(
                    "this test needs {bytes} bytes of device memory in one piece; {free} of {total} are free: {error}"
                ),
                Err(_) => panic!("this test needs {bytes} bytes of device memory in one piece: {error}"),
            }
        });
        Self {
            rows,
            columns,
            stride,
            data,
        }
    }

    fn holding(matrix: &Placed<T>, is_far: bool) -> Self {
        let mut to = Self::new((matrix.rows, matrix.cols), is_far);
        for (row, line) in matrix.rows().chunks_exact(matrix.cols).enumerate() {
            let mut to = to.data.slice_mut(row * to.stride..row * to.stride + matrix.cols);
            gpu().stream.memcpy_htod(line, &mut to).expect("writing a row");
        }
        to
    }

    fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(self.data.as_view(), self.rows, self.columns).with_row_stride(self.stride as i64)
    }

    fn matrix_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(self.data.as_view_mut(), self.rows, self.columns).with_row_stride(self.stride as i64)
    }

    fn read_back(&self) -> Placed<T> {
        let mut values = Vec::new();
        for row in 0..self.rows {
            let line = self.data.slice(row * self.stride..row * self.stride + self.columns);
            values.extend(gpu().stream.clone_dtoh(&line).expect("reading a row"));
        }
        Placed::from_rows(&values, self.rows, self.columns, Placement::Dense)
    }
}

fn rows_beyond_32_bits_give_the_bits_of_a_dense_layer<T: Number>() {
    let _turn = DEVICE_MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let layer = Layer::<T>::random(&Case::new(5, 64, 8, 8).bias(false).dropout(0.25));
    let forward = layer.forward();
    let backward = layer.backward(&forward.saved);
    let [y, dx, d_lora_a, d_lora_b] = [&forward.y, &backward.dx, &backward.d_lora_a, &backward.d_lora_b].map(bits);
    for far in Tensor::ALL.into_iter().filter(|&tensor| tensor != Tensor::Bias) {
        match far {
            Tensor::X | Tensor::Weight | Tensor::LoraA | Tensor::LoraB | Tensor::Y => {
                let (given, saved) = forward_with(&layer, far);
                assert!(bits(&given) == y, "y with {far} far apart");
                assert!(saved == forward.saved, "saved with {far} far apart");
            }
            Tensor::DY | Tensor::DX | Tensor::DLoraA | Tensor::DLoraB | Tensor::Bias => {}
        }
        if far != Tensor::Y {
            let given = backward_with(&layer, &forward.saved, far);
            for ((name, given), expected) in given.iter().zip([&dx, &d_lora_a, &d_lora_b]) {
                assert!(bits(given) == *expected, "{name} with {far} far apart");
            }
        }
        // Frees what the calls above left.
        gpu().stream.synchronize().expect("the device is well");
    }
}

/// The case's problem with one matrix far apart.
fn problem<T: Number>(case: &Case, far: Tensor) -> lora_kernels::Problem {
    let layout = Layout {
        row_stride: far_stride(case.shape(far).0) as i64,
        alignment: 16,
    };
    let problem = case.problem::<T>().with_layout(far, layout);
    problem.expect("a stride that problems take")
}

/// y and what is saved for backward.
fn forward_with<T: Number>(layer: &Layer<T>, far: Tensor) -> (Placed<T>, Vec<u8>) {
    let (gpu, case) = (gpu(), &layer.case);
    let plan = ForwardPlan::new(&problem::<T>(case, far), gpu.kernels.props()).expect("a forward plan");
    let [x, weight, lora_a, lora_b] = [
        (Tensor::X, &layer.x),
        (Tensor::Weight, &layer.weight),
        (Tensor::LoraA, &layer.lora_a),
        (Tensor::LoraB, &layer.lora_b),
    ]
    .map(|(tensor, matrix)| Strided::holding(matrix, tensor == far));
    let mut y = Strided::<T>::new(case.shape(Tensor::Y), far == Tensor::Y);
    // As `Layer::forward` fills it: what neither call writes is compared, too.
    let poison = vec![0xFF_u8; plan.saved().bytes()];
    let mut saved = gpu.stream.clone_htod(&poison).expect("device memory");
    let arguments = Forward {
        x: x.matrix(),
        weight: weight.matrix(),
        bias: None,
        lora_a: lora_a.matrix(),
        lora_b: lora_b.matrix(),
        scaling: case.scaling,
        dropout: case.dropout,
        y: y.matrix_mut(),
        saved: saved.as_view_mut(),
    };
    gpu.kernels
        .forward(&gpu.stream, &plan, arguments)
        .expect("forward runs");
    (y.read_back(), gpu.stream.clone_dtoh(&saved).expect("reading back"))
}

/// The three gradients by name.
fn backward_with<T: Number>(layer: &Layer<T>, saved: &[u8], far: Tensor) -> [(Tensor, Placed<T>); 3] {
    let (gpu, case) = (gpu(), &layer.case);
    let plan = BackwardPlan::new(&problem::<T>(case, far), gpu.kernels.props()).expect("a backward plan");
    let [dy, x, weight, lora_a, lora_b] = [
        (Tensor::DY, &layer.dy),
        (Tensor::X, &layer.x),
        (Tensor::Weight, &layer.weight),
        (Tensor::LoraA, &layer.lora_a),
        (Tensor::LoraB, &layer.lora_b),
    ]
    .map(|(tensor, matrix)| Strided::holding(matrix, tensor == far));
    let gradients = [Tensor::DX, Tensor::DLoraA, Tensor::DLoraB];
    let [mut dx, mut d_lora_a, mut d_lora_b] =
        gradients.map(|tensor| Strided::<T>::new(case.shape(tensor), tensor == far));
    let saved = gpu.stream.clone_htod(saved).expect("device memory");
    let mut workspace = gpu
        .stream
        .alloc_zeros::<u8>(plan.workspace_bytes())
        .expect("device memory");
    let arguments = Backward {
        dy: dy.matrix(),
        x: x.matrix(),
        weight: weight.matrix(),
        lora_a: lora_a.matrix(),
        lora_b: lora_b.matrix(),
        scaling: case.scaling,
        dropout: case.dropout,
        saved: saved.as_view(),
        dx: dx.matrix_mut(),
        d_lora_a: d_lora_a.matrix_mut(),
        d_lora_b: d_lora_b.matrix_mut(),
        workspace: workspace.as_view_mut(),
    };
    gpu.kernels
        .backward(&gpu.stream, &plan, arguments)
        .expect("backward runs");
    [
        (Tensor::DX, dx.read_back()),
        (Tensor::DLoraA, d_lora_a.read_back()),
        (Tensor::DLoraB, d_lora_b.read_back()),
    ]
}

for_each_dtype!(rows_beyond_32_bits_give_the_bits_of_a_dense_layer);
