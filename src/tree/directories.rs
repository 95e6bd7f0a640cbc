//! The directories of both trees: where they are, and how to reach them. Not all of them are open at once: a tree may have
//! more directories on the way to one file than a process may have open files.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::filesystem::Filesystem;
use crate::sys::Directory;

/// How many directories to keep open, if the limit on open files allows it.
const MAX_OPEN: usize = 1024;

/// A directory of one of the trees.
pub struct TreeDirectory {
    parent: Option<Arc<TreeDirectory>>,
    /// Its name in the parent. For a root, the path as the user gave it.
    name: OsString,
    /// Device and inode number, by which it is recognized when it is opened again.
    id: (u64, u64),
    pub filesystem: Arc<Filesystem>,
    open_directories: Arc<OpenDirectories>,
    /// None while it is closed. A root is never closed.
    handle: Mutex<Option<Arc<Directory>>>,
}

/// The directories that are open, and the filesystems they are on.
pub struct OpenDirectories {
    max: usize,
    /// In the order in which they were opened.
    open: Mutex<VecDeque<Weak<TreeDirectory>>>,
    filesystems: Mutex<HashMap<u64, Arc<Filesystem>>>,
}

impl OpenDirectories {
    /// Nothing is open yet. Uses up to a quarter of `max_open_files`.
    pub fn new(max_open_files: u64) -> Arc<Self> {
        let max = usize::try_from(max_open_files / 4).unwrap_or(MAX_OPEN).clamp(2, MAX_OPEN);
        Arc::new(Self { max, open: Mutex::default(), filesystems: Mutex::default() })
    }

    /// Takes the root of a tree. `path` is its path in messages.
    pub fn root(self: &Arc<Self>, handle: Directory, path: &Path) -> io::Result<Arc<TreeDirectory>> {
        self.insert(None, path.as_os_str(), handle)
    }

    fn insert(
        self: &Arc<Self>,
        parent: Option<&Arc<TreeDirectory>>,
        name: &OsStr,
        handle: Directory,
    ) -> io::Result<Arc<TreeDirectory>> {
        let metadata = handle.file().metadata()?;
        let id = (metadata.dev(), metadata.ino());
        let filesystem = match parent.map(|parent| &parent.filesystem) {
            Some(filesystem) if filesystem.device == id.0 => filesystem.clone(),
            _ => self.filesystem(id.0, &handle)?,
        };
        let directory = Arc::new(TreeDirectory {
            parent: parent.cloned(),
            name: name.into(),
            id,
            filesystem,
            open_directories: self.clone(),
            handle: Mutex::new(Some(Arc::new(handle))),
        });
        if parent.is_some() {
            self.opened(&directory);
        }
        Ok(directory)
    }

    fn filesystem(&self, device: u64, directory: &Directory) -> io::Result<Arc<Filesystem>> {
        let mut filesystems = lock(&self.filesystems);
        if let Some(known) = filesystems.get(&device) {
            return Ok(known.clone());
        }
        let filesystem = Arc::new(Filesystem::of(device, directory)?);
        filesystems.insert(device, filesystem.clone());
        Ok(filesystem)
    }

    /// The filesystems of the copy.
    pub fn filesystems_written(&self) -> Vec<Arc<Filesystem>> {
        lock(&self.filesystems).values().filter(|filesystem| filesystem.written.is_set()).cloned().collect()
    }

    /// Closes the directories that were opened first if there are too many. A thread that uses one keeps it open.
    fn opened(&self, directory: &Arc<TreeDirectory>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(directory));
        while open.len() > self.max {
            if let Some(oldest) = open.pop_front().and_then(|oldest| oldest.upgrade()) {
                lock(&oldest.handle).take();
            }
        }
    }
}

impl TreeDirectory {
    /// Takes a directory in this one.
    pub fn child(self: &Arc<Self>, name: &OsStr, handle: Directory) -> io::Result<Arc<Self>> {
        self.open_directories.insert(Some(self), name, handle)
    }

    /// The directory, open. Opens it again if it was closed: from the nearest directory above that is open, and only if it is
    /// still the same.
    pub fn open(self: &Arc<Self>) -> io::Result<Arc<Directory>> {
        let mut closed = Vec::new();
        let mut directory = self;
        let mut handle = loop {
            if let Some(handle) = lock(&directory.handle).clone() {
                break handle;
            }
            closed.push(directory);
            match &directory.parent {
                Some(parent) => directory = parent,
                None => return Err(io::ErrorKind::NotFound.into()), // a root is never closed
            }
        };
        while let Some(directory) = closed.pop() {
            handle = Arc::new(handle.open_directory(&directory.name)?);
            let metadata = handle.file().metadata()?;
            if (metadata.dev(), metadata.ino()) != directory.id {
                return Err(io::Error::other("its directory was moved or replaced during the copy"));
            }
            // Of a long path, only the last directories stay open: otherwise the paths in both trees would keep closing each
            // other's.
            if closed.len() < self.open_directories.max / 4 + 1 {
                *lock(&directory.handle) = Some(handle.clone());
                self.open_directories.opened(directory);
            }
        }
        Ok(handle)
    }

    /// Device and inode number.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// The path of a name in this directory, for messages.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path().join(name)
    }

    /// The path, for messages. Each directory has only its own name, so that a deep tree does not cost a long path for each
    /// file.
    pub fn path(&self) -> PathBuf {
        let mut names = vec![&self.name];
        let mut directory = self;
        while let Some(parent) = &directory.parent {
            names.push(&parent.name);
            directory = parent;
        }
        names.into_iter().rev().collect()
    }
}

impl Drop for TreeDirectory {
    /// Without recursion: a chain may have thousands of levels.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
