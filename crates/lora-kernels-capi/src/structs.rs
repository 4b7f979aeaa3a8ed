//! How the structs of the ABI are read and written. They may be older or newer than this library.
//!
//! The rules are those of Linux's `copy_struct_from_user`. Fields that an older struct lacks count
//! as zero; fields of a newer one that this library doesn't know must be zero.

use std::fmt::Display;
use std::mem::MaybeUninit;

use crate::error::{ArgumentPath, Error, Given, Result};
use crate::status::lora_status;

/// A struct of the ABI.
///
/// # Safety
/// `repr(C)`; the first field is `struct_size: u32`; every bit pattern is a value; size and
/// alignment are 8 or a multiple, without padding.
pub unsafe trait Versioned: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// Its size in the first published header that has it, which never changes: no program has a
    /// smaller one.
    const FIRST_SIZE: u32;
}

const _: () = assert!(
    size_of::<usize>() == 8,
    "on 64-bit systems alone the structs have no padding and their published sizes"
);

/// No struct grows beyond this: a larger struct_size is one that was never set.
const LARGEST: u32 = 4096;

/// The size that a struct of the program's says it has, in bytes.
///
/// # Safety
/// `pointer` is null, or there are four readable bytes.
unsafe fn declared_size<T: Versioned>(pointer: *const T, argument: ArgumentPath) -> Result<usize> {
    const { assert!(size_of::<T>() >= T::FIRST_SIZE as usize && size_of::<T>().is_multiple_of(8)) };
    if pointer.is_null() {
        return Err(Error::NullArgument { argument });
    }
    // SAFETY: the struct starts with its size.
    let given = unsafe { pointer.cast::<u32>().read_unaligned() };
    if !(T::FIRST_SIZE..=LARGEST).contains(&given) || !given.is_multiple_of(8) {
        return Err(Error::StructSize {
            argument,
            struct_name: T::NAME,
            given: Given(given),
            expected: size_of::<T>(),
        });
    }
    Ok(given as usize)
}

/// # Safety
/// `pointer` is null, or there is a readable struct of the size that its first field says.
pub unsafe fn read<T: Versioned>(
    pointer: *const T,
    argument: impl Into<ArgumentPath>,
) -> Result<T> {
    let argument = argument.into();
    // SAFETY: the caller's promise.
    let size = unsafe { declared_size(pointer, argument) }?;
    let mut value = MaybeUninit::<T>::zeroed();
    let known = size_of::<T>();
    // SAFETY: the source has `size` bytes, the destination `known`.
    unsafe {
        std::ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            value.as_mut_ptr().cast::<u8>(),
            size.min(known),
        )
    };
    for byte in known..size {
        // SAFETY: within the `size` bytes.
        if unsafe { pointer.cast::<u8>().add(byte).read() } != 0 {
            return Err(Error::UnknownFields {
                argument,
                struct_name: T::NAME,
                given: size,
                known,
            });
        }
    }
    // SAFETY: every bit pattern is a value, and all bytes are written.
    Ok(unsafe { value.assume_init() })
}

/// The elements of an array, one after the other.
///
/// # Safety
/// `pointer` is null, or there are `count` readable structs, each as far from the last as its first
/// field says.
pub unsafe fn elements<T: Versioned>(
    pointer: *const T,
    count: usize,
    array: &'static str,
) -> Result<impl Iterator<Item = Result<T>>> {
    let mut first = 0;
    if count > 0 {
        if pointer.is_null() {
            return Err(Error::NullArgument {
                argument: array.into(),
            });
        }
        // SAFETY: the first element starts with its size.
        first = unsafe { declared_size(pointer, ArgumentPath::element(array, 0)) }?;
    }
    Ok((0..count).map(move |index| {
        let argument = ArgumentPath::element(array, index);
        let pointer = pointer.wrapping_byte_add(index * first);
        // SAFETY: there are `count` elements, and those before this one have the first one's size.
        let given = unsafe { pointer.cast::<u32>().read_unaligned() };
        if given as usize != first {
            return Err(Error::ElementSize {
                array,
                index,
                given: Given(given),
                first: first as u32,
            });
        }
        // SAFETY: as above.
        unsafe { read(pointer, argument) }
    }))
}

