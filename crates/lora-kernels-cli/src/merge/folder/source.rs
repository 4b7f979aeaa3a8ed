//! Files beside the weights, and how they are opened.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lora_kernels_adapters::base::Home;
use lora_kernels_adapters::regular::FOLDER;
use lora_kernels_adapters::{Error, regular};
use rustix::io::Errno;

/// Of the files that are read or compared as a whole, in bytes. The largest tokenizers have a fifth
/// of it.
pub const LARGEST: u64 = 256 << 20;

/// A file of the base's or an adapter's folder.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    home: Arc<Home>,
}

/// A file that belongs to the result and can't be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreadable {
    pub path: PathBuf,
    pub reason: String,
}

/// What a name in a folder leads to.
pub enum Kind {
    File(Source),
    /// A link out of the folder, which isn't followed.
    Outside,
    /// No file: a pipe, a link to a folder.
    Other(&'static str),
    Unreadable(Unreadable),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.reason)
    }
}

impl Source {
    /// The file of this name, if it is there and may be read. Where the system doesn't tell, it is
    /// taken to be there: reading it gives the error.
    pub fn named(home: &Arc<Home>, name: &str) -> Option<Self> {
        let source = Self::at(home, home.folder().join(name));
        let is_file = match source.path.metadata() {
            Ok(metadata) => metadata.is_file(),
            Err(error) => !matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
            ),
        };
        (is_file && home.holds(&source.path).unwrap_or(true)).then_some(source)
    }

    /// The file at this path, which lies in the folder or below it.
    pub fn at(home: &Arc<Home>, path: PathBuf) -> Self {
        Self {
            path,
            home: home.clone(),
        }
    }

    pub fn open(&self) -> Result<File, Error> {
        self.home.open(&self.path)
    }

    pub fn read(&self) -> Result<Vec<u8>, Error> {
        self.home.read(&self.path, LARGEST)
    }

    pub fn read_text(&self, limit: u64) -> Result<String, Error> {
        self.home.read_text(&self.path, limit)
    }

    pub fn is_too_large(&self) -> bool {
        { self.path.metadata() }.is_ok_and(|metadata| metadata.len() > LARGEST)
    }

    /// Whether both files have the same bytes or the same JSON. A file that can't be compared
    /// differs.
    pub fn is_same(&self, other: &Source) -> bool {
        use serde_json::Value;
        let (Ok(ours), Ok(theirs)) = (self.read(), other.read()) else {
            return false;
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        ours == theirs
            || (self.path.extension().is_some_and(|end| end == "json")
                && json(&ours).is_some_and(|ours| json(&theirs) == Some(ours)))
    }
}

/// Opens what lies at `path`, in or below the home's folder, and says what it is.
pub fn look(home: &Arc<Home>, path: &Path) -> Kind {
    let source = Source::at(home, path.to_owned());
    match source.open() {
        Ok(_) => Kind::File(source),
        // What is no file at all is said to be none, wherever it is.
        Err(Error::Outside { .. }) => match regular::check(path) {
            Err(Error::NotAFile { what, .. }) if what != FOLDER => Kind::Other(what),
            _ => Kind::Outside,
        },
        Err(Error::NotAFile { what, .. }) => Kind::Other(match what {
            FOLDER => "a link to a folder",
            other => other,
        }),
        Err(error) => Kind::Unreadable(Unreadable {
            path: path.to_owned(),
            reason: reason(error),
        }),
    }
}

/// Why a file can't be opened, without its name.
pub fn reason(error: Error) -> String {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "a link to a file that isn't there".into()
        }
        Error::Io { source, .. } => source.to_string(),
        Error::NotAFile { what, .. } => format!("{what}, not a file"),
        error => error.to_string(),
    }
}
