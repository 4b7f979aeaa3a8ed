//! cuBLAS, if it is installed, and a check that it computes what our kernels compute.

use cudarc::driver::{CudaSlice, DeviceRepr};
use lora_kernels::reference::relative_error;
use lora_kernels::{DType, Element, Problem};
use lora_kernels_baselines::cublas::products::{self, Matrix, Product};
use lora_kernels_baselines::cublas::{Cublas, STAND_IN, Type, WORKSPACE_BYTES};

use crate::device::{BenchDevice, Noise, must};
use crate::ours::Ours;
use crate::sets::Sets;

pub struct Baseline {
    cublas: Result<Cublas, String>,
    _workspace: Option<CudaSlice<u8>>,
}

impl Baseline {
    pub fn open(device: &BenchDevice) -> Self {
        let without = |reason: String| Self {
            cublas: Err(reason),
            _workspace: None,
        };
        let stand_in = std::env::var_os(STAND_IN);
        if device.emulated && stand_in.is_none() {
            return without("emulated: no cuBLAS".to_owned());
        }
        let workspace = match device.memory::<u8>(WORKSPACE_BYTES) {
            Ok(workspace) => workspace,
            Err(error) => return without(error),
        };
        let address = device.address(&workspace);
        let stream = device.stream.cu_stream().cast();
        // SAFETY: the allocation made the device's context current; stream and workspace live as
        // long as the bench. Who names a stand-in promises that it behaves like cuBLAS.
        let cublas = unsafe {
            match stand_in.filter(|_| device.emulated) {
                Some(path) => Cublas::open_at(path.as_ref(), stream, address, WORKSPACE_BYTES),
                None => Cublas::open(stream, address, WORKSPACE_BYTES),
            }
        };
        Self {
            cublas: cublas.map_err(|error| error.to_string()),
            _workspace: Some(workspace),
        }
    }

    pub fn describe(&self) -> String {
        match &self.cublas {
            Ok(cublas) => cublas.describe(),
            Err(reason) => reason.clone(),
        }
    }

    /// # Errors
    /// Why there is no cuBLAS, or why it failed.
    pub fn run(&self, products: &[Product], dtype: DType) -> Result<(), String> {
        let cublas = self.cublas.as_ref().map_err(|reason| short(reason))?;
        let of = match dtype {
            DType::F16 => Type::F16,
            DType::BF16 => Type::Bf16,
            DType::F32 => Type::F32,
        };
        for product in products {
            // SAFETY: the sets own the matrices, which have this type, and outlive the stream's
            // work.
            unsafe { cublas.product(product, of) }.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Compares Unsloth's sequence with our kernels on a small layer. If they differ, cuBLAS is
    /// called wrongly and is not used as a baseline.
    pub fn verify<T: Element + DeviceRepr + Into<f64>>(&mut self, device: &BenchDevice) {
        if self.cublas.is_ok()
            && let Err(error) = self.compare::<T>(device)
        {
            self.cublas = Err(format!("cuBLAS is no baseline: {error}"));
        }
    }

    fn compare<T: Element + DeviceRepr + Into<f64>>(
        &self,
        device: &BenchDevice,
    ) -> Result<(), String> {
        let noise = &Noise::<T>::new(device);
        let problem =
            Problem::new(192, 320, 448, 16, T::DTYPE).map_err(|error| error.to_string())?;
        let mut sets = Sets::new(device, &problem, noise)?;
        let ours = Ours::new(device, &problem, 0.0, &sets)?;
        let layer = sets.layers[0].clone();
        let projection = layer.projections[0];
        let results = [
            projection.y,
            layer.dx,
            projection.d_lora_a,
            projection.d_lora_b,
        ];
        ours.forward(device, 0)?;
        ours.backward(device, 0)?;
        let expected = results.map(|matrix| read(device, &sets, matrix));
        // Our results must not be mistaken for cuBLAS's.
        sets.fill(device, &results, noise);
        self.run(&products::unsloth_forward(&layer), T::DTYPE)?;
        self.run(&products::unsloth_backward(&layer), T::DTYPE)?;
        let given = results.map(|matrix| read(device, &sets, matrix));
        let names = ["y", "dx", "d_lora_A", "d_lora_B"];
        for (name, (given, expected)) in names.into_iter().zip(given.iter().zip(&expected)) {
            let error = relative_error(given, expected);
            // This allows a few roundings to bf16.
            if error > 0.02 {
                return Err(format!(
                    "its {name} in {} is off ours by {error:.3}",
                    T::DTYPE
                ));
            }
        }
        Ok(())
    }
}

/// A reason shortened for a table's cell.
fn short(reason: &str) -> String {
    let end = reason
        .find(':')
        .filter(|_| reason.starts_with("no cuBLAS found"));
    reason[..end.unwrap_or(reason.len())].to_owned()
}

fn read<T: Element + DeviceRepr>(device: &BenchDevice, sets: &Sets<T>, matrix: Matrix) -> Vec<T> {
    must(device.stream.clone_dtoh(sets.memory(device, matrix)))
}
