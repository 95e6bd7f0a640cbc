//! The temporary file that an interrupted copy with --resume leaves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The extended attribute with the record of what is durable.
pub const ATTRIBUTE: &str = "user.dio-cp.partial";

/// The temporary file of a copy to `dst`.
pub fn partial(dst: &Path) -> PathBuf {
    dst.with_file_name(format!(".{}.partial.dio-cp", dst.file_name().unwrap().to_str().unwrap()))
}

/// The record of an interrupted copy of `src`, with this number of durable bytes.
pub fn record(src: &Path, durable: u64) -> Vec<u8> {
    let metadata = fs::metadata(src).unwrap();
    let source = serde_json::json!({
        "file": format!("{}:{}", metadata.dev(), metadata.ino()),
        "length": metadata.len().to_string(),
        "modification time": format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
        "change time": format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec()),
        "offset": "0",
        "number of bytes": metadata.len().to_string(),
    });
    serde_json::json!({ "durable": durable, "of": source }).to_string().into_bytes()
}

/// Creates the temporary file of a copy to `dst` with this record and this content.
pub fn create_partial(dst: &Path, record: &[u8], bytes: &[u8]) {
    let partial = partial(dst);
    super::write(&partial, bytes);
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)).unwrap();
    xattr::set(&partial, ATTRIBUTE, record).unwrap();
}
