//! Memory for pieces of weights, used again and again so that its size doesn't depend on the model.

use std::sync::{Arc, Mutex, PoisonError};

use lora_kernels::cudarc::driver::{CudaContext, PinnedHostSlice};

use crate::failure::Failure;

/// Bytes of the words that buffers are made of, which align every element type.
const WORD: usize = size_of::<u64>();

/// Buffers that are free.
pub struct Pool {
    free: Mutex<Vec<Memory>>,
    /// Bytes of a new buffer, unless more are needed.
    bytes: usize,
    /// The device that copies from and to the buffers.
    context: Option<Arc<CudaContext>>,
}

enum Memory {
    Plain(Vec<u64>),
    /// Page-locked: a device copies from and to it while the host goes on.
    Pinned(PinnedHostSlice<u64>),
}

impl Memory {
    fn words(&self) -> usize {
        match self {
            Memory::Plain(words) => words.len(),
            Memory::Pinned(words) => words.len(),
        }
    }
}

/// Bytes at an address that is aligned for every element type.
pub struct Buffer {
    memory: Memory,
    bytes: usize,
}

impl Buffer {
    pub fn bytes(&self) -> Result<&[u8], Failure> {
        let words = match &self.memory {
            Memory::Plain(words) => &words[..],
            Memory::Pinned(words) => words.as_slice()?,
        };
        Ok(&bytemuck::cast_slice(words)[..self.bytes])
    }

    pub fn bytes_mut(&mut self) -> Result<&mut [u8], Failure> {
        let words = match &mut self.memory {
            Memory::Plain(words) => &mut words[..],
            Memory::Pinned(words) => words.as_mut_slice()?,
        };
        Ok(&mut bytemuck::cast_slice_mut(words)[..self.bytes])
    }
}

impl Pool {
    /// A pool of buffers that have `bytes` at least.
    pub fn new(bytes: usize, context: Option<Arc<CudaContext>>) -> Self {
        Self {
            free: Mutex::default(),
            bytes,
            context,
        }
    }

    /// A buffer with this many bytes, whose values are arbitrary.
    pub fn take(&self, bytes: usize) -> Buffer {
        let words = bytes.max(self.bytes).div_ceil(WORD);
        let free = self.lock().pop().filter(|memory| words <= memory.words());
        Buffer {
            memory: free.unwrap_or_else(|| self.allocated(words)),
            bytes,
        }
    }

    /// Takes a buffer back. One that is larger than usual is freed, so that a single wide weight
    /// doesn't enlarge all of them.
    pub fn give_back(&self, buffer: Buffer) {
        if buffer.memory.words() == self.bytes.div_ceil(WORD) {
            self.lock().push(buffer.memory);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        // The list is whole even if a thread panicked while it held the lock.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocated(&self, words: usize) -> Memory {
        // Where the system locks no more pages, the device copies from other memory, too.
        let pinned = self
            .context
            .as_ref()
            .and_then(|context| pinned(context, words).ok());
        pinned.map_or_else(|| Memory::Plain(vec![0; words]), Memory::Pinned)
    }
}

fn pinned(context: &Arc<CudaContext>, words: usize) -> Result<PinnedHostSlice<u64>, Failure> {
    // SAFETY: all of it is written below before it is read. Without a flag the host reads it as
    // fast as other memory.
    let mut memory = unsafe { context.alloc_pinned_with_flags::<u64>(words, 0) }?;
    let begin = memory.as_mut_ptr()?;
    // SAFETY: the allocation has this many words, and nothing else knows it yet.
    unsafe { begin.write_bytes(0, words) };
    Ok(memory)
}
