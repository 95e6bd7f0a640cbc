//! Replaces names in directories without a moment at which SIGKILL could leave a temporary name behind.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Stat, fstat, statat};

use super::{Directory, check, fd_path, retry};

/// One name to replace.
pub struct Replacement<'a> {
    /// The names are relative to it.
    directory: BorrowedFd<'a>,
    new: New<'a>,
    temporary: CString,
    name: CString,
}

/// What gets the name.
enum New<'a> {
    /// An open file, and its path in /proc.
    File(&'a File, CString),
    /// The file that has this name in this directory gets another one.
    Link(BorrowedFd<'a>, CString),
    /// A symbolic link to this target.
    Symlink(CString),
    /// A FIFO or device node with this type and device number, for its owner only.
    Node(libc::mode_t, libc::dev_t),
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

impl<'a> Replacement<'a> {
    fn new(directory: BorrowedFd<'a>, new: New<'a>, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        Ok(Self { directory, new, temporary: c_string(temporary)?, name: c_string(name)? })
    }

    /// `file` gets the name. `temporary` is a name that nothing has.
    pub fn with_file(directory: &'a Directory, file: &'a File, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        let new = New::File(file, c_string(fd_path(file).as_os_str())?);
        Self::new(directory.file().as_fd(), new, temporary, name)
    }

    /// The file called `old` in `other` gets the name. `temporary` is a name that nothing has.
    pub fn with_link(
        directory: &'a Directory,
        (other, old): (&'a Directory, &OsStr),
        temporary: &OsStr,
        name: &OsStr,
    ) -> io::Result<Self> {
        Self::new(directory.file().as_fd(), New::Link(other.file().as_fd(), c_string(old)?), temporary, name)
    }

    /// A symbolic link to `target` gets the name. `temporary` is a name that nothing has.
    pub fn with_symlink(directory: &'a Directory, target: &OsStr, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        Self::new(directory.file().as_fd(), New::Symlink(c_string(target)?), temporary, name)
    }

    /// A FIFO or device node like that of `stat` gets the name, for its owner only. `temporary` is a name that nothing has.
    pub fn with_node(directory: &'a Directory, stat: &Stat, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        let new = New::Node(stat.st_mode & libc::S_IFMT | 0o600, stat.st_rdev);
        Self::new(directory.file().as_fd(), new, temporary, name)
    }

    /// Creates the temporary name and renames it. Returns errno, or 0. Makes system calls only: it also runs in the child
    /// of a multithreaded process (fork(2)).
    fn run(&self) -> libc::c_int {
        let (directory, temporary) = (self.directory.as_raw_fd(), self.temporary.as_ptr());
        // SAFETY: all strings end in NUL and live as long as `self`.
        unsafe {
            let created = match &self.new {
                New::File(_, path) => {
                    libc::linkat(libc::AT_FDCWD, path.as_ptr(), directory, temporary, libc::AT_SYMLINK_FOLLOW)
                }
                New::Link(other, old) => libc::linkat(other.as_raw_fd(), old.as_ptr(), directory, temporary, 0),
                New::Symlink(target) => libc::symlinkat(target.as_ptr(), directory, temporary),
                New::Node(mode, device) => libc::mknodat(directory, temporary, *mode, *device),
            };
            if created < 0 { *libc::__errno_location() } else { self.rename() }
        }
    }

    /// Gives what has the temporary name the final one. Returns errno, or 0; the temporary name is gone in any case.
    fn rename(&self) -> libc::c_int {
        let (directory, temporary) = (self.directory.as_raw_fd(), self.temporary.as_ptr());
        // SAFETY: both strings end in NUL and live as long as `self`.
        unsafe {
            if libc::renameat(directory, temporary, directory, self.name.as_ptr()) < 0 {
                let errno = *libc::__errno_location();
                libc::unlinkat(directory, temporary, 0);
                return errno;
            }
            // If both names are of one file already, rename(2) does nothing, and the temporary one stays.
            if matches!(self.new, New::Link(..)) {
                libc::unlinkat(directory, temporary, 0);
            }
        }
        0
    }

    /// Runs again what a child may have left unfinished.
    fn run_again(&self) -> libc::c_int {
        let new = match &self.new {
            New::File(file, _) => fstat(file).ok(),
            New::Link(other, old) => statat(other, old.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok(),
            // Replacing these once more changes nothing.
            New::Symlink(_) | New::Node(..) => None,
        };
        let named = statat(self.directory, self.name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok();
        if let (Some(new), Some(named)) = (new, named)
            && (new.st_dev, new.st_ino) == (named.st_dev, named.st_ino)
        {
            return 0; // the child had renamed it
        }
        // The child may have ended between the two calls. A file that only has the temporary name could not be linked again
        // without it.
        match self.rename() {
            libc::ENOENT => self.run(),
            errno => errno,
        }
    }
}

/// Gives an open file the name `name`, and replaces the file that has the name. linkat(2) cannot replace a file, so
/// this links the file as `temporary` first and then renames that. This costs a fork: see [`replace_all`].
pub fn link_over(file: &File, temporary: &Path, name: &Path) -> io::Result<()> {
    let new = New::File(file, c_string(fd_path(file).as_os_str())?);
    let replacement = Replacement::new(CWD, new, temporary.as_os_str(), name.as_os_str())?;
    replace_all(&[replacement]).into_iter().collect()
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
            // Ends when the child has exited. After an error, what was not read is run again.
            let _ = results.read_to_end(&mut bytes);
            let mut status = 0;
            // The child must have ended before anything is run again.
            // SAFETY: `status` outlives the call. The result does not matter: the pipe says what was done.
            let _ = retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) }));
            let errno = |bytes: &[u8]| libc::c_int::from_ne_bytes(bytes.try_into().unwrap_or_default());
            Ok(bytes.chunks_exact(size_of::<libc::c_int>()).map(errno).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    #[test]
    fn a_replacement_is_completed_wherever_the_child_has_ended() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("dio-cp-replace-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let (temporary, name) = (path.join(".temporary"), path.join("name"));
        let directory = Directory::open(&path)?;
        for ended_after in 0..3 {
            std::fs::write(&name, "old")?;
            // Has no name but the temporary one, like a file that was created without a name.
            std::fs::write(&temporary, "new")?;
            let file = File::open(&temporary)?;
            let replacement = Replacement::with_file(&directory, &file, OsStr::new(".temporary"), OsStr::new("name"))?;
            match ended_after {
                0 => std::fs::hard_link(&temporary, path.join("elsewhere")).and(std::fs::remove_file(&temporary))?,
                1 => {} // the temporary name was created
                _ => assert_eq!(replacement.rename(), 0),
            }
            assert_eq!(replacement.run_again(), 0, "ended after {ended_after} calls");
            assert_eq!(std::fs::read_to_string(&name)?, "new");
            let _ = std::fs::remove_file(path.join("elsewhere"));
            assert_eq!(names(&path)?, ["name"]);
        }
        std::fs::remove_dir_all(&path)
    }
}
