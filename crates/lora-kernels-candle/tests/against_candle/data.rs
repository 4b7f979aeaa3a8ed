//! Backends, and tensors of pseudo-random numbers.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor, Var};
use lora_kernels_candle::{Backend, Carrier};
use lora_kernels_test_device::select;

/// Both backends for candle's CPU device, with their names. All tests share one carrier.
pub fn backends() -> [(&'static str, Backend); 2] {
    static CARRIER: OnceLock<Carrier> = OnceLock::new();
    let carrier = CARRIER.get_or_init(|| {
        select().expect("a device, real or emulated");
        let context = lora_kernels::context(0).expect("the selected driver has a device");
        Carrier::new(&context).expect("the kernels load")
    });
    [
        ("reference", Backend::Local),
        ("carried", Backend::Carried(carrier.clone())),
    ]
}

/// Uniform numbers in [-magnitude, magnitude), rounded to `dtype`. The same seed gives the same
/// numbers.
pub fn numbers(dims: &[usize], magnitude: f64, seed: u64, dtype: DType) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        (magnitude * (2.0 * unit - 1.0)) as f32
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

pub fn variable(dims: &[usize], magnitude: f64, seed: u64, dtype: DType) -> Result<Var> {
    Var::from_tensor(&numbers(dims, magnitude, seed, dtype)?)
}

/// A new f64 variable with the same values.
pub fn exact(tensor: &Tensor) -> Result<Var> {
    Var::from_tensor(&tensor.detach().to_dtype(DType::F64)?.contiguous()?)
}

pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
