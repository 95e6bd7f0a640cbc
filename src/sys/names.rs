//! Names of files: link, rename, and the /proc path of an open file.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{check, is_unavailable, retry};

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Gives an open file the name `name`, through /proc/self/fd (linkat(2)). Fails with EEXIST if the name exists.
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    let (source, name) = (c_path(&fd_path(file))?, c_path(name)?);
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

/// Gives an open file the name `name`, and replaces the file that has the name. linkat(2) cannot replace a file, so
/// this links the file as `temporary` first and then renames that. A child process in its own session makes both calls,
/// so that a SIGKILL of this process or its process group cannot come between them. This costs a fork.
pub fn link_over(file: &File, temporary: &Path, name: &Path) -> io::Result<()> {
    let (c_source, c_temporary, c_name) = (c_path(&fd_path(file))?, c_path(temporary)?, c_path(name)?);
    let (c_source, c_temporary, c_name) = (c_source.as_ptr(), c_temporary.as_ptr(), c_name.as_ptr());
    // Returns errno, or 0.
    let link_and_rename = || {
        // SAFETY: the three strings end in NUL, and the caller keeps them until the child has exited. The closure only
        // makes system calls: the child of a multithreaded process may not do anything else (fork(2)).
        unsafe {
            if libc::linkat(libc::AT_FDCWD, c_source, libc::AT_FDCWD, c_temporary, libc::AT_SYMLINK_FOLLOW) < 0 {
                return *libc::__errno_location();
            }
            if libc::rename(c_temporary, c_name) < 0 {
                let errno = *libc::__errno_location();
                libc::unlink(c_temporary);
                return errno;
            }
        }
        0
    };
    // The child has the write end until it exits, so that its end is known even if waitpid fails.
    let Ok((mut exited, exiting)) = io::pipe() else { return as_result(link_and_rename()) };
    // SAFETY: the child exits with _exit, which runs no exit handlers of this process.
    let errno = match unsafe { libc::fork() } {
        0 => unsafe {
            // SAFETY: integers only. /proc/self is now the child, which has the same file descriptors.
            libc::setsid();
            libc::_exit(link_and_rename())
        },
        -1 => link_and_rename(), // cannot fork: do it in this process
        child => {
            drop(exiting);
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            match retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) })) {
                Ok(_) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
                // The child was killed, or its status is not available, for example because SIGCHLD is ignored. When it
                // has exited, check whether the file has its name, and start over if it does not.
                _ => {
                    exited.read_to_end(&mut Vec::new())?;
                    match (file.metadata(), std::fs::metadata(name)) {
                        (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()) => 0,
                        _ => {
                            // SAFETY: the string ends in NUL and outlives the call. The file may not exist.
                            unsafe { libc::unlink(c_temporary) };
                            link_and_rename()
                        }
                    }
                }
            }
        }
    };
    as_result(errno)
}

fn as_result(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// The path of an open file in /proc.
pub fn fd_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Renames a file. Fails with EEXIST if the new name exists (renameat2(2), `RENAME_NOREPLACE`).
pub fn rename_new(old: &Path, new: &Path) -> io::Result<()> {
    let (old, new) = (c_path(old)?, c_path(new)?);
    let (directory, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // The system call itself: musl has no wrapper for it.
    // SAFETY: both strings end in NUL and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, directory, old.as_ptr(), directory, new.as_ptr(), flags) };
    check(libc::c_int::try_from(result).unwrap_or(-1))?;
    Ok(())
}
