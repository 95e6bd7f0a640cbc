//! The directories of both trees while they are open: where they are, and what is still to be done in them.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::Directory;

/// A path for messages, one component at each level, so that a deep tree does not cost a long path for each file.
pub struct Location {
    parent: Option<Arc<Location>>,
    name: OsString,
}

impl Location {
    /// A path as the user gave it.
    pub fn root(path: &Path) -> Arc<Self> {
        Arc::new(Self { parent: None, name: path.as_os_str().into() })
    }

    /// A name in this directory.
    pub fn child(self: &Arc<Self>, name: &OsStr) -> Arc<Self> {
        Arc::new(Self { parent: Some(self.clone()), name: name.into() })
    }

    /// The path of a name in this directory.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path().join(name)
    }

    /// The path.
    pub fn path(&self) -> PathBuf {
        let mut names = vec![&self.name];
        let mut location = self;
        while let Some(parent) = &location.parent {
            names.push(&parent.name);
            location = parent;
        }
        names.into_iter().rev().collect()
    }
}

impl Drop for Location {
    /// Without recursion: a chain may have thousands of levels.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut location) = parent.and_then(Arc::into_inner) {
            parent = location.parent.take();
        }
    }
}

/// An open directory of a source tree.
pub struct SourceDirectory {
    pub handle: Directory,
    pub location: Arc<Location>,
}

/// An open directory of the destination.
pub struct TargetDirectory {
    pub handle: Directory,
    pub location: Arc<Location>,
    pub parent: Option<Arc<TargetDirectory>>,
    /// It was created by this copy, so that nothing is in it but what this copy created.
    pub created: bool,
    /// The directory that it is a copy of, and its attributes when it was opened. None for a directory that only takes the
    /// copies.
    pub original: Option<(Arc<SourceDirectory>, Metadata)>,
    /// Files and directories in it that are not complete, and 1 while the walk is in it.
    unfinished: AtomicUsize,
}

impl TargetDirectory {
    /// A directory that the walk is in.
    pub fn new(
        handle: Directory,
        location: Arc<Location>,
        parent: Option<&Arc<TargetDirectory>>,
        created: bool,
        original: Option<(Arc<SourceDirectory>, Metadata)>,
    ) -> Arc<Self> {
        let parent = parent.map(|parent| {
            parent.expect_one_more();
            parent.clone()
        });
        Arc::new(Self { handle, location, parent, created, original, unfinished: AtomicUsize::new(1) })
    }

    /// One more file or directory in it is not complete.
    pub fn expect_one_more(&self) {
        self.unfinished.fetch_add(1, Ordering::AcqRel);
    }

    /// A file or directory in it is complete, or the walk has left it. Calls `complete` for each directory that is complete
    /// now: this one, its parent, and so on.
    pub fn one_less(self: Arc<Self>, complete: impl Fn(&TargetDirectory)) {
        let mut directory = Some(self);
        while let Some(current) = directory {
            if current.unfinished.fetch_sub(1, Ordering::AcqRel) > 1 {
                return;
            }
            complete(&current);
            directory = current.parent.clone();
        }
    }
}

impl Drop for TargetDirectory {
    /// Without recursion, like [`Location`].
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}
