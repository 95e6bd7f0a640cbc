//! Directories by handle: every operation is relative to an open directory, takes a name with one component, and follows
//! no symbolic link. Other users may therefore change the tree at any time without leading the program out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat};

use super::is_unavailable;

/// Bytes of directory entries to read at once: about 1000 names.
const ENTRIES_BUFFER: usize = 32 << 10;

/// An open directory.
pub struct Directory(File);

/// A name in a directory.
pub struct Entry {
    /// One path component.
    pub name: OsString,
    /// The inode number, to sort by.
    pub inode: u64,
    /// Unknown on filesystems that do not report it.
    pub kind: FileType,
}

impl Directory {
    /// Opens the directory that `path` names. Symbolic links are followed, because the user named it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::from(fs::openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)))
    }

    /// Opens a directory in this one.
    pub fn open_directory(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(File::from(fs::openat(&self.0, name, flags, Mode::empty())?)))
    }

    /// Opens a file in this directory for reading. A FIFO does not block.
    pub fn open_file(&self, name: &OsStr, direct: bool) -> io::Result<File> {
        let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | direct;
        Ok(File::from(fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Creates a file without a name in this directory, with these permission bits less the umask. None if the filesystem
    /// cannot do that.
    pub fn create_unnamed(&self, mode: u32) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match fs::openat(&self.0, ".", flags, Mode::from_raw_mode(mode)).map_err(io::Error::from) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(e) => match e.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOSYS) => Ok(None),
                _ => Err(e),
            },
        }
    }

    /// Creates a file that must not exist, readable by its owner only.
    pub fn create_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Creates a directory with this mode, less the umask.
    pub fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    /// Attributes of a name in this directory; None if there is no such name.
    pub fn stat_entry(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads the next entries, about 1000 at a time, without `.` and `..`. An empty list is the end. Sets
    /// `position` to where they end.
    pub fn next_entries(&self, position: &mut u64) -> io::Result<Vec<Entry>> {
        let mut buffer = vec![MaybeUninit::uninit(); ENTRIES_BUFFER];
        let mut entries = Vec::new();
        while entries.is_empty() {
            let mut raw = RawDir::new(&self.0, &mut buffer);
            let mut any = false;
            while let Some(entry) = raw.next() {
                let entry = entry?;
                any = true;
                *position = entry.next_entry_cookie();
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    let name = OsString::from_vec(name.to_vec());
                    entries.push(Entry { name, inode: entry.ino(), kind: entry.file_type() });
                }
                if raw.is_buffer_empty() {
                    break;
                }
            }
            if !any {
                break;
            }
        }
        Ok(entries)
    }

    /// Continues at a position that [`Directory::next_entries`] returned, also of an earlier handle of this directory.
    pub fn seek(&self, position: u64) -> io::Result<()> {
        fs::seek(&self.0, SeekFrom::Start(position))?;
        Ok(())
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(OsString::from_vec(fs::readlinkat(&self.0, name, Vec::new())?.into_bytes()))
    }

    /// Gives an open file a name, through /proc/self/fd. Fails with EEXIST if the name exists.
    pub fn link_file(&self, file: &File, name: &OsStr) -> io::Result<()> {
        Ok(fs::linkat(CWD, super::fd_path(file), &self.0, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Gives the file that has a name in `other` a name in this directory, too.
    pub fn link_entry(&self, other: &Directory, old: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(fs::linkat(&other.0, old, &self.0, name, AtFlags::empty())?)
    }

    /// Renames an entry, and replaces the one that has the new name.
    pub fn rename(&self, old: &OsStr, new: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.0, old, &self.0, new)?)
    }

    /// Renames an entry. Fails with EEXIST if the new name exists.
    pub fn rename_new(&self, old: &OsStr, new: &OsStr) -> io::Result<()> {
        match fs::renameat_with(&self.0, old, &self.0, new, RenameFlags::NOREPLACE).map_err(io::Error::from) {
            Err(e) if is_unavailable(&e) || matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                // The call or the flag is not available. A link fails, too, if the name exists.
                self.link_entry(self, old, new)?;
                self.remove_file(old)
            }
            other => other,
        }
    }

    /// Removes a file.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// A path for an entry, by which calls that do not follow the last symbolic link stay in this directory.
    pub fn entry_path(&self, name: &OsStr) -> PathBuf {
        super::fd_path(&self.0).join(name)
    }

    /// The open directory, for its attributes.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The last component of a path as the user gave it: `.` and `..` are kept, trailing slashes are not.
pub fn last_component(path: &Path) -> &OsStr {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let start = bytes[..end].iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    OsStr::from_bytes(&bytes[start..end])
}
