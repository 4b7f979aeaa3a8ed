//! Device memory with guard bands.

use lora_kernels::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use lora_kernels::{MatMut, MatRef};

use super::data::Placed;
use super::device::{Number, gpu};

/// A placed matrix on the device to read from, surroundings included.
pub struct Input<'a, T> {
    host: &'a Placed<T>,
    device: CudaSlice<T>,
}

impl<'a, T: Number> Input<'a, T> {
    pub fn new(host: &'a Placed<T>) -> Self {
        let device = gpu().stream.clone_htod(&host.buffer).expect("device memory");
        Self { host, device }
    }

    /// The elements from the first to the last of the matrix, gaps included.
    pub fn span(&self) -> CudaView<'_, T> {
        self.device.slice(self.host.range())
    }

    pub fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(self.span(), self.host.rows, self.host.cols).with_row_stride(self.host.row_stride as i64)
    }
}

/// A placed matrix on the device to write to.
pub struct Output<T> {
    host: Placed<T>,
    device: CudaSlice<T>,
}

impl<T: Number> Output<T> {
    pub fn new(host: Placed<T>) -> Self {
        let device = gpu().stream.clone_htod(&host.buffer).expect("device memory");
        Self { host, device }
    }

    pub fn matrix(&mut self) -> MatMut<'_, T> {
        let Placed {
            rows, cols, row_stride, ..
        } = self.host;
        MatMut::new(self.device.slice_mut(self.host.range()), rows, cols).with_row_stride(row_stride as i64)
    }

    /// What is on the device now. Panics if anything around the matrix has changed.
    pub fn read_back(mut self, name: &str) -> Placed<T> {
        self.host.buffer = gpu().stream.clone_dtoh(&self.device).expect("reading back");
        self.host.assert_surroundings_untouched(name);
        self.host
    }
}

/// Bytes on the device between two guard bands.
pub struct Guarded {
    bytes: usize,
    device: CudaSlice<u8>,
}

impl Guarded {
    const GUARD: usize = 512;
    /// Every type's NaN.
    const POISON: u8 = 0xFF;

    /// Poisoned bytes.
    pub fn new(bytes: usize) -> Self {
        Self::holding(&vec![Self::POISON; bytes])
    }

    pub fn holding(content: &[u8]) -> Self {
        let guard = [Self::POISON; Self::GUARD];
        let device = gpu()
            .stream
            .clone_htod(&[&guard, content, &guard].concat())
            .expect("device memory");
        Self {
            bytes: content.len(),
            device,
        }
    }

    pub fn view(&self) -> CudaView<'_, u8> {
        self.device.slice(Self::GUARD..Self::GUARD + self.bytes)
    }

    pub fn view_mut(&mut self) -> CudaViewMut<'_, u8> {
        self.device.slice_mut(Self::GUARD..Self::GUARD + self.bytes)
    }

    /// What lies between the bands now. Panics if a band has changed.
    pub fn read_back(&self, name: &str) -> Vec<u8> {
        let all = gpu().stream.clone_dtoh(&self.device).expect("reading back");
        let content = Self::GUARD..Self::GUARD + self.bytes;
        for (index, &byte) in all.iter().enumerate().filter(|(index, _)| !content.contains(index)) {
            let offset = index as i64 - Self::GUARD as i64;
            assert_eq!(
                byte,
                Self::POISON,
                "byte {offset} of {name}, which has {}, was written",
                self.bytes
            );
        }
        all[content].to_vec()
    }
}
