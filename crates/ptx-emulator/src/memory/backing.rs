//! Host memory for what a device holds.

/// The host bytes behind one allocation: an anonymous mapping, zero and uncommitted until touched.
pub(crate) struct Backing {
    host: *mut u8,
    bytes: usize,
}

impl Backing {
    pub fn new(bytes: usize) -> Option<Self> {
        // MAP_NORESERVE: a virtual device may have more memory than the host.
        // SAFETY: an anonymous mapping at an address of the host's choice touches no existing
        // memory.
        let host = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        (host != libc::MAP_FAILED).then_some(Backing {
            host: host.cast(),
            bytes,
        })
    }

    pub fn host(&self) -> *mut u8 {
        self.host
    }

    /// Makes every byte zero and gives the memory back to the host.
    pub fn discard(&self) {
        // SAFETY: the range is this value's own mapping, private and anonymous, whose pages read as
        // zero afterwards.
        unsafe { libc::madvise(self.host.cast(), self.bytes, libc::MADV_DONTNEED) };
    }
}

// SAFETY: the pointer is owned by this value alone and freed once, in `drop`; the bytes behind it
// are only reached through raw-pointer accesses whose races are the emulated program's own.
unsafe impl Send for Backing {}
// SAFETY: as above.
unsafe impl Sync for Backing {}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the mapping came from `Backing::new`, with this size, and is unmapped only here.
        unsafe { libc::munmap(self.host.cast(), self.bytes) };
    }
}
