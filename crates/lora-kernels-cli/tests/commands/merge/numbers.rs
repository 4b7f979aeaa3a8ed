//! Numbers in files.

use half::{bf16, f16};
use lora_kernels::Element;
use lora_kernels_adapters::{DType, Tensor};

/// Numbers in (-1, 1) that differ from tensor to tensor.
pub fn made(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub fn bytes(dtype: DType, values: &[f64]) -> Vec<u8> {
    fn of<T: Element>(values: &[f64]) -> Vec<u8> {
        let values: Vec<T> = values.iter().map(|&value| T::from_f64(value)).collect();
        bytemuck::cast_slice(&values).to_vec()
    }
    match dtype {
        DType::F16 => of::<f16>(values),
        DType::BF16 => of::<bf16>(values),
        DType::F32 => of::<f32>(values),
    }
}

pub fn values(tensor: &Tensor<'_>) -> Vec<f64> {
    fn of<T: Element>(bytes: &[u8]) -> Vec<f64> {
        bytes
            .chunks_exact(size_of::<T>())
            .map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f64())
            .collect()
    }
    match tensor.element_type().unwrap() {
        DType::F16 => of::<f16>(&tensor.read().unwrap()),
        DType::BF16 => of::<bf16>(&tensor.read().unwrap()),
        DType::F32 => of::<f32>(&tensor.read().unwrap()),
    }
}

/// Half the distance to the next number of the type: the largest error of rounding once.
pub fn half_ulp(dtype: DType, value: f64) -> f64 {
    let (digits, least) = match dtype {
        DType::F16 => (11, -24),
        DType::BF16 => (8, -133),
        DType::F32 => (24, -149),
    };
    let exponent = if value == 0.0 {
        least
    } else {
        value.abs().log2().floor() as i32 - (digits - 1)
    };
    0.5 * 2f64.powi(exponent.max(least))
}
