//! Writes shards again with the same header and the changed tensors.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use lora_kernels::MergeReport;
use lora_kernels_adapters::{MappedFile, Tensor};
use serde_json::json;

use super::Work;
use super::change::{Added, Change};
use super::engine::Weight;
use super::numbers::{converted, converted_bytes, non_finite, part, with_type};
use super::report::Entry;
use crate::failure::Failure;

/// Bytes copied between two checks for an interruption.
const STEP: u64 = 64 << 20;
/// Elements converted at a time, so that the memory needed doesn't depend on the model.
const PIECE: usize = 8 << 20;

/// A range of bytes of a shard.
struct Source<'a> {
    file: &'a MappedFile,
    bytes: Range<usize>,
}

/// The file being written.
struct Target<'a> {
    file: &'a mut File,
    path: &'a Path,
}

impl Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .map_err(|error| unwritten(self.path, error))
    }
}

impl Work<'_> {
    /// Writes all shards into a folder.
    pub fn shards(&mut self, folder: &Path) -> Result<(), Failure> {
        for at in 0..self.base.shards().len() {
            let path = folder.join(&self.base.shards()[at].name);
            let mut file = File::create_new(&path).map_err(|error| unwritten(&path, error))?;
            self.shard(at, &mut file, &path)?;
        }
        Ok(())
    }

    /// Writes one shard into an empty file.
    pub fn shard(&mut self, at: usize, file: &mut File, path: &Path) -> Result<(), Failure> {
        let base = self.base;
        let shard = &base.shards()[at];
        let mut target = Target { file, path };
        let is_last = at + 1 == base.shards().len();
        let added = if is_last {
            self.changes.added.as_slice()
        } else {
            &[]
        };
        let header = match added {
            [] => shard.file.header().to_vec(),
            _ => with_added(
                &shard.file,
                added.iter().map(|added| (added.name.as_str(), added.from)),
            ),
        };
        target.write(&header)?;
        self.progress.inc(header.len() as u64);
        for (tensor, bytes) in shard.file.in_file_order() {
            let source = Source {
                file: &shard.file,
                bytes: bytes.clone(),
            };
            match self.changes.of(at, tensor.name) {
                Some(change) => self.changed(tensor, change, source, &mut target)?,
                None => self.copy(source, &mut target)?,
            }
            shard.file.release(bytes);
        }
        for Added { name, from, .. } in added {
            self.finite(name, non_finite(from.data, from.dtype))?;
            for bytes in from.data.chunks(STEP as usize) {
                self.go_on()?;
                target.write(bytes)?;
            }
            self.report.added(name);
        }
        // Checks the file as any reader would, before it gets its final name.
        let written = MappedFile::open(path)?;
        let expected = shard.file.tensors().count() + added.len();
        if written.tensors().count() != expected {
            return Err(Failure::Wrong(format!(
                "{} has not the tensors it should have",
                path.display()
            )));
        }
        Ok(())
    }

    fn copy(&self, from: Source<'_>, to: &mut Target<'_>) -> Result<(), Failure> {
        let path = from.file.path();
        let mut source = from.file.file();
        source
            .seek(SeekFrom::Start(from.bytes.start as u64))
            .map_err(|error| unread(path, error))?;
        let mut left = from.bytes.len() as u64;
        while left > 0 {
            self.go_on()?;
            let step = left.min(STEP);
            let copied = std::io::copy(&mut source.take(step), to.file)
                .map_err(|error| unwritten(to.path, error))?;
            if copied != step {
                return Err(Failure::Refused(format!(
                    "{} ended early: it changes while it is read",
                    path.display()
                )));
            }
            self.progress.inc(step);
            left -= step;
        }
        Ok(())
    }

    /// Writes a changed tensor. `from` holds its bytes in the base's shard.
    fn changed(
        &mut self,
        tensor: Tensor<'_>,
        change: &Change<'_>,
        from: Source<'_>,
        to: &mut Target<'_>,
    ) -> Result<(), Failure> {
        self.go_on()?;
        self.progress.set_message(tensor.name.to_owned());
        let data = change.replaced.unwrap_or(tensor);
        let mut entry = Entry::new(tensor, change);
        if change.loras.is_empty() {
            self.converted(tensor, data, change, to)?;
        } else {
            entry.merged = Some(self.merged(tensor, data, change, from, to)?);
        }
        self.report.changed(entry);
        Ok(())
    }

    /// Writes `data` in the tensor's type and adds the biases, if there are any.
    fn converted(
        &mut self,
        tensor: Tensor<'_>,
        data: Tensor<'_>,
        change: &Change<'_>,
        to: &mut Target<'_>,
    ) -> Result<(), Failure> {
        let elements = tensor.shape.iter().product();
        // This also covers types smaller than a byte, which can't be converted.
        if data.dtype == tensor.dtype && change.biases.is_empty() {
            self.finite(tensor.name, non_finite(data.data, data.dtype))?;
            for bytes in data.data.chunks(STEP as usize) {
                self.go_on()?;
                to.write(bytes)?;
                self.progress.inc(bytes.len() as u64);
            }
            return Ok(());
        }
        let mut unusable = 0;
        for first in (0..elements).step_by(PIECE) {
            self.go_on()?;
            let range = first..elements.min(first + PIECE);
            let bytes = biased(tensor, &part(&data, range.clone()), change, range);
            unusable += non_finite(&bytes, tensor.dtype);
            to.write(&bytes)?;
            self.progress.inc(bytes.len() as u64);
        }
        self.finite(tensor.name, unusable)
    }

    fn merged(
        &mut self,
        tensor: Tensor<'_>,
        data: Tensor<'_>,
        change: &Change<'_>,
        from: Source<'_>,
        to: &mut Target<'_>,
    ) -> Result<MergeReport, Failure> {
        let (&[rows, columns], Some(dtype)) = (tensor.shape, tensor.element_type()) else {
            return Err(Failure::Refused(format!(
                "{} is no matrix of floats",
                tensor.name
            )));
        };
        let weight = Weight {
            dtype,
            rows,
            columns,
            layout: change.layout,
            data,
            loras: &change.loras,
        };
        let mut done = from.bytes.start;
        let report = self.engine.merge(weight, &mut |bytes| {
            self.go_on()?;
            to.write(bytes)?;
            self.progress.inc(bytes.len() as u64);
            from.file.release(done..done + bytes.len());
            done += bytes.len();
            Ok(())
        })?;
        self.finite(tensor.name, report.non_finite)?;
        Ok(report)
    }

    fn finite(&mut self, name: &str, elements: u64) -> Result<(), Failure> {
        if elements == 0 || self.allow_non_finite {
            return Ok(());
        }
        self.progress.abandon();
        Err(Failure::Wrong(format!(
            "{elements} elements of {name} would be NaN or infinite, so nothing was written: the adapter or the base holds such, or the sum is too large for \
             the type (--allow-non-finite writes them)"
        )))
    }
}

