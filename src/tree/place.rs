//! Which name each source gets, by the rules of cp(1).

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use super::directories::{Location, TargetDirectory};
use super::walk::parent_of;
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
    pub fn of(job: &TreeJob) -> Result<Self> {
        let destination = &job.destination;
        let wants_directory = job.target == TargetRule::Directory || job.sources.len() > 1;
        if job.target != TargetRule::Name {
            match Directory::open(destination) {
                Ok(handle) => return Ok(Place::Into(target_root(handle, destination))),
                Err(e) if wants_directory => {
                    let error = match e.raw_os_error() {
                        Some(libc::ENOTDIR) => {
                            let why = format!("{} is not a directory, which several sources need", quoted(destination));
                            Error::usage(why)
                        }
                        Some(libc::ENOENT) => {
                            Error::io("opening", destination, e).hint(format!("mkdir {}", quoted(destination)))
                        }
                        _ => Error::io("opening", destination, e),
                    };
                    return Err(error);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(e) => return Err(Error::io("opening", destination, e)),
            }
        } else if wants_directory {
            return Err(Error::usage("-T copies one SRC to DST, and there are several"));
        }
        let (parent, name) = parent_of(destination).map_err(|error| error.hint("create the directory first"))?;
        if name.is_empty() || name == "." || name == ".." {
            let handle = Directory::open(destination).map_err(|e| Error::io("opening", destination, e))?;
            return Ok(Place::Into(target_root(handle, destination)));
        }
        let target = TargetDirectory::new(parent.handle, parent.location.clone(), None, false, None);
        Ok(Place::As(target, name))
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

    /// Its directory.
    pub fn directory(&self) -> &Arc<TargetDirectory> {
        match self {
            Place::Into(directory) | Place::As(directory, _) => directory,
        }
    }
}

fn target_root(handle: Directory, path: &Path) -> Arc<TargetDirectory> {
    TargetDirectory::new(handle, Location::root(path), None, false, None)
}

/// True if the source, as the user named it, has to be followed to a directory: a trailing slash or dot says so.
pub fn names_a_directory(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || matches!(last_component(path).as_encoded_bytes(), b"." | b"..")
}
