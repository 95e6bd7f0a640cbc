//! What a tree consists of: every entry with its content and attributes, to compare trees and parts of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A tree, by path.
pub type Entries = BTreeMap<PathBuf, Entry>;

/// What is under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub content: Content,
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    File(Vec<u8>),
    Symlink(PathBuf),
    Directory,
    Fifo,
    Other,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(bytes) => write!(f, "file of {} bytes, {:?}…", bytes.len(), &bytes[..bytes.len().min(8)]),
            Self::Symlink(target) => write!(f, "symlink to {}", target.display()),
            Self::Directory => f.write_str("directory"),
            Self::Fifo => f.write_str("fifo"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// What `-a` preserves beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    pub extended: BTreeMap<std::ffi::OsString, Vec<u8>>,
    /// The first name of the same file, if it has several in the tree.
    pub same_as: Option<PathBuf>,
}

/// Every entry below `root` and `root` itself, by its path from there. Empty if there is no `root`.
pub fn manifest(root: &Path) -> Entries {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&path) };
        let Ok(metadata) = fs::symlink_metadata(&full) else { continue };
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            Content::File(fs::read(&full).unwrap())
        } else if kind.is_symlink() {
            Content::Symlink(fs::read_link(&full).unwrap())
        } else if kind.is_dir() {
            waiting.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            Content::Directory
        } else if kind.is_fifo() {
            Content::Fifo
        } else {
            Content::Other
        };
        let extended = xattr::list(&full).into_iter().flatten();
        let extended = extended.filter_map(|name| xattr::get(&full, &name).ok().flatten().map(|value| (name, value)));
        let attributes = Attributes {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            extended: if kind.is_symlink() { BTreeMap::new() } else { extended.collect() },
            same_as: None,
        };
        entries.insert(path, (Entry { content, attributes }, (metadata.dev(), metadata.ino(), metadata.nlink())));
    }
    let mut first = BTreeMap::new();
    let mut manifest = BTreeMap::new();
    for (path, (mut entry, (device, inode, links))) in entries {
        if links > 1 && entry.content != Content::Directory {
            entry.attributes.same_as = Some(first.entry((device, inode)).or_insert_with(|| path.clone()).clone());
        }
        manifest.insert(path, entry);
    }
    manifest
}

/// The first difference between two trees, in words.
pub fn difference(expected: &Entries, actual: &Entries) -> Option<String> {
    let name = |path: &Path| if path.as_os_str().is_empty() { ".".to_string() } else { path.display().to_string() };
    for (path, entry) in expected {
        match actual.get(path) {
            None => return Some(format!("{} is missing", name(path))),
            Some(other) if other != entry => return Some(format!("{}: {entry:?} became {other:?}", name(path))),
            Some(_) => {}
        }
    }
    actual.keys().find(|path| !expected.contains_key(*path)).map(|path| format!("{} should not be there", name(path)))
}
