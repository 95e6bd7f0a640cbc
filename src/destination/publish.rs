//! All or nothing: a new file has no name while it is written, and gets its final name when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::target::Target;
use crate::cleanup::{Cleanup, Temporary};
use crate::direct::{self, DirectPolicy};
use crate::error::{Error, Result, quoted};
use crate::sys;

/// A new file without its final name.
pub struct Unpublished {
    pub file: File,
    /// Why it is open without O_DIRECT, if the filesystem refused that.
    pub refused: Option<String>,
    /// Its hidden name, if it has one.
    pub temporary: Option<PathBuf>,
}

/// The directory of `path`; "." if it names none.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates the file that will become the target. Where the filesystem supports it, the file has no name (`O_TMPFILE`), so
/// nothing can be left behind. Elsewhere it has a hidden name next to the target, and only its owner may open it.
pub fn create(target: &Target, mode: u32, policy: DirectPolicy, cleanup: &Cleanup) -> Result<Unpublished> {
    let create = || {
        let created = match unnamed(&target.path, mode, policy)? {
            Some(created) => created,
            None => named(&target.path, policy)?,
        };
        let temporary = Temporary { path: created.temporary.clone(), keep: None };
        Ok((created, temporary))
    };
    cleanup.build(&target.name, target.exists(), create).map_err(|e| creating(&target.name, e))
}

/// The error for a new file that could not be created.
pub fn creating(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::failed("creating", path, "the directory does not exist")
            .hint(format!("mkdir -p {}", quoted(directory_of(path)))),
        _ => Error::io("creating", path, error),
    }
}

fn unnamed(path: &Path, mode: u32, policy: DirectPolicy) -> io::Result<Option<Unpublished>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(mode);
    match direct::open(directory_of(path), &options, libc::O_TMPFILE, policy) {
        // It gets its name by linkat(2), by way of /proc.
        Ok((file, _)) if !sys::fd_path(&file).exists() || !sys::can_link_unnamed() => Ok(None),
        Ok((file, refused)) => Ok(Some(Unpublished { file, refused, temporary: None })),
        Err(e) => match e.raw_os_error() {
            // The filesystem has no O_TMPFILE, or the kernel takes the directory for the file to open.
            Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOSYS) => Ok(None),
            _ => Err(e),
        },
    }
}

fn named(path: &Path, policy: DirectPolicy) -> io::Result<Unpublished> {
    loop {
        let temporary = temporary_name(path);
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(file) => {
                let refused = set_direct(&file, policy);
                return Ok(Unpublished { file, refused, temporary: Some(temporary) });
            }
        }
    }
}

/// Sets O_DIRECT unless `policy` forbids it. Some filesystems create a file and then refuse the flag, so it is set after
/// the open. Returns why the filesystem refused it, if it did.
pub fn set_direct(file: &File, policy: DirectPolicy) -> Option<String> {
    if policy == DirectPolicy::Never {
        return None;
    }
    sys::set_direct(file, true).err().map(|e| format!("the filesystem does not support O_DIRECT ({e})"))
}

/// A hidden path next to `path` that no other process uses.
fn temporary_name(path: &Path) -> PathBuf {
    directory_of(path).join(hidden_name(path.file_name().unwrap_or(OsStr::new(""))))
}

/// A hidden name for a file that is to be called `name`. No other process uses it, and none has used it before: in a
/// container, every copy may have the same process ID.
pub fn hidden_name(name: &OsStr) -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let unique = format!(".{:x}-{now:x}-{:x}.dio-cp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // File names have at most 255 bytes.
    let kept = &name.as_bytes()[..name.len().min(254 - unique.len())];
    OsStr::from_bytes(&[b".", kept, unique.as_bytes()].concat()).into()
}

/// Gives the finished file its final name, after a call to `last`. With `exclusive`, fails if the name exists.
pub fn publish(
    file: &File,
    temporary: Option<&Path>,
    target: &Target,
    exclusive: bool,
    last: impl FnOnce() -> io::Result<()>,
    cleanup: &Cleanup,
) -> Result<()> {
    let (path, name) = (&target.path, &target.name);
    let give_name = || match temporary {
        Some(temporary) if exclusive => rename_exclusive(temporary, path),
        Some(temporary) => std::fs::rename(temporary, path),
        None if target.exists() => sys::link_over(file, &temporary_name(path), path),
        None => match sys::link(file, path) {
            // Another process has created it in the meantime. Without -n, the later one wins, as with cp.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !exclusive => {
                sys::link_over(file, &temporary_name(path), path)
            }
            other => other,
        },
    };
    cleanup.publish(|| last().and_then(|()| give_name())).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists if exclusive => Error::failed(
            "creating",
            name,
            "it was created by another process during the copy, and must not be replaced",
        ),
        _ => Error::io("naming", name, e),
    })
}

fn rename_exclusive(temporary: &Path, path: &Path) -> io::Result<()> {
    match sys::rename_new(temporary, path) {
        Err(e) if sys::is_unavailable(&e) || matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            // The call or the flag is not available. A link fails, too, if the name exists.
            std::fs::hard_link(temporary, path)?;
            std::fs::remove_file(temporary)
        }
        other => other,
    }
}

/// Waits until the name is on the medium. `file` is any file on the same filesystem.
pub fn sync_directory(target: &Target, file: &File) -> Result<()> {
    let directory = directory_of(&target.path);
    let result = match File::open(directory) {
        Ok(opened) => opened.sync_all(),
        // The user may write to the directory but not read it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => sys::sync_filesystem(file),
        Err(e) => Err(e),
    };
    match result {
        // The filesystem has nothing to sync.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(()),
        other => other.map_err(|e| Error::io("syncing the directory of", &target.name, e)),
    }
}