/// Elements of a tensor in its type. lora_B's biases are added in f32, in the adapters' order, and
/// the sum is rounded once.
fn biased<'a>(
    tensor: Tensor<'_>,
    source: &Tensor<'a>,
    change: &Change<'_>,
    range: Range<usize>,
) -> Cow<'a, [u8]> {
    let Some(dtype) = tensor.element_type().filter(|_| !change.biases.is_empty()) else {
        return converted_bytes(source, tensor.dtype);
    };
    with_type!(dtype, T => {
        let mut sums: Vec<f32> = converted::<T>(source).iter().map(|value| lora_kernels::Element::to_f64(*value) as f32).collect();
        for (factor, bias) in &change.biases {
            for (sum, value) in sums.iter_mut().zip(&*converted::<f32>(&part(bias, range.clone()))) {
                *sum = factor.mul_add(*value, *sum);
            }
        }
        let rounded = sums.into_iter().map(|sum| <T as lora_kernels::Element>::from_f64(f64::from(sum)));
        Cow::Owned(bytemuck::cast_slice(&rounded.collect::<Vec<T>>()).to_vec())
    })
}

/// The header with further tensors appended. The text of the existing entries stays as it is.
fn with_added<'a>(
    file: &MappedFile,
    added: impl Iterator<Item = (&'a str, Tensor<'a>)>,
) -> Vec<u8> {
    let mut text = reopened(&file.header()[8..]);
    let mut end = file.bytes() - file.header().len();
    let mut first = text.trim_end().ends_with('{');
    for (name, tensor) in added {
        let begin = end;
        end += tensor.data.len();
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]});
        if !std::mem::take(&mut first) {
            text.push(',');
        }
        text.push_str(&format!("{}:{entry}", serde_json::Value::from(name)));
    }
    text.push('}');
    // safetensors pads the header so that the tensors begin at a multiple of 8 bytes.
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The text of a JSON object without its last brace.
fn reopened(header: &[u8]) -> String {
    let text = String::from_utf8_lossy(header);
    let text = text.trim_end();
    text.strip_suffix('}').unwrap_or(text).to_owned()
}

fn unwritten(path: &Path, error: std::io::Error) -> Failure {
    Failure::Refused(format!("can't write {}: {error}", path.display()))
}

fn unread(path: &Path, error: std::io::Error) -> Failure {
    Failure::Refused(format!("can't read {}: {error}", path.display()))
}
