//! The system calls that a merge makes, and the errors that each may give.

use nix::errno::Errno::{self, *};
use nix::libc;

/// What a run may do after a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It ends with a documented status.
    Files,
    /// It may also end as any Rust program does without memory: by SIGABRT, at any point.
    Memory,
}

const READING: &[Errno] = &[EIO, EACCES, ENOMEM];
const WRITING: &[Errno] = &[ENOSPC, EIO, EINTR];

/// The name of a call, and the errors that it is made to give.
pub fn faults(number: i64) -> Option<(&'static str, Kind, &'static [Errno])> {
    let (name, errors): (_, &[Errno]) = match number {
        libc::SYS_openat => ("openat", &[EIO, EACCES, EMFILE, ENOSPC]),
        libc::SYS_read => ("read", &[EIO, EINTR]),
        libc::SYS_pread64 => ("pread64", &[EIO, EINTR]),
        libc::SYS_preadv => ("preadv", &[EIO, EINTR]),
        libc::SYS_statx => ("statx", READING),
        libc::SYS_newfstatat => ("newfstatat", READING),
        libc::SYS_fstat => ("fstat", READING),
        libc::SYS_stat => ("stat", READING),
        libc::SYS_lstat => ("lstat", READING),
        libc::SYS_lseek => ("lseek", &[EIO]),
        libc::SYS_getdents64 => ("getdents64", &[EIO, ENOMEM]),
        libc::SYS_readlink => ("readlink", READING),
        libc::SYS_readlinkat => ("readlinkat", READING),
        libc::SYS_access => ("access", READING),
        libc::SYS_getcwd => ("getcwd", &[ENOENT, ENOMEM]),
        libc::SYS_write => ("write", &[ENOSPC, EIO, EINTR, EFBIG]),
        libc::SYS_writev => ("writev", WRITING),
        libc::SYS_pwrite64 => ("pwrite64", WRITING),
        libc::SYS_copy_file_range => ("copy_file_range", &[EIO, ENOSPC, EXDEV, ENOSYS]),
        libc::SYS_sendfile => ("sendfile", &[EIO, ENOSPC, ENOSYS]),
        libc::SYS_splice => ("splice", &[EIO, ENOSPC]),
        libc::SYS_ioctl => ("ioctl", &[EIO, ENOTTY]),
        libc::SYS_fallocate => ("fallocate", &[ENOSPC, EOPNOTSUPP]),
        libc::SYS_ftruncate => ("ftruncate", &[ENOSPC, EIO]),
        libc::SYS_fchmod => ("fchmod", &[EIO, EPERM]),
        libc::SYS_fchmodat => ("fchmodat", &[EIO, EPERM]),
        libc::SYS_mkdir => ("mkdir", &[ENOSPC, EACCES, EIO]),
        libc::SYS_mkdirat => ("mkdirat", &[ENOSPC, EACCES, EIO]),
        libc::SYS_fsync => ("fsync", &[EIO, ENOSPC, EINTR, EINVAL]),
        libc::SYS_fdatasync => ("fdatasync", &[EIO, ENOSPC, EINTR]),
        libc::SYS_syncfs => ("syncfs", &[EIO, ENOSPC]),
        libc::SYS_rename => ("rename", &[EIO, ENOSPC, EINTR]),
        libc::SYS_renameat => ("renameat", &[EIO, ENOSPC, EINTR]),
        libc::SYS_renameat2 => ("renameat2", &[EIO, ENOSPC, EINTR, EINVAL]),
        libc::SYS_unlink => ("unlink", &[EIO, EACCES]),
        libc::SYS_unlinkat => ("unlinkat", &[EIO, EACCES]),
        libc::SYS_rmdir => ("rmdir", &[EIO, EACCES]),
        libc::SYS_flock => ("flock", &[ENOLCK, EOPNOTSUPP, EIO, EINTR]),
        libc::SYS_fcntl => ("fcntl", &[EMFILE]),
        libc::SYS_close => ("close", &[EIO, EINTR]),
        libc::SYS_clone3 => ("clone3", &[EAGAIN, ENOSYS]),
        libc::SYS_clone => ("clone", &[EAGAIN]),
        libc::SYS_sched_getaffinity => ("sched_getaffinity", &[ENOSYS]),
        libc::SYS_rt_sigaction => ("rt_sigaction", &[EINVAL]),
        libc::SYS_getrandom => ("getrandom", &[ENOSYS]),
        libc::SYS_mmap => return Some(("mmap", Kind::Memory, &[ENOMEM])),
        libc::SYS_mprotect => return Some(("mprotect", Kind::Memory, &[ENOMEM])),
        libc::SYS_mremap => return Some(("mremap", Kind::Memory, &[ENOMEM])),
        libc::SYS_munmap => return Some(("munmap", Kind::Memory, &[ENOMEM])),
        libc::SYS_madvise => return Some(("madvise", Kind::Memory, &[ENOMEM])),
        libc::SYS_sigaltstack => return Some(("sigaltstack", Kind::Memory, &[ENOMEM])),
        // Waiting, ending, and what can't fail.
        _ => return None,
    };
    Some((name, Kind::Files, errors))
}

/// What a report calls it.
pub fn name(number: i64) -> String {
    faults(number).map_or_else(|| format!("call {number}"), |(name, ..)| name.to_owned())
}
