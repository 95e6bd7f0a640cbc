//! What the destination may know about the source: its name, its file, its length, and how to recognize it again.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::path::PathBuf;

/// The source as it was when it was opened.
pub struct SourceInfo {
    /// Its name in messages.
    pub name: PathBuf,
    /// The file name of a copy in a directory.
    pub suggested_name: Option<SuggestedName>,
    /// The open file or stream and its attributes; None for a URL.
    pub file: Option<(File, Metadata)>,
    /// Bytes the copy will have, if known.
    pub length: Option<u64>,
    /// How a later run recognizes the same source; None if nothing identifies it.
    pub identity: Option<Identity>,
}

impl SourceInfo {
    /// The open file, if it is a regular file or a block device: one that has pages and lies on a disk.
    pub fn stored_file(&self) -> Option<&File> {
        use std::os::unix::fs::FileTypeExt;
        let stored = |metadata: &Metadata| metadata.is_file() || metadata.file_type().is_block_device();
        self.file.as_ref().filter(|(_, metadata)| stored(metadata)).map(|(file, _)| file)
    }
}

/// The part of a file that is copied, in bytes.
pub struct CopiedRange<'a> {
    /// The source file.
    pub file: &'a File,
    /// Offset of the first byte copied.
    pub start: u64,
    /// Number of bytes copied.
    pub len: u64,
}

/// A file name that the source suggests for its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuggestedName {
    /// One component of a path.
    pub name: OsString,
    /// A server chose it, and the user has not seen it.
    pub chosen_by_server: bool,
}

/// Pairs of an attribute and its value: ("length", "4096").
pub type Identity = Vec<(&'static str, String)>;
