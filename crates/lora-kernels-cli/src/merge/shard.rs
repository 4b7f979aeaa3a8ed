//! Writes the files of the result: what doesn't change is copied, byte for byte.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::{BaseModel, Tensor, TensorFile, unnoted};

use super::Work;
use super::change::Changes;
use super::flush::Flusher;
use super::header::{self, Entry};
use super::job::Job;
use super::pipeline::{self, Results};
use super::report;
use crate::failure::Failure;

/// Bytes copied between two checks for an interruption.
const STEP: u64 = 64 << 20;
/// A multiple of every file system's block. Blocks that lie alike in both files can be shared where
/// the file system knows how to, which takes no time and no place.
const SHARED: u64 = 64 << 10;

/// Every file of the result. Making it checks that all changes can be computed.
pub struct Plan<'a> {
    files: Vec<Planned<'a>>,
}

struct Planned<'a> {
    name: &'a str,
    /// The base's file.
    file: &'a TensorFile,
    /// The bytes before the tensors'; `None` for those of the base's file.
    header: Option<Vec<u8>>,
    /// In the order of the result.
    parts: Vec<Part<'a>>,
    tensors: usize,
}

enum Part<'a> {
    /// A range of bytes of the base's file.
    Copied(Range<usize>),
    Made {
        job: Box<Job<'a>>,
        is_added: bool,
    },
}

impl Part<'_> {
    fn bytes(&self) -> usize {
        match self {
            Part::Copied(range) => range.len(),
            Part::Made { job, .. } => job.bytes(),
        }
    }
}

impl<'a> Plan<'a> {
    pub fn new(base: &'a BaseModel, changes: &'a Changes<'a>) -> Result<Self, Failure> {
        let mut files = Vec::with_capacity(base.shards().len());
        for (at, shard) in base.shards().iter().enumerate() {
            let file = &shard.file;
            let (mut parts, mut kept, mut added) = (Vec::new(), Vec::new(), Vec::new());
            for (tensor, bytes) in file.in_file_order() {
                match (changes.of(at, tensor.name), parts.last_mut()) {
                    (Some(change), _) => {
                        let job = Job::new(tensor.name, tensor, change)?;
                        kept.push(entry(&job));
                        parts.push(Part::Made {
                            job: Box::new(job),
                            is_added: false,
                        });
                        continue;
                    }
                    (None, Some(Part::Copied(range))) if range.end == bytes.start => {
                        range.end = bytes.end
                    }
                    (None, _) => parts.push(Part::Copied(bytes.clone())),
                }
                let Tensor {
                    name, dtype, shape, ..
                } = tensor;
                kept.push(Entry {
                    name,
                    dtype,
                    shape,
                    bytes: bytes.len(),
                });
            }
            if at + 1 == base.shards().len() {
                for new in &changes.added {
                    let job = Job::new(&new.name, new.from, &new.change)?;
                    added.push(entry(&job));
                    parts.push(Part::Made {
                        job: Box::new(job),
                        is_added: true,
                    });
                }
            }
            files.push(Planned {
                name: &shard.name,
                file,
                header: header::of(file, &kept, &added)?,
                tensors: kept.len() + added.len(),
                parts,
            });
        }
        Ok(Self { files })
    }

    /// Bytes that are written in all.
    pub fn bytes(&self) -> u64 {
        let parts = self.files.iter().flat_map(|file| &file.parts);
        let headers = self.files.iter().map(|file| match &file.header {
            Some(header) => header.len() as u64,
            None => file.file.header_bytes() as u64,
        });
        headers.sum::<u64>() + parts.map(|part| part.bytes() as u64).sum::<u64>()
    }

    fn jobs(&self) -> Vec<&Job<'a>> {
        let parts = self.files.iter().flat_map(|file| &file.parts);
        let jobs = parts.filter_map(|part| match part {
            Part::Copied(_) => None,
            Part::Made { job, .. } => Some(&**job),
        });
        jobs.collect()
    }
}

fn entry<'a>(job: &Job<'a>) -> Entry<'a> {
    Entry {
        name: job.name,
        dtype: job.dtype,
        shape: job.shape,
        bytes: job.bytes(),
    }
}

/// A file being written.
pub struct Target {
    file: File,
    path: PathBuf,
}

