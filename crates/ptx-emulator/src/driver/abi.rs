//! The C boundary: pointers that callers hand in, and what every entry point is wrapped in.
//!
//! Only C callers make these pointer types, by calling an entry point. The driver API's contract is
//! that such a pointer is null or valid for what the function's documentation says; null is checked
//! here, validity can't be. Handles are numbers looked up in a table and never pointers.

use std::ffi::{CStr, c_char, c_void};
use std::io::Write;

use super::code::Code;
use crate::memory::FIRST_ADDRESS;

/// What an entry point's body returns; `Ok` is `CUDA_SUCCESS`.
pub(super) type Outcome<T = ()> = Result<T, Code>;

/// A place for one result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// No place: the result isn't wanted.
    pub(super) fn null() -> Self {
        Self(std::ptr::null_mut())
    }

    /// A place whose address the caller put into a list; 0 for none.
    pub(super) fn at(address: usize) -> Self {
        Self(std::ptr::with_exposed_provenance_mut(address))
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn address(self) -> usize {
        self.0.addr()
    }

    pub(super) fn set(self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract it points to room for a `T`; its alignment is
        // not relied on.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores the value where the caller wants it at all.
    pub(super) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            let _ = self.set(value);
        }
    }

    /// Stores one of several values.
    pub(super) fn set_at(self, index: usize, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so by the API's contract it points to more than `index` values of
            // `T`.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
    }

    /// The same place, for values that are both read and written.
    pub(super) fn readable(self) -> In<T> {
        In(self.0)
    }

    /// Room for `values.len()` values.
    pub(super) fn set_all(self, values: &[T]) -> Outcome
    where
        T: Copy,
    {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract it points to room for that many values, which
        // don't overlap our own.
        unsafe {
            self.0
                .cast::<u8>()
                .copy_from_nonoverlapping(values.as_ptr().cast(), size_of_val(values))
        };
        Ok(())
    }
}

/// One or more values to read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// Values at an address that the caller put into a list; 0 for none.
    pub(super) fn at(address: usize) -> Self {
        Self(std::ptr::with_exposed_provenance(address))
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn get(self, index: usize) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract it points to more than `index` values of `T`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A NUL-terminated name.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Name(*const c_char);

impl Name {
    pub(super) fn get<'a>(self) -> Outcome<&'a str> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract it is a NUL-terminated string that outlives
        // the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Code::INVALID_VALUE)
    }
}

/// Whether an address lies where device memory is given out, allocated or not. Linux places a
/// program's own memory below or above: a fixed executable and its heap in the first terabyte,
/// everything else past 64 TiB.
pub(super) fn is_device_address(address: u64) -> bool {
    (FIRST_ADDRESS..1 << 46).contains(&address)
}

/// Host bytes of a length that another argument or the bytes themselves tell.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host(*mut c_void);

// SAFETY: it is only an address; what threads do with it is the caller's affair, as with a real
// driver.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    pub(super) fn new(pointer: *mut c_void) -> Self {
        Self(pointer)
    }

    pub(super) fn address(self) -> usize {
        self.0.addr()
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Neither null nor a device address, which is the likeliest wrong one.
    fn check(self, count: usize) -> Outcome {
        let wrong = self.is_null()
            || is_device_address(self.address() as u64)
            || isize::try_from(count).is_err();
        if wrong {
            Err(Code::INVALID_VALUE)
        } else {
            Ok(())
        }
    }

    pub(super) fn bytes<'a>(self, count: usize) -> Outcome<&'a [u8]> {
        if count == 0 {
            return Ok(&[]);
        }
        self.check(count)?;
        // SAFETY: checked, so by the API's contract it is readable for `count` bytes until the call
        // or the stream's work is over.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), count) })
    }

    pub(super) fn bytes_mut<'a>(self, count: usize) -> Outcome<&'a mut [u8]> {
        if count == 0 {
            return Ok(&mut []);
        }
        self.check(count)?;
        // SAFETY: checked, so by the API's contract it is writable for `count` bytes until the call
        // or the stream's work is over.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.cast(), count) })
    }

    /// Copies bytes from one place of the host to another; they may overlap.
    pub(super) fn copy_from(self, from: Self, count: usize) -> Outcome {
        if count == 0 {
            return Ok(());
        }
        self.check(count)?;
        from.check(count)?;
        // SAFETY: checked, so by the API's contract one is readable and the other writable for
        // `count` bytes.
        unsafe { std::ptr::copy(from.0.cast::<u8>(), self.0.cast::<u8>(), count) };
        Ok(())
    }

    /// Copies bytes that may not be there: a damaged image says that it has more than it has.
    /// `None` if they are not.
    pub(super) fn try_read<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0_u8; N];
        let to = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: N,
        };
        let from = libc::iovec {
            iov_base: self.0.wrapping_byte_add(at),
            iov_len: N,
        };
        // SAFETY: `to` is our own array. The system reads `from`, and tells how much of it there
        // was.
        let read = unsafe {
            libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0)
        };
        let sandboxed =
            read < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT);
        if sandboxed {
            // The call is forbidden here, so there is nothing but the caller's word.
            return Self(self.0.wrapping_byte_add(at))
                .bytes(N)
                .ok()?
                .try_into()
                .ok();
        }
        (usize::try_from(read) == Ok(N)).then_some(bytes)
    }

    pub(super) fn text_bytes<'a>(self) -> Outcome<&'a [u8]> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller passes an image that is NUL-terminated text, as the
        // API's contract demands.
        Ok(unsafe { CStr::from_ptr(self.0.cast()) }.to_bytes())
    }
}

/// Runs an entry point's body. A panic must not cross into C: it becomes `CUDA_ERROR_UNKNOWN`.
pub(super) fn guard(name: &str, body: impl FnOnce() -> Outcome) -> u32 {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(Code(code))) => code,
        Err(_) => {
            report(format_args!(
                "{name} panicked: this is a fault of the emulator"
            ));
            Code::UNKNOWN.0
        }
    }
}

/// One line on stderr, for what a code alone does not tell. A closed stderr is no reason to fail.
pub(super) fn report(text: std::fmt::Arguments<'_>) {
    // In one piece: other threads write, too.
    let line = format!("emulated CUDA driver: {text}\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// An exported function, for `cuGetProcAddress`.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub name: &'static str,
    pub address: *const c_void,
}

// SAFETY: the address of a function never changes and may be called from every thread.
unsafe impl Sync for Symbol {}

/// Defines entry points: exported under their own name, guarded, and listed in the module's
/// `SYMBOLS`.
macro_rules! api {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            #[allow(non_snake_case)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
                super::abi::guard(stringify!($name), || $body)
            }
        )*
        pub(super) const SYMBOLS: &[super::abi::Symbol] = &[
            $(super::abi::Symbol { name: stringify!($name), address: $name as *const std::ffi::c_void }),*
        ];
    };
}
pub(super) use api;
