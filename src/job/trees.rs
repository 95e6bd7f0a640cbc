//! The description of a copy of several files or trees.

use std::path::PathBuf;

use super::{Endpoint, Job};

/// How DST is understood when several files or trees are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TargetRule {
    /// An existing directory takes the sources; anything else is the name of the copy.
    #[default]
    Auto,
    /// It must be a directory (-t).
    Directory,
    /// It is the name of the copy, even if it is a directory (-T).
    Name,
}

/// Several files or trees to copy. Everything [`copy_tree`](crate::copy_tree()) needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeJob {
    /// Options for every file. Its source and destination are not used.
    pub file: Job,
    /// The sources, in order: paths and URLs.
    pub sources: Vec<Endpoint>,
    /// The destination.
    pub destination: PathBuf,
    /// How the destination is understood.
    pub target: TargetRule,
    /// Copy directories with all that is in them.
    pub recursive: bool,
    /// Keep hard links inside the trees; symbolic links among the sources are copied as such.
    pub archive: bool,
    /// Skip files whose copy has the same size and modification time.
    pub update: bool,
    /// Do not enter other filesystems.
    pub one_file_system: bool,
    /// Patterns of names to leave out, in gitignore's syntax.
    pub exclude: Vec<String>,
}