/// The elements of an array of at most N, each made into what the core takes, without an
/// allocation. What lies beyond `count` is the default.
///
/// # Safety
/// As [`elements`].
pub unsafe fn converted<T: Versioned, R: Copy + Default, const N: usize>(
    pointer: *const T,
    count: usize,
    array: &'static str,
    convert: impl Fn(T) -> R,
) -> Result<[R; N]> {
    let mut all = [R::default(); N];
    // SAFETY: the caller's promise.
    let elements = unsafe { elements(pointer, count, array) }?;
    for (slot, element) in all.iter_mut().zip(elements) {
        *slot = convert(element?);
    }
    Ok(all)
}

/// Fills in a struct of the program's as far as it goes. Its struct_size stays.
///
/// # Safety
/// `pointer` is null, or there is a writable struct of the size that its first field says.
pub unsafe fn write<T: Versioned>(
    pointer: *mut T,
    value: &T,
    argument: impl Into<ArgumentPath>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { declared_size(pointer, argument.into()) }?;
    let (from, to) = (std::ptr::from_ref(value).cast::<u8>(), pointer.cast::<u8>());
    let known = size_of::<T>().min(size);
    // SAFETY: both have `known` bytes, the destination `size`; the first four are the size that is
    // there already.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(4), to.add(4), known - 4);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
    Ok(())
}

/// An error if there is nowhere to write a result.
pub fn check_out<T>(pointer: *mut T, name: &'static str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::NullArgument {
            argument: name.into(),
        });
    }
    Ok(())
}

/// An error if a struct of the program's can't be filled in.
///
/// # Safety
/// `pointer` is null, or there are four readable bytes.
pub unsafe fn check_writable<T: Versioned>(
    pointer: *const T,
    argument: impl Into<ArgumentPath>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { declared_size(pointer, argument.into()) }.map(|_| ())
}

/// # Safety
/// `pointer` is null or valid for writing.
pub unsafe fn put<T>(pointer: *mut T, value: T, name: &'static str) -> Result<()> {
    check_out(pointer, name)?;
    // SAFETY: not null, and valid by the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// # Safety
/// `pointer` is null or a live object that this library made.
pub unsafe fn borrow<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(Error::NullArgument {
        argument: name.into(),
    })
}

/// A size, count or index. One with the highest bit set was negative before C converted it, and is
/// refused as the negative number.
///
/// name: as in C, such as `problem.tokens`. status: that of another number it can't be.
pub fn size(name: impl Display, given: usize, status: lora_status) -> Result<usize> {
    if given <= isize::MAX as usize {
        return Ok(given);
    }
    Err(Error::Negative {
        name: name.to_string(),
        given: given as i64,
        status,
    })
}

/// A yes or no.
pub fn flag(argument: impl Into<ArgumentPath>, field: &'static str, given: u32) -> Result<bool> {
    match given {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::Flag {
            argument: argument.into(),
            field,
            given: Given(given),
        }),
    }
}

