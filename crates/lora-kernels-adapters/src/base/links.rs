//! Which links in a model's folder are followed.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::regular::{self, LastLink, failed};
use crate::shown::shown;
use crate::{Error, Result};

/// Hexadecimal digits in a row that make a name a content's address: DVC cuts an MD5 sum's first 2
/// of 32 off.
const ADDRESS: usize = 30;
/// Stores whose paths hold a hash of what lies there.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];

/// The folder of a model or an adapter, and where its files may lie besides.
///
/// A link in a folder that someone else made could lead to any file of this machine, and a merge
/// would copy it. So a link is followed where it stays inside of the folder, or leads to a
/// content's address, which nobody can guess who doesn't have the content. And it is followed where
/// the whole model lies in one other folder: all of its weights are links into it, under the same
/// names.
#[derive(Debug, Clone)]
pub struct Home {
    folder: PathBuf,
    /// The folder without links.
    place: PathBuf,
    /// The other folder, without links.
    linked: Option<PathBuf>,
}

impl Home {
    /// The home of a folder whose weights are no links out of it.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder can't be resolved.
    pub fn of(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.into(),
            place: resolved(folder)?,
            linked: None,
        })
    }

    /// The home of a folder whose weights are the files `names` in it, also if all of them are
    /// links into one other folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file can't be resolved, [`Error::Outside`] if a file may
    /// not be read.
    pub fn with_weights(folder: &Path, names: &[&str]) -> Result<Self> {
        let mut home = Self::of(folder)?;
        match home.link(names)? {
            None => Ok(home),
            Some((name, place)) => Err(outside(&folder.join(name), &place)),
        }
    }

    /// The folder, as it was named.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The other folder into which all weights are links.
    pub(super) fn linked(&self) -> Option<&Path> {
        self.linked.as_deref()
    }

    /// Whether the file `path` may be read, which lies in the folder or below it.
    ///
    /// # Errors
    /// [`Error::Io`] if it can't be resolved.
    pub fn holds(&self, path: &Path) -> Result<bool> {
        Ok(self.holds_place(path, &resolved(path)?))
    }

    fn holds_place(&self, path: &Path, place: &Path) -> bool {
        let same_place = |linked: &PathBuf| {
            let parent = path.parent().and_then(|parent| resolved(parent).ok());
            let below = parent.as_ref()?.strip_prefix(&self.place).ok()?;
            Some(place == linked.join(below).join(path.file_name()?))
        };
        self.is_inside(place)
            || is_address(place)
            || self.linked.as_ref().and_then(same_place) == Some(true)
    }

    /// Opens the file `path`, which lies in the folder or below it, for reading.
    ///
    /// # Errors
    /// [`Error::Outside`] if it is a link that isn't followed, [`Error::NotAFile`] for a folder,
    /// pipe, socket or device, [`Error::Io`].
    pub fn open(&self, path: &Path) -> Result<File> {
        let place = resolved(path)?;
        if !self.holds_place(path, &place) {
            return Err(outside(path, &place));
        }
        regular::opened(&place, LastLink::Refused, path)
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Home::open`]; [`Error::TooLarge`].
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        regular::read_open(self.open(path)?, path, limit)
    }

    /// Reads a UTF-8 text of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Home::read`]; [`Error::Json`] if it isn't UTF-8.
    pub fn read_text(&self, path: &Path, limit: u64) -> Result<String> {
        regular::text(self.read(path, limit)?, path)
    }

    /// Finds the other folder into which all of the files `names` are links. Returns the first
    /// file that may not be read, with the place that it leads to.
    ///
    /// # Errors
    /// [`Error::Io`] if a file can't be resolved.
    pub(super) fn link<'a>(&mut self, names: &[&'a str]) -> Result<Option<(&'a str, PathBuf)>> {
        let mut outside = None;
        let mut others = Vec::with_capacity(names.len());
        for name in names {
            let path = self.folder.join(name);
            let place = resolved(&path)?;
            if outside.is_none() && !self.holds_place(&path, &place) {
                outside = Some((*name, place.clone()));
            }
            others.push((*name, place));
        }
        let Some(outside) = outside else {
            return Ok(None);
        };
        let other = others.first().and_then(|(_, file)| file.parent());
        let same = |(name, file): &(&str, PathBuf)| {
            file.is_file() && file.parent() == other && file.file_name() == Some((*name).as_ref())
        };
        if others.iter().all(same) {
            self.linked = other.map(Path::to_owned);
            return Ok(None);
        }
        Ok(Some(outside))
    }

    fn is_inside(&self, file: &Path) -> bool {
        // <model>/snapshots/<revision>/<name> links to <model>/blobs/<hash>.
        let snapshots = self
            .place
            .parent()
            .filter(|parent| parent.ends_with("snapshots"));
        let blobs = snapshots
            .and_then(Path::parent)
            .map(|model| model.join("blobs"));
        file.starts_with(&self.place) || blobs.is_some_and(|blobs| file.parent() == Some(&blobs))
    }
}

/// Whether a file's place holds a hash of its content.
fn is_address(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.chunk_by(|a, b| is_digit(a) == is_digit(b))
        .any(|run| run.len() >= ADDRESS && run.iter().all(is_digit))
        || STORES.iter().any(|store| file.starts_with(store))
}

fn outside(path: &Path, place: &Path) -> Error {
    Error::Outside {
        path: path.into(),
        place: shown(&place.to_string_lossy()),
    }
}

fn resolved(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(failed(path))
}
