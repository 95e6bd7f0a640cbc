//! Creates an entry that is not opened, and sets its attributes: a symbolic link, a FIFO or a device node.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::RawFd;

use rustix::fs::Stat;

use super::names::c_string;

/// An entry to create.
pub enum NewEntry {
    /// A symbolic link to this target.
    Symlink(CString),
    /// A FIFO or device node with this type and device number, for its owner only.
    Node(libc::mode_t, libc::dev_t),
}

impl NewEntry {
    /// A symbolic link to `target`.
    pub fn symlink(target: &OsStr) -> io::Result<Self> {
        c_string(target).map(Self::Symlink)
    }

    /// A FIFO or device node like that of `stat`.
    pub fn node(stat: &Stat) -> Self {
        Self::Node(stat.st_mode & libc::S_IFMT | 0o600, stat.st_rdev)
    }

    /// Creates it in `directory`. Returns errno, or 0. Makes one system call: it also runs in the child of a multithreaded
    /// process (fork(2)).
    pub(super) fn create(&self, directory: RawFd, name: &CStr) -> libc::c_int {
        // SAFETY: both strings end in NUL and outlive the call.
        let created = unsafe {
            match self {
                Self::Symlink(target) => libc::symlinkat(target.as_ptr(), directory, name.as_ptr()),
                Self::Node(mode, device) => libc::mknodat(directory, name.as_ptr(), *mode, *device),
            }
        };
        if created < 0 { errno() } else { 0 }
    }
}

/// An attribute to set.
pub enum EntryAttribute {
    /// User and group.
    Owner(libc::uid_t, libc::gid_t),
    /// The name and value of an extended attribute. None: the entry has no such attribute.
    Extended(CString, Option<Vec<u8>>),
    /// Permission bits. Not for symbolic links.
    Mode(libc::mode_t),
    /// Access and modification time.
    Times([libc::timespec; 2]),
}

impl EntryAttribute {
    /// The extended attribute called `name`. Without a value, the entry must not have it.
    pub fn extended(name: &OsStr, value: Option<Vec<u8>>) -> io::Result<Self> {
        Ok(Self::Extended(c_string(name)?, value))
    }

    /// The access and modification time in `stat`.
    pub fn times(stat: &Stat) -> Self {
        let time = |seconds, nanoseconds| libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        Self::Times([
            time(stat.st_atime as _, stat.st_atime_nsec as _),
            time(stat.st_mtime as _, stat.st_mtime_nsec as _),
        ])
    }

    /// Sets it for the entry called `name` in `directory`, whose path is `path`. Returns errno, or 0. Follows no symbolic
    /// link. Makes system calls only: it also runs in the child of a multithreaded process (fork(2)).
    pub(super) fn set(&self, directory: RawFd, name: &CStr, path: &CStr) -> libc::c_int {
        let (name, path) = (name.as_ptr(), path.as_ptr());
        // SAFETY: all strings end in NUL; they, the value and the times are borrowed until the calls return.
        let result = unsafe {
            match self {
                Self::Owner(user, group) => return set_owner(directory, name, (*user, *group)),
                Self::Extended(attribute, Some(value)) => {
                    libc::lsetxattr(path, attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0)
                }
                Self::Extended(attribute, None) => match libc::lremovexattr(path, attribute.as_ptr()) {
                    -1 if matches!(errno(), libc::ENODATA | libc::EOPNOTSUPP) => 0,
                    result => result,
                },
                Self::Mode(mode) => return set_mode(directory, name, *mode),
                Self::Times(times) => libc::utimensat(directory, name, times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW),
            }
        };
        if result < 0 { errno() } else { 0 }
    }
}

impl fmt::Display for EntryAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(..) => f.write_str("owner"),
            Self::Extended(name, _) => write!(f, "attribute {}", name.to_string_lossy()),
            Self::Mode(_) => f.write_str("mode"),
            Self::Times(_) => f.write_str("timestamps"),
        }
    }
}

/// Sets the owner if it differs. Returns errno, or 0.
fn set_owner(directory: RawFd, name: *const libc::c_char, (user, group): (libc::uid_t, libc::gid_t)) -> libc::c_int {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: stat is a struct of integers, for which all zeros is a valid value. The caller's string ends in NUL; it and
    // `stat` outlive the calls.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        let known = libc::fstatat(directory, name, &mut stat, flags) == 0;
        if known && (stat.st_uid, stat.st_gid) == (user, group)
            || libc::fchownat(directory, name, user, group, flags) == 0
        {
            return 0;
        }
    }
    match errno() {
        libc::EINVAL => libc::EPERM, // an owner that this user namespace does not know
        other => other,
    }
}

/// Goes by way of a descriptor of the entry, because chmod(2) would follow a symbolic link. Returns errno, or 0.
fn set_mode(directory: RawFd, name: *const libc::c_char, mode: libc::mode_t) -> libc::c_int {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the caller's string ends in NUL and outlives the call.
    let entry = unsafe { libc::openat(directory, name, flags) };
    if entry < 0 {
        return errno();
    }
    let mut path = [0; 32];
    // Always fits. Allocates nothing, as a child of a multithreaded process must not.
    let _ = write!(&mut path[..31], "/proc/self/fd/{entry}");
    // SAFETY: `path` ends in NUL and outlives the call; `entry` is open, and nothing else has it.
    unsafe {
        let result = if libc::chmod(path.as_ptr().cast(), mode) < 0 { errno() } else { 0 };
        libc::close(entry);
        result
    }
}

/// True if an attribute may be left as it is, because the user may not set it or the filesystem does not have it.
pub fn is_attribute_refusal(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(is_refusal)
}

pub(super) fn is_refusal(errno: libc::c_int) -> bool {
    matches!(errno, libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSYS)
}

pub(super) fn errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