impl Target {
    pub fn new(file: std::io::Result<File>, path: &Path) -> Result<Self, Failure> {
        Ok(Self {
            file: file.map_err(|error| Failure::unwritten(path, error))?,
            path: path.to_owned(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| Failure::unwritten(&self.path, error))
    }
}

impl Work<'_> {
    /// Writes all files. `create` makes each of them, by its name, when its turn comes.
    pub fn write(
        &mut self,
        plan: &Plan<'_>,
        mut create: impl FnMut(&str) -> Result<Target, Failure>,
    ) -> Result<(), Failure> {
        self.progress.write(plan.bytes());
        std::thread::scope(|scope| {
            let mut flusher = Flusher::new(scope)?;
            let written = pipeline::run(self.engine, &plan.jobs(), |results| {
                for planned in &plan.files {
                    let mut target = create(planned.name)?;
                    self.file(planned, &results, &mut flusher, &mut target)?;
                }
                Ok(())
            });
            // An error of writing comes first: it may be the cause of the other one.
            let flushed = flusher.finish();
            written.and(flushed)
        })
    }

    fn file(
        &mut self,
        planned: &Planned<'_>,
        results: &Results<'_>,
        flusher: &mut Flusher<'_>,
        target: &mut Target,
    ) -> Result<(), Failure> {
        match &planned.header {
            Some(header) => {
                target.write(header)?;
                self.progress.written(header.len() as u64);
            }
            None => self.copy(planned.file, 0..planned.file.header_bytes(), target)?,
        }
        for part in &planned.parts {
            self.go_on()?;
            match part {
                Part::Copied(bytes) => self.copy(planned.file, bytes.clone(), target)?,
                Part::Made { job, is_added } => self.made(job, *is_added, results, target)?,
            }
            flusher.wrote(part.bytes() as u64, &target.file, &target.path);
        }
        // Checks the file as any reader would, before it gets its final name.
        let written = unnoted(|| TensorFile::open(&target.path))?;
        if written.tensors().count() != planned.tensors {
            return Err(Failure::Wrong(format!(
                "{} has not the tensors it should have",
                target.path.display()
            )));
        }
        Ok(())
    }

    fn copy(
        &self,
        from: &TensorFile,
        bytes: Range<usize>,
        target: &mut Target,
    ) -> Result<(), Failure> {
        let mut source = from.file();
        source
            .seek(SeekFrom::Start(bytes.start as u64))
            .map_err(|error| Failure::unread(from.path(), error))?;
        let (mut at, end) = (bytes.start as u64, bytes.end as u64);
        while at < end {
            self.go_on()?;
            let step = match end - at {
                left if !at.is_multiple_of(SHARED) => left.min(SHARED - at % SHARED),
                left if left < SHARED => left,
                left => left.min(STEP) / SHARED * SHARED,
            };
            let copied =
                std::io::copy(&mut source.take(step), &mut target.file).map_err(|error| {
                    match std::io::copy(&mut source.take(1), &mut std::io::sink()) {
                        // The copy doesn't tell which side failed.
                        Err(error) => Failure::unread(from.path(), error),
                        Ok(_) => Failure::unwritten(&target.path, error),
                    }
                })?;
            if copied != step {
                return Err(Failure::Refused(format!(
                    "{} ended early: it changes while it is read",
                    from.path().display()
                )));
            }
            self.progress.written(step);
            at += step;
        }
        Ok(())
    }

    fn made(
        &mut self,
        job: &Job<'_>,
        is_added: bool,
        results: &Results<'_>,
        target: &mut Target,
    ) -> Result<(), Failure> {
        self.progress.tensor(job.name);
        let totals = results.of(job, |bytes| {
            self.go_on()?;
            target.write(bytes)?;
            self.progress.written(bytes.len() as u64);
            Ok(())
        })?;
        if !self.allow_non_finite {
            usable(job.name, totals.non_finite, totals.without_norm)
                .inspect_err(|_| self.progress.abandon())?;
        }
        if is_added {
            self.report.added(job.name);
        }
        if !is_added || totals.report.is_some() {
            let tensor = Tensor::named(job.name, job.dtype, job.shape, &[]);
            let mut entry = report::Entry::new(tensor, job.change);
            entry.merged = totals.report;
            self.report.changed(entry);
        }
        Ok(())
    }
}

fn usable(name: &str, non_finite: u64, without_norm: u64) -> Result<(), Failure> {
    match (non_finite, without_norm) {
        (0, 0) => Ok(()),
        (_, 1..) => Err(Failure::Wrong(format!(
            "{without_norm} out_features of {name} are 0 with the adapter added, and DoRA divides \
             by their norm, so nothing was written: is this its base model? (--allow-non-finite \
             writes NaN, as PEFT does)"
        ))),
        _ => Err(Failure::Wrong(format!(
            "{non_finite} elements of {name} would be NaN or infinite, so nothing was written: the \
             adapter or the base holds such, or the sum is too large for the type \
             (--allow-non-finite writes them)"
        ))),
    }
}
