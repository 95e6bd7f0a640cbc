//! Replaces names in directories without a moment at which SIGKILL could leave a temporary name behind.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::{Directory, check, fd_path, retry};

/// One name to replace.
pub struct Replacement<'a> {
    directory: &'a Directory,
    new: New<'a>,
    temporary: CString,
    name: CString,
}

/// What gets the name.
enum New<'a> {
    /// An open file, and its path in /proc.
    File(&'a File, CString),
    /// A symbolic link to this target.
    Symlink(CString),
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

impl<'a> Replacement<'a> {
    /// `file` gets the name. `temporary` is a name that nothing has.
    pub fn with_file(directory: &'a Directory, file: &'a File, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        let new = New::File(file, c_string(fd_path(file).as_os_str())?);
        Ok(Self { directory, new, temporary: c_string(temporary)?, name: c_string(name)? })
    }

    /// A symbolic link to `target` gets the name. `temporary` is a name that nothing has.
    pub fn with_symlink(directory: &'a Directory, target: &OsStr, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        let new = New::Symlink(c_string(target)?);
        Ok(Self { directory, new, temporary: c_string(temporary)?, name: c_string(name)? })
    }

    /// Creates the temporary name and renames it. Returns errno, or 0. Makes system calls only: it also runs in the child
    /// of a multithreaded process (fork(2)).
    fn run(&self) -> libc::c_int {
        let (directory, temporary, name) = (self.directory.raw(), self.temporary.as_ptr(), self.name.as_ptr());
        // SAFETY: all strings end in NUL and live as long as `self`.
        unsafe {
            let created = match &self.new {
                New::File(_, path) => {
                    libc::linkat(libc::AT_FDCWD, path.as_ptr(), directory, temporary, libc::AT_SYMLINK_FOLLOW)
                }
                New::Symlink(target) => libc::symlinkat(target.as_ptr(), directory, temporary),
            };
            if created < 0 {
                return *libc::__errno_location();
            }
            if libc::renameat(directory, temporary, directory, name) < 0 {
                let errno = *libc::__errno_location();
                libc::unlinkat(directory, temporary, 0);
                return errno;
            }
        }
        0
    }

    /// Runs again what a child may have left unfinished.
    fn run_again(&self) -> libc::c_int {
        if let New::File(file, _) = &self.new {
            let name = OsStr::from_bytes(self.name.to_bytes());
            let stat = self.directory.stat_entry(name).ok().flatten();
            let metadata = file.metadata().ok();
            if let (Some(stat), Some(metadata)) = (stat, metadata)
                && (stat.st_dev, stat.st_ino) == (metadata.dev(), metadata.ino())
            {
                return 0; // the child had renamed it
            }
        }
        // SAFETY: the string ends in NUL and outlives the call. The name may not exist.
        unsafe { libc::unlinkat(self.directory.raw(), self.temporary.as_ptr(), 0) };
        self.run()
    }
}

/// Replaces each name, and returns the result for each. A child process in its own session makes the calls, so that a
/// SIGKILL of this process or its process group cannot come between them.
pub fn replace_all(replacements: &[Replacement<'_>]) -> Vec<io::Result<()>> {
    if replacements.is_empty() {
        return Vec::new();
    }
    let mut results = in_child(replacements).unwrap_or_default();
    for replacement in &replacements[results.len()..] {
        results.push(replacement.run_again());
    }
    let result = |errno| if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
    results.into_iter().map(result).collect()
}

/// The errno of each replacement, as far as the child got.
fn in_child(replacements: &[Replacement<'_>]) -> io::Result<Vec<libc::c_int>> {
    let (mut results, mut report) = io::pipe()?;
    // SAFETY: the child only makes system calls on data that exists already, and exits with _exit, which runs no exit
    // handlers of this process.
    match check(unsafe { libc::fork() })? {
        0 => {
            // SAFETY: integers only. /proc/self is now the child, which has the same file descriptors.
            unsafe { libc::setsid() };
            for replacement in replacements {
                if report.write_all(&replacement.run().to_ne_bytes()).is_err() {
                    break;
                }
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(report);
            let mut bytes = Vec::new();
            results.read_to_end(&mut bytes)?; // ends when the child has exited
            let mut status = 0;
            // SAFETY: `status` outlives the call. The result does not matter: the pipe says what was done.
            let _ = retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) }));
            let errno = |bytes: &[u8]| libc::c_int::from_ne_bytes(bytes.try_into().unwrap_or_default());
            Ok(bytes.chunks_exact(size_of::<libc::c_int>()).map(errno).collect())
        }
    }
}
