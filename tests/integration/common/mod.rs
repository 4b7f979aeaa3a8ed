//! What tests share: a device, layers placed in awkward memory, and the comparison with the
//! reference.

#[macro_use]
pub mod process;

pub mod call;
pub mod case;
pub mod check;
pub mod data;
pub mod device;
pub mod layer;
pub mod memory;
pub mod short_path;

/// One test for each element type, named after it: `for_each_dtype!(run)` calls `run::<T>()`.
macro_rules! for_each_dtype {
    ($($test:ident),+ $(,)?) => {
        mod in_bf16 {
            $(#[test] fn $test() { super::$test::<half::bf16>() })+
        }
        mod in_f16 {
            $(#[test] fn $test() { super::$test::<half::f16>() })+
        }
        mod in_f32 {
            $(#[test] fn $test() { super::$test::<f32>() })+
        }
    };
}

/// The same for the types that an adapter in f32 may be over.
macro_rules! for_each_narrow_dtype {
    ($($test:ident),+ $(,)?) => {
        mod in_bf16 {
            $(#[test] fn $test() { super::$test::<half::bf16>() })+
        }
        mod in_f16 {
            $(#[test] fn $test() { super::$test::<half::f16>() })+
        }
    };
}
