//! The progress of a run, shown on terminals only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lora_kernels_adapters::shown::escaped;

/// A bar of the bytes that are written, with the time left.
const WRITING: &str = "{bar:24} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left  {wide_msg}";
/// For work whose size isn't known.
const WAITING: &str = "{spinner} {wide_msg}";
const TICK: Duration = Duration::from_millis(200);

pub struct Progress(ProgressBar);

impl Progress {
    /// Shows that something runs whose size isn't known.
    pub fn waiting(what: &'static str) -> Self {
        let progress = Self(ProgressBar::new_spinner());
        progress.wait(what);
        progress
    }

    /// Goes on with work whose size isn't known.
    pub fn wait(&self, what: &'static str) {
        self.style(WAITING);
        self.0.set_message(what);
        // Where nothing is shown, no thread is needed to show it.
        if !self.0.is_hidden() {
            self.0.enable_steady_tick(TICK);
        }
    }

    /// Goes on with writing this many bytes.
    pub fn write(&self, bytes: u64) {
        self.0.disable_steady_tick();
        self.0.set_length(bytes);
        self.0.reset();
        self.0.set_message("");
        self.style(WRITING);
    }

    /// Names the tensor that is being written.
    pub fn tensor(&self, name: &str) {
        if !self.0.is_hidden() {
            self.0.set_message(escaped(name).into_owned());
        }
    }

    pub fn written(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Leaves the bar as it stands, for a run that fails.
    pub fn abandon(&self) {
        self.0.abandon();
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}
