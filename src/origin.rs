//! What the destination may know of the source: its name, what it is, how long.

use std::fs::{File, Metadata};
use std::path::PathBuf;

/// The source as it was when it was opened.
pub struct Origin {
    /// Its name in messages.
    pub name: PathBuf,
    /// Kind, mode, owner, timestamps.
    pub metadata: Metadata,
    /// The file, for its extended attributes.
    pub file: File,
    /// Bytes that the copy will have, if that is known.
    pub length: Option<u64>,
}
