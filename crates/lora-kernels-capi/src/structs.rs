//! How the structs of the ABI are read and written. They may be older or newer than this library.
//!
//! What a call reads follows the rules of Linux's `copy_struct_from_user`: fields that an older
//! struct lacks count as zero; fields of a newer one that this library doesn't know must be zero.
//! What a call writes must have a size that is known: beyond it, nothing tells a newer struct from
//! a mistake, which would cost the program what lies behind.
//!
//! No address need be aligned: everything is read and written byte by byte.

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
    /// Its sizes in the published headers, from the smallest on, which never change. The last one
    /// is this library's.
    const SIZES: &[u32];
}

const _: () = assert!(
    size_of::<usize>() == 8,
    "on 64-bit systems alone the structs have no padding and their published sizes"
);

/// No newer header makes a struct more than so many times as large: a larger struct_size is one
/// that was never set.
const GROWTH: u32 = 2;

/// Which sizes of a struct are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sizes {
    /// Those of published headers.
    Known,
    /// Those and, of a newer header, larger ones.
    KnownOrNewer,
}

/// The size that a struct of the program's says it has, in bytes.
///
/// # Safety
/// `pointer` is null, or there are four readable bytes.
unsafe fn declared_size<T: Versioned>(
    pointer: *const T,
    sizes: Sizes,
    argument: ArgumentPath,
) -> Result<usize> {
    const {
        let last = T::SIZES[T::SIZES.len() - 1];
        assert!(size_of::<T>() == last as usize && last.is_multiple_of(8));
    }
    if pointer.is_null() {
        return Err(Error::NullArgument { argument });
    }
    // SAFETY: the struct starts with its size.
    let given = unsafe { pointer.cast::<u32>().read_unaligned() };
    let known = size_of::<T>() as u32;
    let newer = known + 1..=GROWTH * known;
    let is_taken = T::SIZES.contains(&given)
        || (sizes == Sizes::KnownOrNewer && newer.contains(&given) && given.is_multiple_of(8));
    if !is_taken {
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
    let size = unsafe { declared_size(pointer, Sizes::KnownOrNewer, argument) }?;
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
        let argument = ArgumentPath::element(array, 0);
        // SAFETY: the first element starts with its size.
        first = unsafe { declared_size(pointer, Sizes::KnownOrNewer, argument) }?;
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

/// Fills in a struct of the program's, an older one as far as it goes. Its struct_size stays.
///
/// # Safety
/// `pointer` is null, or there is a writable struct of the size that its first field says.
pub unsafe fn write<T: Versioned>(
    pointer: *mut T,
    value: &T,
    argument: impl Into<ArgumentPath>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { declared_size(pointer, Sizes::Known, argument.into()) }?;
    let (from, to) = (std::ptr::from_ref(value).cast::<u8>(), pointer.cast::<u8>());
    // SAFETY: the destination has `size` bytes, and no known size is larger than the source's; the
    // first four are the size that is there already.
    unsafe { std::ptr::copy_nonoverlapping(from.add(4), to.add(4), size - 4) };
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
    unsafe { declared_size(pointer, Sizes::Known, argument.into()) }.map(|_| ())
}

/// Writes a result. A misaligned address is as good as another.
///
/// # Safety
/// `pointer` is null or valid for writing.
pub unsafe fn put<T>(pointer: *mut T, value: T, name: &'static str) -> Result<()> {
    check_out(pointer, name)?;
    // SAFETY: not null, and valid by the caller's promise.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
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
        const SIZES: &[u32] = &[8, 16];
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
        for given in [0, 4, 12, 17, 20, 40, 4096, u32::MAX] {
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
            const SIZES: &[u32] = &[16, 24];
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

        // A size that no header had may be larger than the memory.
        for given in [0, 4, 7, 12, 17, 24, 32, 4096, u64::from(u32::MAX)] {
            let mut other = [given, !0, !0];
            // SAFETY: 24 bytes.
            let error = unsafe { write(other.as_mut_ptr().cast(), &value, "two") }.unwrap_err();
            assert!(matches!(error, Error::StructSize { .. }), "{given}");
            // SAFETY: 24 bytes.
            assert!(unsafe { check_writable(at(&other), "two") }.is_err());
            assert_eq!(other, [given, !0, !0]);
        }
    }

    #[test]
    fn no_address_need_be_aligned() {
        let value = Two {
            struct_size: 16,
            number: 1,
            wide: 2,
        };
        let mut memory = [0_u8; 41];
        for skipped in 1..8 {
            let pointer = memory[skipped..].as_mut_ptr();
            memory[skipped..skipped + 4].copy_from_slice(&16_u32.to_ne_bytes());
            memory[skipped + 16..skipped + 20].copy_from_slice(&16_u32.to_ne_bytes());
            // SAFETY: two structs of 16 bytes; a pointer needs 8.
            unsafe {
                write(pointer.cast::<Two>(), &value, "two").unwrap();
                assert_eq!(read(pointer.cast::<Two>(), "two").unwrap(), value);
                assert_eq!(
                    elements(pointer.cast::<Two>(), 2, "two").unwrap().count(),
                    2
                );
                put(pointer.cast::<usize>(), 3, "number").unwrap();
                assert_eq!(pointer.cast::<usize>().read_unaligned(), 3);
            }
        }
    }
}
