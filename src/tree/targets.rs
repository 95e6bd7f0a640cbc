//! The directories of the copy, and what is still to be done in them before they get their attributes.

use std::fs::Metadata;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::directories::TreeDirectory;

/// A directory of the copy.
pub struct TargetDirectory {
    pub directory: Arc<TreeDirectory>,
    parent: Option<Arc<TargetDirectory>>,
    /// It was created by this copy, so that nothing is in it but what this copy created.
    pub created: bool,
    /// The directory that it is a copy of, and its attributes when it was opened. None for a directory that only takes the
    /// copies.
    pub original: Option<(Arc<TreeDirectory>, Metadata)>,
    /// Files and directories in it that are not complete, and 1 while the walk is in it.
    unfinished: AtomicUsize,
}

impl TargetDirectory {
    /// A directory that the walk is in.
    pub fn new(
        directory: Arc<TreeDirectory>,
        parent: Option<&Arc<TargetDirectory>>,
        created: bool,
        original: Option<(Arc<TreeDirectory>, Metadata)>,
    ) -> Arc<Self> {
        directory.filesystem.written.set();
        let parent = parent.map(|parent| {
            parent.expect_one_more();
            parent.clone()
        });
        Arc::new(Self { directory, parent, created, original, unfinished: AtomicUsize::new(1) })
    }

    /// One more file or directory in it is not complete.
    pub fn expect_one_more(&self) {
        self.unfinished.fetch_add(1, Ordering::AcqRel);
    }

    /// A file or directory in it is complete, or the walk has left it. Calls `complete` for each directory that is complete
    /// now: this one, its parent, and so on.
    pub fn one_less(self: &Arc<Self>, complete: impl Fn(&TargetDirectory)) {
        let mut directory = Some(self);
        while let Some(current) = directory {
            if current.unfinished.fetch_sub(1, Ordering::AcqRel) > 1 {
                return;
            }
            complete(current);
            directory = current.parent.as_ref();
        }
    }
}

impl Drop for TargetDirectory {
    /// Without recursion: a chain may have thousands of levels.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}