/// A field without a meaning yet.
pub fn reserved(argument: impl Into<ArgumentPath>, given: u32) -> Result<()> {
    match given {
        0 => Ok(()),
        _ => Err(Error::Reserved {
            argument: argument.into(),
            given: Given(given),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Two {
        struct_size: u32,
        number: u32,
        wide: u64,
    }

    // SAFETY: repr(C), plain integers, no padding.
    unsafe impl Versioned for Two {
        const NAME: &'static str = "two";
        const FIRST_SIZE: u32 = 8;
    }

    /// A struct in these words of memory.
    fn at(words: &[u64]) -> *const Two {
        words.as_ptr().cast()
    }

    #[test]
    fn a_smaller_struct_is_filled_up_with_zeros() {
        let memory = [8 | 7 << 32, !0];
        // SAFETY: 16 bytes, 8 of them declared.
        let two = unsafe { read(at(&memory), "two") }.unwrap();
        assert_eq!((two.number, two.wide), (7, 0));
    }

    #[test]
    fn a_larger_struct_is_taken_where_the_rest_is_zero() {
        let mut memory = [24 | 7 << 32, 5, 0];
        // SAFETY: 24 bytes.
        let two = unsafe { read(at(&memory), "two") }.unwrap();
        assert_eq!((two.number, two.wide), (7, 5));
        memory[2] = 1 << 63;
        // SAFETY: 24 bytes.
        let error = unsafe { read(at(&memory), "two") }.unwrap_err();
        assert!(
            matches!(
                error,
                Error::UnknownFields {
                    given: 24,
                    known: 16,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn sizes_that_were_never_set_are_refused() {
        for given in [0, 4, 12, 4104, u32::MAX] {
            let memory = [u64::from(given), 0];
            // SAFETY: nothing is read beyond an impossible size.
            let error = unsafe { read(at(&memory), "two") }.unwrap_err();
            assert!(
                matches!(error, Error::StructSize { expected: 16, .. }),
                "{given}: {error}"
            );
        }
    }

    #[test]
    fn sizes_that_no_header_had_are_refused() {
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        struct Grown(u32, u32, u64, u64);

        // SAFETY: repr(C), plain integers, no padding.
        unsafe impl Versioned for Grown {
            const NAME: &'static str = "grown";
            const FIRST_SIZE: u32 = 16;
        }

        let mut memory = [8_u64, !0, !0];
        // SAFETY: 24 bytes.
        let error = unsafe { read(memory.as_ptr().cast::<Grown>(), "grown") }.unwrap_err();
        assert!(
            matches!(
                error,
                Error::StructSize {
                    given: Given(8),
                    expected: 24,
                    ..
                }
            ),
            "{error}"
        );
        memory[0] = 16;
        // SAFETY: 24 bytes, 16 of them declared.
        let grown = unsafe { read(memory.as_ptr().cast::<Grown>(), "grown") }.unwrap();
        assert_eq!((grown.2, grown.3), (!0, 0));
    }

    #[test]
    fn elements_lie_as_far_apart_as_they_are_large() {
        let memory = [24 | 1 << 32, 2, 0, 24 | 3 << 32, 4, 0];
        // SAFETY: two elements of 24 bytes.
        let all: Result<Vec<_>> = unsafe { elements(at(&memory), 2, "array") }
            .unwrap()
            .collect();
        let all: Vec<_> = all
            .unwrap()
            .iter()
            .map(|two| (two.number, two.wide))
            .collect();
        assert_eq!(all, [(1, 2), (3, 4)]);

        let differing = [16, 0, 8, 0];
        // SAFETY: two elements, each at least as large as it says.
        let second = unsafe { elements(at(&differing), 2, "array") }
            .unwrap()
            .nth(1);
        assert!(matches!(
            second,
            Some(Err(Error::ElementSize {
                index: 1,
                given: Given(8),
                first: 16,
                ..
            }))
        ));
    }

    #[test]
    fn a_negative_size_is_refused_as_it_was_given() {
        let largest = size("problem.tokens", usize::MAX >> 1, lora_status::Dimension);
        assert_eq!(largest.unwrap(), usize::MAX >> 1);
        for given in [-1_i64, -5, i64::MIN] {
            let error = size("problem.tokens", given as usize, lora_status::Dimension);
            let text = error.unwrap_err().to_string();
            assert_eq!(
                text,
                format!("problem.tokens is {given}: it must not be negative")
            );
        }
        let text = flag("problem", "bias", u32::MAX).unwrap_err().to_string();
        assert!(text.contains("problem.bias is -1"), "{text}");
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let value = Two {
            struct_size: 16,
            number: 1,
            wide: 2,
        };
        let mut small = [8_u64, !0];
        // SAFETY: 16 bytes, 8 of them declared.
        unsafe { write(small.as_mut_ptr().cast(), &value, "two") }.unwrap();
        assert_eq!(small, [8 | 1 << 32, !0]);

        let mut large = [24_u64, !0, !0];
        // SAFETY: 24 bytes.
        unsafe { write(large.as_mut_ptr().cast(), &value, "two") }.unwrap();
        assert_eq!(large, [24 | 1 << 32, 2, 0]);
    }
}
