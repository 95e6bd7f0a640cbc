//! Which name each source gets, by the rules of cp(1).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::directories::{OpenDirectories, TreeDirectory};
use super::targets::TargetDirectory;
use crate::error::{Error, Result, quoted};
use crate::job::{TargetRule, TreeJob};
use crate::sys::{Directory, last_component};

/// Where the copies go.
pub enum Place {
    /// Into this directory, each under the last component of its source.
    Into(Arc<TargetDirectory>),
    /// Under this name in this directory.
    As(Arc<TargetDirectory>, OsString),
}

impl Place {
    /// Finds out whether the destination is a directory that takes the copies, or the name of the one copy.
    pub fn of(job: &TreeJob, directories: &Arc<OpenDirectories>) -> Result<Self> {
        let destination = &job.destination;
        let fail = |e| Error::io("opening", destination, e);
        let into = |handle| directories.root(handle, destination).map_err(fail).map(|root| Place::Into(target(root)));
        let wants_directory = job.target == TargetRule::Directory || job.sources.len() > 1;
        if job.target != TargetRule::Name {
            match Directory::open(destination) {
                Ok(handle) => return into(handle),
                Err(e) if wants_directory => {
                    let error = match e.raw_os_error() {
                        Some(libc::ENOTDIR) => {
                            let why = format!("{} is not a directory, which several sources need", quoted(destination));
                            Error::usage(why)
                        }
                        Some(libc::ENOENT) => fail(e).hint(format!("mkdir {}", quoted(destination))),
                        _ => fail(e),
                    };
                    return Err(error);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(e) => return Err(fail(e)),
            }
        } else if wants_directory {
            return Err(Error::usage("-T copies one SRC to DST, and there are several"));
        }
        let (parent, name) =
            parent_of(destination, directories).map_err(|error| error.hint("create the directory first"))?;
        if name.is_empty() || name == "." || name == ".." {
            return into(Directory::open(destination).map_err(fail)?);
        }
        Ok(Place::As(target(parent), name))
    }

    /// The directory and the name for the copy of `source`.
    pub fn for_source(&self, source: &Path) -> (Arc<TargetDirectory>, OsString) {
        match self {
            Place::As(directory, name) => (directory.clone(), name.clone()),
            Place::Into(directory) => {
                let name = last_component(source);
                // cp -r DIR/.. DST and cp -r / DST copy what is in the directory, not the directory.
                let name = if name == ".." || name.is_empty() { OsStr::new(".") } else { name };
                (directory.clone(), name.to_os_string())
            }
        }
    }

    /// The directory and the name for the copy of a file: a symbolic link to a file is followed, as by cp.
    pub fn for_file(
        &self,
        source: &Path,
        job: &TreeJob,
        directories: &Arc<OpenDirectories>,
    ) -> Result<(Arc<TargetDirectory>, OsString)> {
        let destination = &job.destination;
        let fail = |e| Error::io("opening", destination, e);
        if matches!(self, Place::Into(_)) {
            return Ok(self.for_source(source));
        }
        if destination.as_os_str().as_bytes().ends_with(b"/") {
            return Err(fail(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        if !std::fs::symlink_metadata(destination).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(self.for_source(source));
        }
        let followed = match std::fs::canonicalize(destination) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why = "it is a symbolic link to a file that does not exist";
                let error = Error::failed("creating", destination, why);
                return Err(error.hint("delete the link, or name the file itself"));
            }
            other => other.map_err(fail)?,
        };
        let (parent, name) = parent_of(&followed, directories)?;
        Ok((target(parent), name))
    }

    /// Its directory.
    pub fn directory(&self) -> &Arc<TargetDirectory> {
        match self {
            Place::Into(directory) | Place::As(directory, _) => directory,
        }
    }
}

fn target(root: Arc<TreeDirectory>) -> Arc<TargetDirectory> {
    TargetDirectory::new(root, None, false, None)
}

/// The directory that holds a path as the user gave it, opened, and the name in it.
pub fn parent_of(path: &Path, directories: &Arc<OpenDirectories>) -> Result<(Arc<TreeDirectory>, OsString)> {
    let name = last_component(path).to_os_string();
    let text = path.as_os_str().as_encoded_bytes();
    let end = text.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let parent = match text[..end].iter().rposition(|b| *b == b'/') {
        None => Path::new(""),
        Some(0) => Path::new("/"),
        Some(slash) => Path::new(OsStr::from_bytes(&text[..slash])),
    };
    let opened = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let root = Directory::open(opened).and_then(|handle| directories.root(handle, parent));
    Ok((root.map_err(|e| Error::io("opening", opened, e))?, name))
}

/// True if the source, as the user named it, has to be followed to a directory: a trailing slash or dot says so.
pub fn names_a_directory(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || matches!(last_component(path).as_encoded_bytes(), b"." | b"..")
}
