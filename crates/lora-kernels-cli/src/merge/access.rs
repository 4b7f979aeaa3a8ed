//! Who may read the output: nobody who may not read what it is made of.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use lora_kernels_adapters::regular::folder_of;
use lora_kernels_adapters::{Adapter, BaseModel};

use crate::failure::Failure;

const SETGID: u32 = 0o2000;
const READ: u32 = 0o4;
/// What it takes to read the files of a folder.
const READ_AND_ENTER: u32 = 0o5;

/// Whether the group of the output, and all others, may do with it what the process's umask allows.
/// If not, they may do nothing. Nothing is executable, and no bit of another kind is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    group: bool,
    others: bool,
}

impl Access {
    const ALL: Self = Self {
        group: true,
        others: true,
    };

    /// What a source allows. A group other than the output's is not asked: its members are not
    /// those of the output's group, who may have been `others` to the source.
    fn of(source: &Metadata, group: u32) -> Self {
        let needed = match source.is_dir() {
            true => READ_AND_ENTER,
            false => READ,
        };
        let may = |bits: u32| bits & needed == needed;
        let others = may(source.mode());
        Self {
            group: may(source.mode() >> 3) && (source.gid() == group || others),
            others,
        }
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            group: self.group && other.group,
            others: self.others && other.others,
        }
    }

    /// The mode to create a file with. The system takes the umask off.
    pub fn file_mode(self) -> u32 {
        0o666 & self.mask()
    }

    /// The mode to create a folder with. The system takes the umask off.
    pub fn folder_mode(self) -> u32 {
        0o777 & self.mask()
    }

    /// Creates a file that isn't there yet.
    pub fn create(self, path: &Path) -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        options.mode(self.file_mode()).open(path)
    }

    fn mask(self) -> u32 {
        let class = |allowed: bool| if allowed { 0o7 } else { 0 };
        0o700 | class(self.group) << 3 | class(self.others)
    }
}

/// What the sources of one run allow.
#[derive(Debug)]
pub struct Sources {
    /// The group that the output gets.
    group: u32,
    /// By the base's folder, which counts for every file in it.
    pub folder: Access,
    /// By the adapters' files and folders, which all merged weights are made of.
    adapters: Access,
    /// By all of them and the base's weights.
    pub all: Access,
}

impl Sources {
    /// Looks at the sources of an output at `output`. Where it replaces something, that counts as
    /// well.
    ///
    /// # Errors
    /// A source, or the folder of the output, can't be looked at.
    pub fn new(base: &BaseModel, adapters: &[Adapter], output: &Path) -> Result<Self, Failure> {
        let mut sources = Self {
            group: group_in(output)?,
            folder: Access::ALL,
            adapters: Access::ALL,
            all: Access::ALL,
        };
        for adapter in adapters {
            for path in adapter.folder().into_iter().chain([adapter.file().path()]) {
                sources.adapters = sources.adapters.and(sources.of(path)?);
            }
        }
        if let Some(folder) = base.folder() {
            sources.folder = sources.of(folder)?;
        }
        sources.all = sources.folder.and(sources.adapters);
        for shard in base.shards() {
            sources.all = sources.all.and(sources.of(shard.file.path())?);
        }
        if let Ok(replaced) = output.metadata() {
            sources.all = sources.all.and(Access::of(&replaced, sources.group));
        }
        Ok(sources)
    }

    /// For what is made of this file and of the adapters.
    pub fn merged(&self, source: &Path) -> Result<Access, Failure> {
        Ok(self.of(source)?.and(self.adapters).and(self.folder))
    }

    /// For what is made of this file or folder alone.
    pub fn of(&self, source: &Path) -> Result<Access, Failure> {
        let metadata = source.metadata();
        let metadata = metadata.map_err(|error| Failure::unread(source, error))?;
        Ok(self.allowed_by(&metadata))
    }

    /// For what is made of this file or folder alone.
    pub fn allowed_by(&self, source: &Metadata) -> Access {
        Access::of(source, self.group)
    }
}

/// The group of what is created beside `output`: the process's, or the folder's if that passes its
/// group on.
fn group_in(output: &Path) -> Result<u32, Failure> {
    let folder = folder_of(output);
    let metadata = { folder.metadata() }.map_err(|error| Failure::unread(folder, error))?;
    let passes_on = metadata.mode() & SETGID != 0 || cfg!(not(target_os = "linux"));
    Ok(match passes_on {
        true => metadata.gid(),
        false => rustix::process::getegid().as_raw(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The modes that a file and a folder of these modes give.
    fn given(file: u32, folder: u32, same_group: bool) -> (u32, u32) {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("file");
        std::fs::write(&path, "").unwrap();
        let access = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let metadata = path.metadata().unwrap();
            Access::of(&metadata, metadata.gid() + u32::from(!same_group))
        };
        let file = access(&path, file).file_mode();
        let folder = access(at.path(), folder).folder_mode();
        std::fs::set_permissions(at.path(), Permissions::from_mode(0o700)).unwrap();
        (file, folder)
    }

    #[test]
    fn nobody_may_read_more_than_the_source_lets_them() {
        assert_eq!(given(0o644, 0o755, true), (0o666, 0o777));
        assert_eq!(given(0o600, 0o700, true), (0o600, 0o700));
        assert_eq!(given(0o400, 0o500, true), (0o600, 0o700));
        assert_eq!(given(0o640, 0o750, true), (0o660, 0o770));
        assert_eq!(given(0o604, 0o705, true), (0o606, 0o707));
        assert_eq!(given(0o6755, 0o1777, true), (0o666, 0o777));
        // Who may enter a folder without listing it can't read what it doesn't know.
        assert_eq!(given(0o622, 0o711, true), (0o600, 0o700));
    }

    /// The members of the output's group may not be those of the source's.
    #[test]
    fn another_group_is_not_trusted() {
        assert_eq!(given(0o640, 0o750, false), (0o600, 0o700));
        assert_eq!(given(0o644, 0o755, false), (0o666, 0o777));
    }
}
