//! Structs that may be older or newer than this library: how they are read and written.
//!
//! The rules are those of Linux's `copy_struct_from_user`: what a struct lacks is zero, what it has
//! too much must be zero.

use std::mem::MaybeUninit;

use crate::error::{Error, Place, Result};

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
    "the structs have no padding, and the sizes they were published with, where pointers have 64 bits"
);

/// No struct grows beyond this: a larger struct_size is one that was never set.
const LARGEST: u32 = 4096;

fn check_size<T: Versioned>(place: Place, given: u32) -> Result<usize> {
    const { assert!(size_of::<T>() >= T::FIRST_SIZE as usize && size_of::<T>().is_multiple_of(8)) };
    let possible = (T::FIRST_SIZE..=LARGEST).contains(&given) && given.is_multiple_of(8);
    if !possible {
        return Err(Error::StructSize {
            place,
            kind: T::NAME,
            given,
            expected: size_of::<T>(),
        });
    }
    Ok(given as usize)
}

/// # Safety
/// `pointer` is null, or there is a readable struct of the size that its first field says.
pub unsafe fn read<T: Versioned>(pointer: *const T, place: impl Into<Place>) -> Result<T> {
    let place = place.into();
    if pointer.is_null() {
        return Err(Error::NullArgument { place });
    }
    // SAFETY: the struct starts with its size.
    let given = unsafe { pointer.cast::<u32>().read_unaligned() };
    let size = check_size::<T>(place, given)?;
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
                place,
                kind: T::NAME,
                given,
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
    name: &'static str,
) -> Result<impl Iterator<Item = Result<T>>> {
    let mut first = 0;
    if count > 0 {
        if pointer.is_null() {
            return Err(Error::NullArgument { place: name.into() });
        }
        // SAFETY: the first element starts with its size.
        first = unsafe { pointer.cast::<u32>().read_unaligned() };
        let index = Some(0);
        check_size::<T>(Place { name, index }, first)?;
    }
    Ok((0..count).map(move |element| {
        let place = Place {
            name,
            index: Some(element),
        };
        let pointer = pointer.wrapping_byte_add(element * first as usize);
        // SAFETY: there are `count` elements, and those before this one have the first one's size.
        let given = unsafe { pointer.cast::<u32>().read_unaligned() };
        if given != first {
            return Err(Error::ElementSize {
                place: name,
                element,
                given,
                first,
            });
        }
        // SAFETY: as above.
        unsafe { read(pointer, place) }
    }))
}

/// Fills in a struct of the caller's, as far as it goes; its struct_size stays.
///
/// # Safety
/// `pointer` is null, or there is a writable struct of the size that its first field says.
pub unsafe fn write<T: Versioned>(
    pointer: *mut T,
    value: &T,
    place: impl Into<Place>,
) -> Result<()> {
    let place = place.into();
    if pointer.is_null() {
        return Err(Error::NullArgument { place });
    }
    // SAFETY: the struct starts with its size.
    let given = unsafe { pointer.cast::<u32>().read_unaligned() };
    let size = check_size::<T>(place, given)?;
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

/// # Safety
/// `pointer` is null or valid for writing.
pub unsafe fn put<T>(pointer: *mut T, value: T, name: &'static str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::NullArgument { place: name.into() });
    }
    // SAFETY: the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// # Safety
/// `pointer` is null or a live object that this library made.
pub unsafe fn borrow<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(Error::NullArgument { place: name.into() })
}

/// A yes or no.
pub fn flag(place: impl Into<Place>, field: &'static str, given: u32) -> Result<bool> {
    match given {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::Flag {
            place: place.into(),
            field,
            given,
        }),
    }
}

/// A field that nothing is said in yet.
pub fn reserved(place: impl Into<Place>, given: u32) -> Result<()> {
    match given {
        0 => Ok(()),
        _ => Err(Error::Reserved {
            place: place.into(),
            given,
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

    /// Words of memory that a struct may lie in.
    fn place(words: &[u64]) -> *const Two {
        words.as_ptr().cast()
    }

    #[test]
    fn a_smaller_struct_is_filled_up_with_zeros() {
        let memory = [8 | 7 << 32, !0];
        // SAFETY: 16 bytes, of which 8 are said to be there.
        let two = unsafe { read(place(&memory), "two") }.unwrap();
        assert_eq!((two.number, two.wide), (7, 0));
    }

    #[test]
    fn a_larger_struct_is_taken_where_the_rest_is_zero() {
        let mut memory = [24 | 7 << 32, 5, 0];
        // SAFETY: 24 bytes.
        let two = unsafe { read(place(&memory), "two") }.unwrap();
        assert_eq!((two.number, two.wide), (7, 5));
        memory[2] = 1 << 63;
        // SAFETY: 24 bytes.
        let error = unsafe { read(place(&memory), "two") }.unwrap_err();
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
            let error = unsafe { read(place(&memory), "two") }.unwrap_err();
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
                    given: 8,
                    expected: 24,
                    ..
                }
            ),
            "{error}"
        );
        memory[0] = 16;
        // SAFETY: 24 bytes, of which 16 are said to be there.
        let grown = unsafe { read(memory.as_ptr().cast::<Grown>(), "grown") }.unwrap();
        assert_eq!((grown.2, grown.3), (!0, 0));
    }

    #[test]
    fn elements_lie_as_far_apart_as_they_are_large() {
        let memory = [24 | 1 << 32, 2, 0, 24 | 3 << 32, 4, 0];
        // SAFETY: two elements of 24 bytes.
        let all: Result<Vec<_>> = unsafe { elements(place(&memory), 2, "array") }
            .unwrap()
            .collect();
        let all: Vec<_> = all
            .unwrap()
            .iter()
            .map(|two| (two.number, two.wide))
            .collect();
        assert_eq!(all, [(1, 2), (3, 4)]);

        let differing = [16, 0, 8, 0];
        // SAFETY: two elements of which each has at least its size.
        let second = unsafe { elements(place(&differing), 2, "array") }
            .unwrap()
            .nth(1);
        assert!(matches!(
            second,
            Some(Err(Error::ElementSize {
                element: 1,
                given: 8,
                first: 16,
                ..
            }))
        ));
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let value = Two {
            struct_size: 16,
            number: 1,
            wide: 2,
        };
        let mut small = [8_u64, !0];
        // SAFETY: 16 bytes, of which 8 are said to be there.
        unsafe { write(small.as_mut_ptr().cast(), &value, "two") }.unwrap();
        assert_eq!(small, [8 | 1 << 32, !0]);

        let mut large = [24_u64, !0, !0];
        // SAFETY: 24 bytes.
        unsafe { write(large.as_mut_ptr().cast(), &value, "two") }.unwrap();
        assert_eq!(large, [24 | 1 << 32, 2, 0]);
    }
}
