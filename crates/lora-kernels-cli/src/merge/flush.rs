//! Brings files to the disk while more is computed and written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::failure::Failure;
use crate::threads::spawn;

/// Bytes after which it is worth to begin.
const ENOUGH: u64 = 128 << 20;

/// A thread that waits for the disk in place of the caller.
pub struct Flusher<'scope> {
    files: SyncSender<(File, PathBuf)>,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
    /// Bytes written since the last file was handed over.
    written: u64,
}

impl<'scope> Flusher<'scope> {
    pub fn new(scope: &'scope Scope<'scope, '_>) -> Result<Self, Failure> {
        let (files, queue) = sync_channel::<(File, PathBuf)>(1);
        let flush =
            |(file, path): (File, PathBuf)| file.sync_data().map_err(|error| failed(&path, error));
        Ok(Self {
            files,
            thread: spawn(scope, move || queue.iter().try_for_each(flush))?,
            written: 0,
        })
    }

    /// Tells that so many bytes were written to this file.
    pub fn wrote(&mut self, bytes: u64, file: &File, path: &Path) {
        self.written += bytes;
        if self.written < ENOUGH {
            return;
        }
        // What can't be handed over now is flushed at the end.
        if let Ok(file) = file.try_clone()
            && self.files.try_send((file, path.to_owned())).is_ok()
        {
            self.written = 0;
        }
    }

    /// Waits for what was handed over, and returns the first error.
    pub fn finish(self) -> Result<(), Failure> {
        drop(self.files);
        let ended = || Failure::Wrong("a thread ended before its work was done".into());
        self.thread.join().map_err(|_| ended())?
    }
}

fn failed(path: &Path, error: std::io::Error) -> Failure {
    Failure::Refused(format!(
        "can't bring {} to the disk: {error}",
        path.display()
    ))
}
