//! An entry to copy: a name in the source, and the name of its copy.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;

use super::directories::TreeDirectory;
use super::targets::TargetDirectory;

/// A name in the source, and the name of its copy.
#[derive(Clone)]
pub struct Names {
    pub source: Arc<TreeDirectory>,
    pub source_name: OsString,
    pub target: Arc<TargetDirectory>,
    pub target_name: OsString,
}

impl Names {
    /// The path of the source, for messages.
    pub fn source_path(&self) -> PathBuf {
        self.source.path_of(&self.source_name)
    }

    /// The path of the copy, for messages.
    pub fn target_path(&self) -> PathBuf {
        self.target.directory.path_of(&self.target_name)
    }
}

/// An entry for the workers.
pub struct Item {
    pub names: Names,
    pub kind: FileType,
    /// A file that the user named, which may have been reached by way of a symbolic link.
    pub opened: Option<File>,
}
