//! What the destination may know of the source: its name, what it is, how long, and how to know it
//! again.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::path::PathBuf;

/// The source as it was when it was opened.
pub struct SourceInfo {
    /// Its name in messages.
    pub name: PathBuf,
    /// The name that a copy gets in a directory.
    pub suggested_name: Option<SuggestedName>,
    /// The file or stream, for its attributes; None: it is no file.
    pub file: Option<(File, Metadata)>,
    /// Bytes that the copy will have, if that is known.
    pub length: Option<u64>,
    /// By what a later copy can tell that it is still the same; None: by nothing.
    pub identity: Option<Identity>,
}

/// A file name that comes with the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuggestedName {
    /// One component of a path.
    pub name: OsString,
    /// The user did not see it: a server chose it.
    pub chosen_by_server: bool,
}

/// Pairs of what and which: ("length", "4096").
pub type Identity = Vec<(&'static str, String)>;
