//! Device memory with guard bands.

use std::ops::Range;

use lora_kernels::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use lora_kernels::{Flags, MatMut, MatRef};

use super::data::Placed;
use super::device::{Number, gpu};

impl<T: Number> Placed<T> {
    fn is_far(&self) -> bool {
        self.device_stride != self.row_stride
    }

    /// Each row with its guard elements: its ranges in the host's and in the device's buffer.
    fn far_rows(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<T> {
        let (start, length, far) = (self.start, self.row_stride, self.device_stride);
        (0..self.rows).map(move |row| {
            let (here, there) = (start + row * length, row * far);
            (here..here + length, there..there + length)
        })
    }

    /// The range of the matrix in the device's buffer, from its first element to its last.
    fn device_range(&self) -> Range<usize> {
        let start = if self.is_far() { 0 } else { self.start };
        start..start + (self.rows - 1) * self.device_stride + self.cols
    }

    fn copied_to_device(&self) -> CudaSlice<T> {
        let stream = &gpu().stream;
        if !self.is_far() {
            return stream.clone_htod(&self.buffer).expect("device memory");
        }
        let elements = (self.rows - 1) * self.device_stride + self.row_stride;
        // SAFETY: only rows are read, and they are written below.
        let mut device = unsafe { stream.alloc::<T>(elements) }.unwrap_or_else(|error| {
            let free = stream.context().mem_get_info().map_or(0, |(free, _)| free);
            let bytes = elements * size_of::<T>();
            panic!("this test needs {bytes} bytes of device memory in one piece, of which {free} are free: {error}")
        });
        for (here, there) in self.far_rows() {
            let row = &self.buffer[here];
            stream
                .memcpy_htod(row, &mut device.slice_mut(there))
                .expect("writing a row");
        }
        device
    }

    /// Reads the matrix and its surroundings from the device.
    fn read_from(&self, device: &CudaSlice<T>) -> Self {
        let stream = &gpu().stream;
        let mut now = self.clone();
        if !self.is_far() {
            stream
                .memcpy_dtoh(device, &mut now.buffer)
                .expect("reading back");
            return now;
        }
        for (here, there) in self.far_rows() {
            stream
                .memcpy_dtoh(&device.slice(there), &mut now.buffer[here])
                .expect("reading a row");
        }
        now
    }
}

/// An input on the device, including its surroundings.
pub struct Input<'a, T> {
    host: &'a Placed<T>,
    device: CudaSlice<T>,
}

impl<'a, T: Number> Input<'a, T> {
    pub fn new(host: &'a Placed<T>) -> Self {
        let device = host.copied_to_device();
        Self { host, device }
    }

    /// The elements from the first to the last of the matrix, including gaps.
    pub fn span(&self) -> CudaView<'_, T> {
        self.device.slice(self.host.device_range())
    }

    pub fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(self.span(), self.host.rows, self.host.cols)
            .with_row_stride(self.host.device_stride as i64)
    }

    /// Writes other numbers to the same place.
    pub fn replace(&mut self, numbers: &Placed<T>) {
        assert_eq!(numbers.buffer.len(), self.device.len());
        let copied = gpu().stream.memcpy_htod(&numbers.buffer, &mut self.device);
        copied.expect("writing");
    }
}

/// An output on the device, including its surroundings.
pub struct Output<T> {
    host: Placed<T>,
    device: CudaSlice<T>,
}

impl<T: Number> Output<T> {
    pub fn new(host: &Placed<T>) -> Self {
        Self {
            device: host.copied_to_device(),
            host: host.clone(),
        }
    }

    pub fn matrix(&mut self) -> MatMut<'_, T> {
        let Placed {
            rows,
            cols,
            device_stride,
            ..
        } = self.host;
        let span = self.device.slice_mut(self.host.device_range());
        MatMut::new(span, rows, cols).with_row_stride(device_stride as i64)
    }

    /// Reads the output. Panics if anything around the matrix has changed.
    pub fn read_back(&self, name: &str) -> Placed<T> {
        let now = self.host.read_from(&self.device);
        now.assert_surroundings_untouched(name);
        now
    }
}

/// Bytes on the device between two guard bands.
pub struct Guarded {
    bytes: usize,
    device: CudaSlice<u8>,
}

impl Guarded {
    const GUARD: usize = 512;
    /// A NaN in every type.
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

    /// Reads the bytes between the bands. Panics if a band has changed.
    pub fn read_back(&self, name: &str) -> Vec<u8> {
        let all = gpu().stream.clone_dtoh(&self.device).expect("reading back");
        let content = Self::GUARD..Self::GUARD + self.bytes;
        for (index, &byte) in all
            .iter()
            .enumerate()
            .filter(|(index, _)| !content.contains(index))
        {
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

/// Whether the flags are as a call has to leave them. Waits for their stream.
pub fn are_zero(flags: &Flags) -> bool {
    let words = flags.words();
    let words = words.stream().clone_dtoh(words).expect("flags are read");
    words.iter().all(|&word| word == 0)
}
