//! Tensor maps. Encoding one is the host's work: it needs neither a context nor a device that could
//! use the map.

use super::abi::{In, Out, report};
use super::code::Code;
use super::state::driver;
use super::{Outcome, api};
use crate::tensor_map::{ALIGNMENT, TensorMap, TensorMapError, WORDS};

/// `CUtensorMap`.
type Map = [u64; WORDS];

fn refuse(call: &str, error: &TensorMapError) -> Code {
    report(format_args!("{call} refused: {error}"));
    Code::INVALID_VALUE
}

fn aligned(call: &str, map: Out<Map>) -> Outcome {
    driver()?;
    if map.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let address = map.address();
    if !address.is_multiple_of(ALIGNMENT) {
        let error = TensorMapError {
            argument: "tensorMap".to_owned(),
            given: format!("{address:#x}"),
            rule: format!("its address must be a multiple of {ALIGNMENT}"),
        };
        return Err(refuse(call, &error));
    }
    Ok(())
}

/// The first `count` of the numbers.
fn list<T: Copy>(numbers: In<T>, count: usize) -> Outcome<Vec<T>> {
    (0..count).map(|index| numbers.get(index)).collect()
}

api! {
    fn cuTensorMapEncodeTiled(
        map: Out<Map>, data_type: u32, rank: u32, address: u64, dims: In<u64>, strides: In<u64>, box_dims: In<u32>,
        element_strides: In<u32>, interleave: u32, swizzle: u32, l2_promotion: u32, fill: u32,
    ) {
        const CALL: &str = "cuTensorMapEncodeTiled";
        aligned(CALL, map)?;
        // A wrong rank must not lead past the ends of the lists.
        let count = if rank <= 5 { rank as usize } else { 0 };
        let region = TensorMap {
            data_type,
            address,
            dims: list(dims, count)?,
            strides: list(strides, count.saturating_sub(1))?,
            box_dims: list(box_dims, count)?,
            element_strides: list(element_strides, count)?,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        map.set(region.encode().map_err(|error| refuse(CALL, &error))?)
    }

    fn cuTensorMapReplaceAddress(map: Out<Map>, address: u64) {
        const CALL: &str = "cuTensorMapReplaceAddress";
        aligned(CALL, map)?;
        let region = TensorMap::decode(&map.readable().get(0)?).ok_or(Code::INVALID_VALUE)?;
        let region = TensorMap { address, ..region };
        map.set(region.encode().map_err(|error| refuse(CALL, &error))?)
    }
}
