//! Walks a source tree and makes the directories of the copy. One level of the stack is one open directory of each tree;
//! entries are read about a thousand at a time, so that memory does not grow with the number of files.

use std::ffi::OsStr;
use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError, Weak};

use rustix::fs::FileType;

use super::Tree;
use super::directories::TreeDirectory;
use super::entry::{Item, Names};
use super::tally::add;
use super::targets::TargetDirectory;
use crate::destination::attributes;
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::sys::{Directory, Entry};

/// A directory of the source and its copy, with the entries that are read and not yet visited.
struct Level {
    source: Arc<TreeDirectory>,
    target: Arc<TargetDirectory>,
    entries: std::vec::IntoIter<Entry>,
    /// Where reading the entries goes on, and in which handle it stopped: it may have been closed since.
    position: u64,
    read_from: Weak<Directory>,
    /// Path below the root of the tree, for --exclude.
    below_root: PathBuf,
}

impl Level {
    fn new(source: Arc<TreeDirectory>, target: Arc<TargetDirectory>, below_root: PathBuf) -> Self {
        Self { source, target, entries: Vec::new().into_iter(), position: 0, read_from: Weak::new(), below_root }
    }

    /// Reads the next entries, in the order of their inodes, which is about their order on the disk. False at the end.
    fn read_entries(&mut self) -> io::Result<bool> {
        let handle = self.source.open()?;
        if self.position > 0 && !Weak::ptr_eq(&self.read_from, &Arc::downgrade(&handle)) {
            handle.seek(self.position)?;
        }
        self.read_from = Arc::downgrade(&handle);
        let mut entries = handle.next_entries(&mut self.position)?;
        entries.sort_by_key(|entry| entry.inode);
        self.entries = entries.into_iter();
        Ok(self.entries.len() > 0)
    }
}

