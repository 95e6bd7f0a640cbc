//! Names of files: link, rename, and the /proc path of an open file.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{check, is_unavailable};

/// Fails if the text has a NUL byte, which no path has.
pub(super) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

/// Gives an open file the name `name`, through /proc/self/fd (linkat(2)). Fails with EEXIST if the name exists.
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    let (source, name) = (c_string(fd_path(file).as_os_str())?, c_string(name.as_os_str())?);
    // SAFETY: both strings end in NUL and outlive the call.
    check(unsafe {
        libc::linkat(libc::AT_FDCWD, source.as_ptr(), libc::AT_FDCWD, name.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    })?;
    Ok(())
}

/// True if linkat(2) is available. Asks without naming anything: the kernel refuses the empty path with ENOENT.
pub fn can_link_unnamed() -> bool {
    // SAFETY: both strings end in NUL and outlive the call.
    let result = check(unsafe { libc::linkat(-1, c"".as_ptr(), -1, c"".as_ptr(), 0) });
    result.err().is_none_or(|e| !is_unavailable(&e))
}

/// The path of an open file in /proc.
pub fn fd_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Renames a file. Fails with EEXIST if the new name exists (renameat2(2), `RENAME_NOREPLACE`).
pub fn rename_new(old: &Path, new: &Path) -> io::Result<()> {
    let (old, new) = (c_string(old.as_os_str())?, c_string(new.as_os_str())?);
    let (directory, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // The system call itself: musl has no wrapper for it.
    // SAFETY: both strings end in NUL and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, directory, old.as_ptr(), directory, new.as_ptr(), flags) };
    check(libc::c_int::try_from(result).unwrap_or(-1))?;
    Ok(())
}
