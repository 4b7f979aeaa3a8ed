//! The files of a run: results.json, results.md and log.txt. They are rewritten as results come, so
//! that a run that is cut off leaves everything it found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lora_kernels_bundle::markdown;
use lora_kernels_bundle::results::{Bench, Build, MeasuredDevice, Results, TestRun, rows};

use crate::process::Log;

/// The folder of results, and their contents.
pub struct Output {
    folder: PathBuf,
    pub log: Log,
    started: Instant,
    date: String,
    build: Build,
    device: MeasuredDevice,
    pub notes: Vec<String>,
    pub tests: Vec<TestRun>,
    pub bench: Bench,
    pub bench_failures: Vec<String>,
}

impl Output {
    pub fn create(
        folder: PathBuf,
        date: String,
        build: Build,
        device: MeasuredDevice,
    ) -> Result<Self, String> {
        fs::create_dir_all(&folder)
            .map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        let path = folder.join("log.txt");
        let log = fs::File::create(&path)
            .map_err(|error| format!("can't write {}: {error}", path.display()))?;
        Ok(Self {
            folder,
            log: Log::new(log),
            started: Instant::now(),
            date,
            build,
            device,
            notes: Vec::new(),
            tests: Vec::new(),
            bench: Bench::default(),
            bench_failures: Vec::new(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn device(&self) -> &MeasuredDevice {
        &self.device
    }

    /// Prints a note and adds it to the results.
    pub fn note(&mut self, note: String) {
        println!("note: {note}");
        self.notes.push(note);
    }

    /// Adds a run, or replaces its previous state.
    pub fn set(&mut self, run: TestRun) {
        let same =
            |known: &&mut TestRun| (&known.step, &known.program) == (&run.step, &run.program);
        match self.tests.iter_mut().find(same) {
            Some(known) => *known = run,
            None => self.tests.push(run),
        }
    }

    /// Writes the results so far.
    pub fn write(&self, complete: bool) -> Result<(), String> {
        let results = Results {
            date: self.date.clone(),
            seconds: self.started.elapsed().as_secs(),
            complete,
            build: self.build.clone(),
            notes: self.notes.clone(),
            tests: self.tests.clone(),
            bench_failures: self.bench_failures.clone(),
            cublas: Some(self.bench.cublas.clone()).filter(|text| !text.is_empty()),
            timings: rows(&self.bench, &self.device)?,
            device: self.device.clone(),
        };
        let json = serde_json::to_string_pretty(&results)
            .map_err(|error| format!("results.json: {error}"))?;
        self.replace("results.json", &(json + "\n"))?;
        self.replace("results.md", &markdown::write(&results))
    }

    /// Replaces a file atomically, because a run may be cut off while it writes.
    fn replace(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        let unfinished = self.folder.join(format!(".{name}"));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| format!("can't write {}: {error}", path.display()))
    }
}
