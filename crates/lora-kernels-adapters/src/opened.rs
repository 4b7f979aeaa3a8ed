//! Whether the files that were read changed meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use crate::regular::failed;
use crate::stamp::{Stamp, unchanged};
use crate::{Error, Result};

thread_local! {
    /// The files that were opened on this thread, with their stamps at the first time; `None` where
    /// nobody asked for them.
    static OPENED: RefCell<Option<BTreeMap<PathBuf, Stamp>>> = const { RefCell::new(None) };
}

/// The files that this crate opens for reading on this thread: weights, adapters, configs, indexes,
/// and what is opened by [`crate::regular`] and [`crate::base::Home`]. What is computed from them
/// is of one state of each only if [`OpenedFiles::check_unchanged`] finds none of them changed
/// after the last byte was read.
///
/// A thread has one list at a time; the later one takes the earlier one's place.
#[derive(Debug)]
pub struct OpenedFiles {
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl OpenedFiles {
    /// Begins to note files.
    pub fn begin() -> Self {
        OPENED.set(Some(BTreeMap::new()));
        Self {
            _thread: PhantomData,
        }
    }

    /// Checks that each of the files still lies at its path, and that neither its content nor its
    /// attributes were changed since it was opened for the first time.
    ///
    /// # Errors
    /// [`Error::Changed`] for the first that was, in the order of their paths; [`Error::Io`].
    pub fn check_unchanged(&self) -> Result<()> {
        OPENED.with_borrow(|opened| {
            { opened.iter().flatten() }.try_for_each(|(path, stamp)| check(path, stamp))
        })
    }
}

impl Drop for OpenedFiles {
    fn drop(&mut self) {
        OPENED.set(None);
    }
}

/// Runs `work` without noting what it opens on this thread, such as a file that is still being
/// written.
pub fn unnoted<T>(work: impl FnOnce() -> T) -> T {
    let opened = OPENED.take();
    let result = work();
    OPENED.set(opened);
    result
}

/// Notes a file that was opened, before anything is read of it.
pub(crate) fn note(path: &Path, file: &File) -> Result<()> {
    OPENED.with_borrow_mut(|opened| {
        let Some(opened) = opened else {
            return Ok(());
        };
        let stamp = settled(file).map_err(failed(path))?;
        // Of a file that is opened again, the first stamp counts.
        opened.entry(path.into()).or_insert(stamp);
        Ok(())
    })
}

fn check(path: &Path, then: &Stamp) -> Result<()> {
    match path.metadata() {
        Ok(metadata) => unchanged(path, then, &Stamp::from(&metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Changed {
            path: path.into(),
            what: "it isn't there any more",
        }),
        Err(error) => Err(failed(path)(error)),
    }
}

/// The stamp of a file from which every later change will differ. Linux stamps changes with a clock
/// that ticks every few milliseconds, so that a change in the tick of the last one would not show.
#[cfg(target_os = "linux")]
fn settled(file: &File) -> std::io::Result<Stamp> {
    use rustix::time::{ClockId, clock_gettime};
    use std::time::Duration;

    const SHORTEST: Duration = Duration::from_micros(500);
    /// No clock ticks slower than every 10 ms. A file that is from a later time than that was
    /// stamped by another clock.
    const MOST: u32 = 40;

    for _ in 0..MOST {
        let stamp = Stamp::of(file)?;
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if stamp.changed() < (now.tv_sec, now.tv_nsec) || is_far_ahead(&stamp, now.tv_sec) {
            return Ok(stamp);
        }
        std::thread::sleep(SHORTEST);
    }
    Stamp::of(file)
}

/// Whether a file was changed in a future that isn't worth waiting for.
#[cfg(target_os = "linux")]
fn is_far_ahead(stamp: &Stamp, now: i64) -> bool {
    stamp.changed().0 > now.saturating_add(1)
}

#[cfg(not(target_os = "linux"))]
fn settled(file: &File) -> std::io::Result<Stamp> {
    Stamp::of(file)
}
