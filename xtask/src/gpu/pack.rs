//! Packs programs: debug information is stripped, and the kernels' images, which every program
//! contains, are cut out and stored once.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::Failure;
use lora_kernels_bundle::manifest::{BLOBS, Kind, Program};

/// The first bytes of every fatbin.
const MAGIC: [u8; 4] = [0x50, 0xED, 0x55, 0xBA];

pub struct Packer {
    folder: PathBuf,
    images: Vec<Vec<u8>>,
    /// Maps the contents of a blob to its number
    blobs: HashMap<Vec<u8>, usize>,
    /// The newest version of the C library that a program needs
    glibc: (u32, u32),
}

impl Packer {
    pub fn new(folder: &Path, images: &[PathBuf]) -> Result<Self, Failure> {
        let blobs = folder.join(BLOBS);
        fs::create_dir_all(&blobs)
            .map_err(|error| format!("can't make {}: {error}", blobs.display()))?;
        let mut contents: Vec<Vec<u8>> = Vec::new();
        for path in images {
            let image = read(path)?;
            if !contents.contains(&image) {
                contents.push(image);
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            images: contents,
            blobs: HashMap::new(),
            glibc: (0, 0),
        })
    }

    /// Packs a program. `below` is the folder in the bundle to which it is unpacked.
    pub fn pack(
        &mut self,
        kind: Kind,
        name: &str,
        path: &Path,
        below: &str,
    ) -> Result<Program, Failure> {
        let stripped = self.folder.join("stripped");
        let bytes = self.strip(path, &stripped)?;
        fs::remove_file(&stripped)
            .map_err(|error| format!("can't remove {}: {error}", stripped.display()))?;
        let mut parts = Vec::new();
        for part in cut(&bytes, &self.images) {
            parts.push(self.blob(part)?);
        }
        Ok(Program {
            name: name.to_owned(),
            kind,
            path: format!("{below}/{name}"),
            bytes: bytes.len() as u64,
            parts,
            ..Program::default()
        })
    }

    /// Copies a program without its symbols, and returns its contents.
    pub fn strip(&mut self, from: &Path, to: &Path) -> Result<Vec<u8>, Failure> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        }
        let strip = Command::new("strip")
            .args(["--strip-all", "-o"])
            .arg(to)
            .arg(from)
            .output();
        let strip = strip.map_err(|error| format!("can't run strip, of the binutils: {error}"))?;
        if !strip.status.success() {
            let reason = String::from_utf8_lossy(&strip.stderr);
            return Err(format!("strip {}: {}", from.display(), reason.trim()).into());
        }
        let bytes = read(to)?;
        self.glibc = self.glibc.max(newest_glibc(&bytes));
        Ok(bytes)
    }

    pub fn glibc(&self) -> String {
        format!("{}.{}", self.glibc.0, self.glibc.1)
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        if let Some(&number) = self.blobs.get(bytes) {
            return Ok(number);
        }
        let number = self.blobs.len();
        let path = self.folder.join(BLOBS).join(number.to_string());
        fs::write(&path, lz4_flex::compress_prepend_size(bytes))
            .map_err(|error| format!("can't write {}: {error}", path.display()))?;
        self.blobs.insert(bytes.to_owned(), number);
        Ok(number)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| format!("can't read {}: {error}", path.display()).into())
}

/// Splits a program into images and the parts between them.
fn cut<'a>(bytes: &'a [u8], images: &[Vec<u8>]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(step) = find(&bytes[at..], &MAGIC) {
        at += step;
        match images.iter().find(|image| bytes[at..].starts_with(image)) {
            Some(image) => {
                parts.push(&bytes[start..at]);
                parts.push(&bytes[at..at + image.len()]);
                at += image.len();
                start = at;
            }
            None => at += MAGIC.len(),
        }
    }
    parts.push(&bytes[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The version of the C library, from the symbol versions that a program needs.
fn newest_glibc(bytes: &[u8]) -> (u32, u32) {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let mut newest = (0, 0);
    let mut rest = bytes;
    while let Some(at) = find(rest, PREFIX) {
        rest = &rest[at + PREFIX.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        let minor = digits.fold(0_u32, |number, digit| {
            number.saturating_mul(10) + u32::from(digit - b'0')
        });
        newest = newest.max((2, minor));
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tail: &[u8]) -> Vec<u8> {
        [&MAGIC[..], tail].concat()
    }

    #[test]
    fn a_program_is_cut_at_its_images_and_nothing_is_lost() {
        let images = [image(b"first"), image(b"second")];
        let program = [
            b"code".as_slice(),
            &images[1],
            &MAGIC,
            b"none",
            &images[0],
            &images[0],
            b"end",
        ]
        .concat();
        let parts = cut(&program, &images);
        assert_eq!(parts.concat(), program);
        let expected: [&[u8]; 6] = [
            b"code",
            &images[1],
            &image(b"none"),
            &images[0],
            &images[0],
            b"end",
        ];
        assert_eq!(parts, expected);
        assert_eq!(cut(b"no image", &images), [b"no image"]);
    }

    #[test]
    fn the_newest_version_of_the_c_library_counts() {
        assert_eq!(
            newest_glibc(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0"),
            (2, 34)
        );
    }
}
