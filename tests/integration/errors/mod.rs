//! Everything that problems, plans and calls refuse. Nothing runs when they refuse.

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

mod call;
mod calls;
mod elsewhere;
mod lengths;
mod problems;
mod projections;
mod raw;

const M: usize = 20;
const K: usize = 40;
const N: usize = 24;
const R: usize = 8;
