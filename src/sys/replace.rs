//! Replaces names in directories without a moment at which SIGKILL could leave a temporary name behind.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, fstat, statat};

use super::names::c_string;
use super::new_entry::{EntryAttribute, NewEntry, errno, is_refusal};
use super::{Directory, check, fd_path, retry};

/// One name to replace.
pub struct Replacement<'a> {
    /// The names are relative to it.
    directory: BorrowedFd<'a>,
    new: New<'a>,
    attributes: &'a [EntryAttribute],
    /// Fail with EEXIST if something has the name.
    keep_existing: bool,
    temporary: CString,
    /// The path of the temporary name in /proc, if there are attributes to set.
    temporary_path: CString,
    name: CString,
}

/// What gets the name.
enum New<'a> {
    /// An open file, and its path in /proc.
    File(&'a File, CString),
    /// The file that has this name in this directory gets another one.
    Link(BorrowedFd<'a>, CString),
    /// A new entry.
    Entry(&'a NewEntry),
}

/// What became of a replacement.
pub struct Replaced {
    /// Success if the name was replaced.
    pub result: io::Result<()>,
    /// The attribute to which an error in `result` applies. None: it applies to the name.
    pub failed: Option<usize>,
    /// The attributes that the user may not set, or the filesystem does not have.
    pub refused: Vec<(usize, io::Error)>,
}

impl Replaced {
    /// The name was not replaced.
    pub fn failed(error: io::Error) -> Self {
        Self { result: Err(error), failed: None, refused: Vec::new() }
    }
}

/// How a replacement, or one attribute, ended: the number of the replacement, that of the attribute or -1, and errno.
type Report = [libc::c_int; 3];
const NAME: libc::c_int = -1;

impl<'a> Replacement<'a> {
    fn new(directory: BorrowedFd<'a>, new: New<'a>, temporary: &OsStr, name: &OsStr) -> io::Result<Self> {
        let (temporary, name) = (c_string(temporary)?, c_string(name)?);
        let (attributes, temporary_path) = ([].as_slice(), CString::default());
        Ok(Self { directory, new, attributes, keep_existing: false, temporary, temporary_path, name })
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

    /// A new entry with these attributes gets the name. `temporary` is a name that nothing has. `keep_existing`: fail with
    /// EEXIST if something has the name.
    pub fn with_entry(
        directory: &'a Directory,
        (entry, attributes): (&'a NewEntry, &'a [EntryAttribute]),
        temporary: &OsStr,
        name: &OsStr,
        keep_existing: bool,
    ) -> io::Result<Self> {
        let temporary_path = c_string(directory.entry_path(temporary).as_os_str())?;
        let plain = Self::new(directory.file().as_fd(), New::Entry(entry), temporary, name)?;
        Ok(Self { attributes, keep_existing, temporary_path, ..plain })
    }

    /// Creates the temporary name, sets the attributes and renames it. Makes system calls only: it also runs in the child of
    /// a multithreaded process (fork(2)). `report` gets what it does: of attributes only errors. False if it cannot go on.
    fn run(&self, number: libc::c_int, report: &mut impl FnMut(Report) -> bool) -> bool {
        let errno = self.create();
        if errno != 0 {
            return report([number, NAME, errno]);
        }
        for (attribute, index) in self.attributes.iter().zip(0..) {
            let errno = attribute.set(self.directory.as_raw_fd(), &self.temporary, &self.temporary_path);
            if errno != 0 && !report([number, index, errno]) {
                return false;
            }
            if errno != 0 && !is_refusal(errno) {
                self.remove_temporary();
                return true;
            }
        }
        report([number, NAME, self.rename()])
    }

    /// Creates the temporary name. Returns errno, or 0.
    fn create(&self) -> libc::c_int {
        let (directory, temporary) = (self.directory.as_raw_fd(), self.temporary.as_ptr());
        // SAFETY: all strings end in NUL and live as long as `self`.
        let created = unsafe {
            match &self.new {
                New::File(_, path) => {
                    libc::linkat(libc::AT_FDCWD, path.as_ptr(), directory, temporary, libc::AT_SYMLINK_FOLLOW)
                }
                New::Link(other, old) => libc::linkat(other.as_raw_fd(), old.as_ptr(), directory, temporary, 0),
                New::Entry(entry) => return entry.create(directory, &self.temporary),
            }
        };
        if created < 0 { errno() } else { 0 }
    }

    /// Gives what has the temporary name the final one. Returns errno, or 0; the temporary name is gone in any case.
    fn rename(&self) -> libc::c_int {
        let (directory, temporary, name) = (self.directory.as_raw_fd(), self.temporary.as_ptr(), self.name.as_ptr());
        // SAFETY: both strings end in NUL and live as long as `self`.
        let renamed = unsafe {
            if self.keep_existing {
                // A link fails with EEXIST, too. Unlike renameat2(2), all kernels and filesystems with symbolic links have it.
                libc::linkat(directory, temporary, directory, name, 0)
            } else {
                libc::renameat(directory, temporary, directory, name)
            }
        };
        let errno = if renamed < 0 { errno() } else { 0 };
        // If both names are of one file already, rename(2) does nothing, and the temporary one stays.
        if errno != 0 || self.keep_existing || matches!(self.new, New::Link(..)) {
            self.remove_temporary();
        }
        errno
    }

    fn remove_temporary(&self) {
        // SAFETY: the string ends in NUL and lives as long as `self`.
        unsafe { libc::unlinkat(self.directory.as_raw_fd(), self.temporary.as_ptr(), 0) };
    }

    /// Runs again what a child may have left unfinished.
    fn run_again(&self, number: libc::c_int, report: &mut impl FnMut(Report) -> bool) {
        let new = match &self.new {
            New::File(file, _) => fstat(file).ok(),
            New::Link(other, old) => statat(other, old.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok(),
            New::Entry(_) => {
                self.remove_temporary(); // it may lack attributes
                self.run(number, report);
                return;
            }
        };
        let named = statat(self.directory, self.name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok();
        if let (Some(new), Some(named)) = (new, named)
            && (new.st_dev, new.st_ino) == (named.st_dev, named.st_ino)
        {
            report([number, NAME, 0]); // the child had renamed it
            return;
        }
        // The child may have ended between the two calls. A file that only has the temporary name could not be linked again
        // without it.
        match self.rename() {
            libc::ENOENT => self.run(number, report),
            errno => report([number, NAME, errno]),
        };
    }
}

/// Gives an open file the name `name`, and replaces the file that has the name. linkat(2) cannot replace a file, so
/// this links the file as `temporary` first and then renames that. This costs a fork: see [`replace_all`].
pub fn link_over(file: &File, temporary: &Path, name: &Path) -> io::Result<()> {
    let new = New::File(file, c_string(fd_path(file).as_os_str())?);
    let replacement = Replacement::new(CWD, new, temporary.as_os_str(), name.as_os_str())?;
    replace_all(&[replacement]).into_iter().try_for_each(|replaced| replaced.result)
}

/// Replaces each name, and returns what became of each. A child process in its own session makes the calls, so that a
/// SIGKILL of this process or its process group cannot come between them.
pub fn replace_all(replacements: &[Replacement<'_>]) -> Vec<Replaced> {
    if replacements.is_empty() {
        return Vec::new();
    }
    let mut reports = in_child(replacements).unwrap_or_default();
    // The child works in order.
    let done = reports.iter().filter(|report| is_last(report)).count();
    reports.retain(|[number, ..]| (*number as usize) < done);
    for (replacement, number) in replacements.iter().zip(0..).skip(done) {
        replacement.run_again(number, &mut |report| {
            reports.push(report);
            true
        });
    }
    let unknown = |_| Replaced::failed(io::ErrorKind::Interrupted.into());
    let mut replaced: Vec<_> = replacements.iter().map(unknown).collect();
    for [number, attribute, errno] in reports {
        let (replaced, error) = (&mut replaced[number as usize], io::Error::from_raw_os_error(errno));
        match usize::try_from(attribute) {
            Ok(attribute) if is_refusal(errno) => replaced.refused.push((attribute, error)),
            Ok(attribute) => (replaced.result, replaced.failed) = (Err(error), Some(attribute)),
            Err(_) => replaced.result = if errno == 0 { Ok(()) } else { Err(error) },
        }
    }
    replaced
}

/// True for the last report about a replacement: of its name, or of an attribute whose failure ends it.
fn is_last([_, attribute, errno]: &Report) -> bool {
    *attribute == NAME || !is_refusal(*errno)
}

/// What the child reported, as far as it got.
fn in_child(replacements: &[Replacement<'_>]) -> io::Result<Vec<Report>> {
    let (mut results, mut pipe) = io::pipe()?;
    // SAFETY: the child only makes system calls on data that exists already, and exits with _exit, which runs no exit
    // handlers of this process.
    match check(unsafe { libc::fork() })? {
        0 => {
            // SAFETY: integers only. /proc/self is now the child, which has the same file descriptors.
            unsafe { libc::setsid() };
            // Less than PIPE_BUF, so that a report arrives as a whole or not at all.
            let mut send = |report: Report| pipe.write_all(report.map(libc::c_int::to_ne_bytes).as_flattened()).is_ok();
            let _ = replacements.iter().zip(0..).all(|(replacement, number)| replacement.run(number, &mut send));
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(pipe);
            let mut bytes = Vec::new();
            // Ends when the child has exited. After an error, what was not read is run again.
            let _ = results.read_to_end(&mut bytes);
            let mut status = 0;
            // The child must have ended before anything is run again.
            // SAFETY: `status` outlives the call. The result does not matter: the pipe says what was done.
            let _ = retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) }));
            let (numbers, _) = bytes.as_chunks::<{ size_of::<libc::c_int>() }>();
            let (reports, _) = numbers.as_chunks::<3>();
            Ok(reports.iter().map(|report| report.map(libc::c_int::from_ne_bytes)).collect())
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
            let mut reports = Vec::new();
            replacement.run_again(0, &mut |report| {
                reports.push(report);
                true
            });
            assert_eq!(reports, [[0, NAME, 0]], "ended after {ended_after} calls");
            assert_eq!(std::fs::read_to_string(&name)?, "new");
            let _ = std::fs::remove_file(path.join("elsewhere"));
            assert_eq!(names(&path)?, ["name"]);
        }
        std::fs::remove_dir_all(&path)
    }
}
