//! Code that tests share: the device, layers in unusual placements, and the comparison with the
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

/// Makes a test for each element type, named after the type: `for_each_dtype!(run)` calls
/// `run::<T>()`.
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

/// Makes a test for each 16-bit element type, which can have f32 adapters.
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

/// `assert_error!(expression, pattern, "part of the message", ..)`
macro_rules! assert_error {
    ($result:expr, $pattern:pat, $($fragment:expr),+ $(,)?) => {
        match $result {
            Ok(_) => panic!("accepted: {}", stringify!($result)),
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?} is not {}", stringify!($pattern));
                let message = error.to_string();
                $(assert!(message.contains($fragment), "`{}` is not in: {message}", $fragment);)+
            }
        }
    };
}
