//! A matrix in device memory, between elements that must not change.

use lora_kernels::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use lora_kernels::reference::Precision;

use crate::common::device::{Number, gpu};

/// A matrix on host and device.
pub struct Matrix<E> {
    pub values: Vec<E>,
    pub rows: usize,
    columns: usize,
    pub stride: usize,
    start: usize,
    device: CudaSlice<E>,
}

/// Elements around every matrix, which must not change.
const GUARD: usize = 64;

impl<E: Number> Matrix<E> {
    pub fn new(rows: usize, columns: usize, odd: bool, mut value: impl FnMut() -> f64) -> Self {
        let stride = columns + if odd { 3 } else { 0 };
        let start = GUARD + usize::from(odd);
        let mut values = vec![E::from_f64(f64::NAN); start + rows * stride + GUARD];
        for row in 0..rows {
            for column in 0..columns {
                values[start + row * stride + column] = E::from_f64(value());
            }
        }
        let device = gpu().stream.clone_htod(&values).expect("device memory");
        Self {
            values,
            rows,
            columns,
            stride,
            start,
            device,
        }
    }

    pub fn address(&self) -> u64 {
        self.device.device_ptr(&gpu().stream).0 + (self.start * size_of::<E>()) as u64
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[self.start + row * self.stride + column].into()
    }

    pub fn vectorised(&self) -> bool {
        ((self.start | self.stride) * size_of::<E>()).is_multiple_of(16)
    }

    /// All values on the device, with those around the matrix.
    pub fn now(&self) -> Vec<E> {
        gpu().stream.clone_dtoh(&self.device).expect("reading back")
    }

    /// The device's values, row by row.
    pub fn read(&self) -> Vec<Vec<E>> {
        let now = self.now();
        let row = |row: usize| now[self.start + row * self.stride..][..self.columns].to_vec();
        (0..self.rows).map(row).collect()
    }

    /// Compares the device's values with what they must be: (value, bound of its error) without
    /// rounding, or `None` where nothing may change.
    pub fn check(&self, name: &str, expected: impl Fn(usize, usize) -> Option<(f64, f64)>) {
        for (index, value) in self.now().iter().enumerate() {
            let place = index.checked_sub(self.start).filter(|_| self.stride > 0);
            let place = place.map(|at| (at / self.stride, at % self.stride));
            let inside = place.filter(|&(row, column)| row < self.rows && column < self.columns);
            match inside.and_then(|(row, column)| expected(row, column)) {
                None => assert!(
                    bytemuck::bytes_of(value) == bytemuck::bytes_of(&self.values[index]),
                    "{name}: {value:?} was written at {inside:?}, index {index}"
                ),
                Some((right, error)) => {
                    let given: f64 = (*value).into();
                    let bound = error + Precision::of(E::DTYPE).rounding_error(right.abs() + error);
                    assert!(
                        (given - right).abs() <= bound || given.is_nan() && right.is_nan(),
                        "{name} at {inside:?}: {given}, not {right}, bound {bound}"
                    );
                }
            }
        }
    }
}

pub fn upload<E: DeviceRepr + Copy>(values: &[E]) -> CudaSlice<E> {
    gpu().stream.clone_htod(values).expect("device memory")
}

pub fn address<E>(slice: &CudaSlice<E>) -> u64 {
    slice.device_ptr(&gpu().stream).0
}

/// An unwritten buffer
pub fn unwritten(bytes: usize) -> CudaSlice<u8> {
    // SAFETY: only kernels use it.
    unsafe { gpu().stream.alloc::<u8>(bytes.max(1)) }.expect("device memory")
}
