//! Names of files: linking, renaming, /proc/self/fd.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{check, retry};

fn path(value: &Path) -> io::Result<CString> {
    CString::new(value.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Gives the open file a name, following /proc/self/fd (linkat(2)). Fails if the name is taken.
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    let (from, to) = (path(&fd_path(file))?, path(name)?);
    // SAFETY: both strings end in NUL and outlive the call.
    check(unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    })?;
    Ok(())
}

/// Gives the open file the name `to`, replacing what has it: by way of `between`, because linkat(2)
/// does not replace. A child in a group of its own does both calls, so that a SIGKILL for this
/// process or its group does not fall between them; it costs a fork.
pub fn link_over(file: &File, between: &Path, to: &Path) -> io::Result<()> {
    let name = to;
    let (from, between, to) = (path(&fd_path(file))?, path(between)?, path(to)?);
    let (from, between, to) = (from.as_ptr(), between.as_ptr(), to.as_ptr());
    let work = || {
        // SAFETY: three strings that end in NUL, kept by the caller until it has waited for the child.
        // Only system calls: a child of a process with threads may do nothing else (fork(2)).
        unsafe {
            if libc::linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, between, libc::AT_SYMLINK_FOLLOW) < 0 {
                return *libc::__errno_location();
            }
            if libc::rename(between, to) < 0 {
                let error = *libc::__errno_location();
                libc::unlink(between);
                return error;
            }
        }
        0
    };
    // SAFETY: the child leaves by _exit, without running anything of this process's.
    let error = match unsafe { libc::fork() } {
        0 => unsafe {
            // SAFETY: integers only. /proc/self is the child now, and its descriptors are the same.
            libc::setsid();
            libc::_exit(work())
        },
        -1 => work(), // no process to spare
        child => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            match retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) })) {
                Ok(_) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
                // Killed alone, or nobody keeps its status (SIGCHLD is ignored): look what it did, and
                // do what it did not.
                _ => match (file.metadata(), std::fs::metadata(name)) {
                    (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()) => 0,
                    _ => {
                        // SAFETY: the string ends in NUL and outlives the call. It may not be there.
                        unsafe { libc::unlink(between) };
                        work()
                    }
                },
            }
        }
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The name under which /proc shows an open file.
pub fn fd_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Renames, failing with EEXIST if the new name is taken (renameat2(2), `RENAME_NOREPLACE`).
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (path(from)?, path(to)?);
    // SAFETY: both strings end in NUL and outlive the call.
    check(unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    })?;
    Ok(())
}
