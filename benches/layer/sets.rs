//! Several sets of a layer's tensors. Calls use them in turn, so that none finds its tensors in the
//! L2 cache.

use cudarc::driver::{CudaSlice, DeviceRepr};
use lora_kernels::{Element, Problem, Role};
use lora_kernels_baselines::cublas::products::{LayerTensors, Matrix, Projection};

use crate::device::{BenchDevice, Noise};

pub const SCALING: f32 = 2.0;

pub struct Sets<T> {
    pub layers: Vec<LayerTensors>,
    /// The memory that the addresses in `layers` point to
    memory: Vec<CudaSlice<T>>,
}

impl<T: Element + DeviceRepr> Sets<T> {
    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: &BenchDevice, problem: &Problem, noise: &Noise<T>) -> Result<Self, String> {
        let mut memory = Vec::new();
        let mut matrix = |(rows, columns): (usize, usize)| -> Result<Matrix, String> {
            let mut tensor = device.memory::<T>(rows * columns)?;
            noise.fill(device, &mut tensor);
            let address = device.address(&tensor);
            memory.push(tensor);
            Ok(Matrix {
                address,
                rows,
                columns,
            })
        };
        let mut layers = Vec::new();
        for _ in 0..count(device, problem) {
            let mut projections = Vec::new();
            for (index, sizes) in problem.projections().iter().enumerate() {
                let shape = |tensor| problem.shape_of(index, tensor);
                projections.push(Projection {
                    weight: matrix(shape(Role::Weight))?,
                    lora_a: matrix(shape(Role::LoraA))?,
                    lora_b: matrix(shape(Role::LoraB))?,
                    scaling: SCALING,
                    y: matrix(shape(Role::Y))?,
                    dy: matrix(shape(Role::DY))?,
                    d_lora_a: matrix(shape(Role::DLoraA))?,
                    d_lora_b: matrix(shape(Role::DLoraB))?,
                    s: matrix((problem.tokens(), sizes.rank))?,
                    t: matrix((problem.tokens(), sizes.rank))?,
                });
            }
            layers.push(LayerTensors {
                x: matrix(problem.shape(Role::X))?,
                dx: matrix(problem.shape(Role::DX))?,
                projections,
            });
        }
        Ok(Self { layers, memory })
    }

    /// The memory of a matrix of these sets.
    pub fn memory(&self, device: &BenchDevice, matrix: Matrix) -> &CudaSlice<T> {
        &self.memory[self.position(device, matrix)]
    }

    pub fn fill(&mut self, device: &BenchDevice, matrices: &[Matrix], noise: &Noise<T>) {
        for &matrix in matrices {
            let position = self.position(device, matrix);
            noise.fill(device, &mut self.memory[position]);
        }
    }

    fn position(&self, device: &BenchDevice, matrix: Matrix) -> usize {
        let holds = |memory: &CudaSlice<T>| device.address(memory) == matrix.address;
        self.memory
            .iter()
            .position(holds)
            .unwrap_or_else(|| panic!("{matrix:?} is of other sets"))
    }
}

/// The number of sets. The other sets take more than twice the L2 cache, counting only what the
/// plain product touches; every call touches at least that.
fn count(device: &BenchDevice, problem: &Problem) -> usize {
    if device.emulated {
        return 2;
    }
    let elements = |(rows, columns): (usize, usize)| rows * columns;
    let outputs = (0..problem.projections().len()).map(|index| {
        elements(problem.shape_of(index, Role::Weight)) + elements(problem.shape_of(index, Role::Y))
    });
    let bytes =
        (elements(problem.shape(Role::X)) + outputs.sum::<usize>()) * problem.dtype().size();
    let l2 = device.kernels.props().l2_bytes() as usize;
    1 + (2 * l2).div_ceil(bytes)
}