impl Tree<'_> {
    /// Copies what is in a directory. Files go to `queue`.
    pub fn walk(&self, source: Arc<TreeDirectory>, target: Arc<TargetDirectory>, queue: &SyncSender<Item>) {
        let device = source.filesystem.device;
        let mut stack = vec![Level::new(source, target, PathBuf::new())];
        while let Some(top) = stack.last_mut() {
            if self.cleanup.is_abandoned() {
                return;
            }
            let Some(entry) = top.entries.next() else {
                match top.read_entries() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(e) => {
                        let path = top.source.path();
                        self.report_uncounted_failure(path.clone(), &Error::io("reading", &path, e));
                    }
                }
                if let Some(Level { target, .. }) = stack.pop() {
                    self.leave(&target);
                }
                continue;
            };
            match self.visit(top, &entry, device, queue) {
                Ok(Some((source, target))) => {
                    let below_root = top.below_root.join(&entry.name);
                    stack.push(Level::new(source, target, below_root));
                }
                Ok(None) => {}
                Err(error) => self.report_uncounted_failure(top.source.path_of(&entry.name), &error),
            }
        }
    }

    /// Queues a file, or returns a directory to descend into.
    fn visit(
        &self,
        level: &Level,
        entry: &Entry,
        device: u64,
        queue: &SyncSender<Item>,
    ) -> Result<Option<(Arc<TreeDirectory>, Arc<TargetDirectory>)>> {
        let path = || level.source.path_of(&entry.name);
        let opening = |e: io::Error| match e.raw_os_error() {
            Some(libc::ENOENT) => Error::failed("opening", &path(), "it vanished before it was copied"),
            Some(libc::ENOTDIR | libc::ELOOP) => {
                Error::failed("opening", &path(), "it was replaced by something that is not a directory")
            }
            _ => Error::io("opening", &path(), e),
        };
        let mut kind = entry.kind;
        if kind == FileType::Unknown {
            let stat = level.source.open().and_then(|source| source.stat_entry(&entry.name)).map_err(opening)?;
            let stat = stat.ok_or_else(|| opening(io::Error::from_raw_os_error(libc::ENOENT)))?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        if self.exclude.matched(level.below_root.join(&entry.name), kind == FileType::Directory).is_ignore() {
            return Ok(None);
        }
        if kind != FileType::Directory {
            let names = Names {
                source: level.source.clone(),
                source_name: entry.name.clone(),
                target: level.target.clone(),
                target_name: entry.name.clone(),
            };
            self.queue(queue, Item { names, kind, opened: None });
            return Ok(None);
        }
        let handle = level.source.open().and_then(|source| source.open_directory(&entry.name)).map_err(opening)?;
        let metadata = handle.file().metadata().map_err(opening)?;
        if self.is_target_root((metadata.dev(), metadata.ino())) {
            let why = "it is the copy itself: a tree cannot be copied into itself";
            return Err(Error::failed("copying", &path(), why));
        }
        let other_filesystem = self.job.one_file_system && metadata.dev() != device;
        let source = level.source.child(&entry.name, handle).map_err(opening)?;
        let target = self.make_directory(source.clone(), metadata, &level.target, &entry.name)?;
        if other_filesystem {
            self.leave(&target); // an empty directory stands for the mount point, as with cp -x
            return Ok(None);
        }
        Ok(Some((source, target)))
    }

    /// True for a directory that a tree is being copied to.
    fn is_target_root(&self, id: (u64, u64)) -> bool {
        self.target_roots.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Gives a file to the workers.
    pub fn queue(&self, queue: &SyncSender<Item>, item: Item) {
        add(&self.tally.found, 1);
        self.observer.event(Event::FileFound);
        item.names.target.expect_one_more();
        if let Err(refused) = queue.send(item) {
            self.leave(&refused.0.names.target); // every worker has ended, which happens only after a signal
        }
    }

    /// Creates the copy of a directory, for its owner only until it is complete, or opens the directory that is there.
    pub fn make_directory(
        &self,
        source: Arc<TreeDirectory>,
        metadata: Metadata,
        parent: &Arc<TargetDirectory>,
        name: &OsStr,
    ) -> Result<Arc<TargetDirectory>> {
        let path = parent.directory.path_of(name);
        let creating = |e| Error::io("creating", &path, e);
        let handle = parent.directory.open().map_err(creating)?;
        // With -p only its owner may enter it until it has its attributes. Without, an interrupted copy leaves it usable.
        let mode = if self.job.file.preserve { 0o700 } else { metadata.mode() & 0o777 | 0o700 };
        let created = match handle.create_directory(name, mode) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(creating(e)),
        };
        let opened = handle.open_directory(name).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTDIR | libc::ELOOP) => {
                Error::failed("creating", &path, "it is not a directory, and a directory cannot replace it")
            }
            _ => creating(e),
        })?;
        if created {
            add(&self.tally.directories, 1);
        }
        let directory = parent.directory.child(name, opened).map_err(creating)?;
        Ok(TargetDirectory::new(directory, Some(parent), created, Some((source, metadata))))
    }

    /// The walk, or a file, is done with this directory. Directories that are complete now get their attributes.
    pub fn leave(&self, directory: &Arc<TargetDirectory>) {
        directory.one_less(|complete| {
            if let Err(error) = self.complete_directory(complete) {
                self.report_uncounted_failure(complete.directory.path(), &error);
            }
        });
    }

    fn complete_directory(&self, target: &TargetDirectory) -> Result<()> {
        let Some((source, metadata)) = &target.original else { return Ok(()) };
        if !self.job.file.preserve && !target.created {
            return Ok(());
        }
        let path = target.directory.path();
        let fail = |e| Error::io("setting the attributes of", &path, e);
        let directory = target.directory.open().map_err(fail)?;
        if self.job.file.preserve {
            let source = source.open().map_err(fail)?;
            let notes = attributes::preserve(directory.file(), &path, source.file(), metadata)?;
            self.note_all(&path, &notes);
        } else {
            let mode = metadata.mode() & 0o777 & !self.job.file.umask;
            directory.file().set_permissions(Permissions::from_mode(mode)).map_err(fail)?;
        }
        Ok(())
    }

    /// Counts notes about attributes that could not be preserved. They would be the same for every file.
    pub fn note_all(&self, path: &Path, notes: &[String]) {
        for note in notes {
            self.tally.note(&note.replace(&quoted(path), "files"));
        }
    }
}
