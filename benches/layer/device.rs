//! The device, and the measurement of time on it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use lora_kernels::{Element, Kernels};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A benchmark can't go on without its device: any failure ends it with the error's own text.
pub fn must<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

pub struct BenchDevice {
    pub emulated: bool,
    pub name: String,
    pub kernels: Kernels,
    pub stream: Arc<CudaStream>,
}

impl BenchDevice {
    pub fn open(emulated: bool) -> Self {
        let context = must(lora_kernels::context(0));
        let name = must(context.name());
        let stream = must(context.new_stream());
        Self {
            emulated,
            name,
            kernels: must(Kernels::load(&context)),
            stream,
        }
    }

    /// The time of `calls` calls: between CUDA events on a GPU, on the CPU's clock on the emulated
    /// device.
    pub fn time(&self, calls: u64, mut call: impl FnMut()) -> Duration {
        must(self.stream.synchronize());
        if self.emulated {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            must(self.stream.synchronize());
            return start.elapsed();
        }
        let start = must(
            self.stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)),
        );
        (0..calls).for_each(|_| call());
        let end = must(
            self.stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)),
        );
        Duration::from_secs_f32(must(start.elapsed_ms(&end)) / 1e3)
    }

    /// Uninitialised device memory.
    ///
    /// # Errors
    /// The driver's error, if there is too little memory.
    pub fn memory<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>, String> {
        // SAFETY: the caller writes the memory before anything reads it.
        let memory = unsafe { self.stream.alloc(count.max(1)) };
        memory.map_err(|error| format!("{} MiB more: {error:?}", (count * size_of::<T>()) >> 20))
    }

    pub fn address<T>(&self, memory: &CudaSlice<T>) -> u64 {
        memory.device_ptr(&self.stream).0
    }
}

/// A source of numbers between -1 and 1 on the device. On zeros, a GPU would draw less power and
/// clock higher.
pub struct Noise<T>(CudaSlice<T>);

impl<T: Element + DeviceRepr> Noise<T> {
    pub fn new(device: &BenchDevice) -> Self {
        // Odd, so that the rows of a matrix filled from it differ.
        let count = if device.emulated { 4099 } else { (1 << 20) + 7 };
        let mut rng = StdRng::seed_from_u64(7);
        let data: Vec<T> = (0..count)
            .map(|_| T::from_f64(rng.random_range(-1.0..1.0)))
            .collect();
        Self(must(device.stream.clone_htod(&data)))
    }

    pub fn fill(&self, device: &BenchDevice, memory: &mut CudaSlice<T>) {
        let (whole, step) = (memory.len(), self.0.len());
        for start in (0..whole).step_by(step) {
            let end = (start + step).min(whole);
            let part = self.0.slice(..end - start);
            must(
                device
                    .stream
                    .memcpy_dtod(&part, &mut memory.slice_mut(start..end)),
            );
        }
    }
}
