//! Walks a source tree and makes the directories of the copy. One level of the stack is one open directory of each tree;
//! entries are read about a thousand at a time, so that memory does not grow with the number of files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rustix::fs::FileType;

use super::Tree;
use super::directories::{SourceDirectory, TargetDirectory};
use super::files::Item;
use super::tally::add;
use crate::destination::attributes;
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::sys::{Directory, Entry};

/// A directory of the source and its copy, with the entries that are read and not yet visited.
struct Level {
    source: Arc<SourceDirectory>,
    target: Arc<TargetDirectory>,
    entries: std::vec::IntoIter<Entry>,
    /// Path below the root of the tree, for --exclude.
    below_root: std::path::PathBuf,
}

impl Tree<'_> {
    /// Copies what is in a directory. Files go to `queue`.
    pub fn walk(&self, source: Arc<SourceDirectory>, target: Arc<TargetDirectory>, queue: &SyncSender<Item>) {
        let device = source.handle.file().metadata().map_or(0, |metadata| metadata.dev());
        let level = |source, target, below_root| Level { source, target, entries: Vec::new().into_iter(), below_root };
        let mut stack = vec![level(source, target, std::path::PathBuf::new())];
        while let Some(top) = stack.last_mut() {
            if self.cleanup.is_abandoned() {
                return;
            }
            let Some(entry) = top.entries.next() else {
                match self.read_entries(top) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => self.report_failure(top.source.location.path(), &error),
                }
                if let Some(Level { target, .. }) = stack.pop() {
                    self.leave(target);
                }
                continue;
            };
            match self.visit(top, &entry, device, queue) {
                Ok(Some((source, target))) => {
                    let below_root = top.below_root.join(&entry.name);
                    stack.push(level(source, target, below_root));
                }
                Ok(None) => {}
                Err(error) => self.report_failure(top.source.location.path_of(&entry.name), &error),
            }
        }
    }

    /// Reads the next entries of a directory, in the order of their inodes, which is about their order on the disk. False at
    /// the end.
    fn read_entries(&self, level: &mut Level) -> Result<bool> {
        let entries = level.source.handle.next_entries();
        let mut entries = entries.map_err(|e| Error::io("reading", &level.source.location.path(), e))?;
        entries.sort_by_key(|entry| entry.inode);
        let any = !entries.is_empty();
        level.entries = entries.into_iter();
        Ok(any)
    }

    /// Queues a file, or returns a directory to descend into.
    fn visit(
        &self,
        level: &Level,
        entry: &Entry,
        device: u64,
        queue: &SyncSender<Item>,
    ) -> Result<Option<(Arc<SourceDirectory>, Arc<TargetDirectory>)>> {
        let path = || level.source.location.path_of(&entry.name);
        let mut kind = entry.kind;
        if kind == FileType::Unknown {
            let stat = level.source.handle.stat_entry(&entry.name).map_err(|e| Error::io("opening", &path(), e))?;
            let Some(stat) = stat else { return Err(Error::failed("opening", &path(), "it vanished")) };
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        if self.exclude.matched(level.below_root.join(&entry.name), kind == FileType::Directory).is_ignore() {
            return Ok(None);
        }
        if kind != FileType::Directory {
            self.queue(queue, level.source.clone(), entry.name.clone(), level.target.clone(), entry.name.clone(), kind);
            return Ok(None);
        }
        let handle = level.source.handle.open_directory(&entry.name).map_err(|e| Error::io("opening", &path(), e))?;
        let metadata = handle.file().metadata().map_err(|e| Error::io("opening", &path(), e))?;
        if self.is_target_root(&metadata) {
            return Err(Error::failed(
                "copying",
                &path(),
                "it is the copy itself: a tree cannot be copied into itself",
            ));
        }
        let other_filesystem = self.job.one_file_system && metadata.dev() != device;
        let source = SourceDirectory { handle, location: level.source.location.child(&entry.name) };
        let (source, target) = self.make_directory(Arc::new(source), metadata, &level.target, &entry.name)?;
        if other_filesystem {
            self.leave(target); // an empty directory stands for the mount point, as with cp -x
            return Ok(None);
        }
        Ok(Some((source, target)))
    }

    /// Gives a file to the workers.
    pub fn queue(
        &self,
        queue: &SyncSender<Item>,
        source: Arc<SourceDirectory>,
        name: OsString,
        target: Arc<TargetDirectory>,
        target_name: OsString,
        kind: FileType,
    ) {
        add(&self.tally.found, 1);
        self.observer.event(Event::FileFound);
        target.expect_one_more();
        let item = Item { source, name, target, target_name, kind, opened: None };
        if let Err(refused) = queue.send(item) {
            self.leave(refused.0.target); // every worker has ended, which happens only after a signal
        }
    }

    /// Creates the copy of a directory, for its owner only until it is complete, or opens the directory that is there.
    pub fn make_directory(
        &self,
        source: Arc<SourceDirectory>,
        metadata: std::fs::Metadata,
        parent: &Arc<TargetDirectory>,
        name: &OsStr,
    ) -> Result<(Arc<SourceDirectory>, Arc<TargetDirectory>)> {
        let path = parent.location.path_of(name);
        let creating = |e| Error::io("creating", &path, e);
        // With -p only its owner may enter it until it has its attributes. Without, an interrupted copy leaves it usable.
        let mode = if self.job.file.preserve { 0o700 } else { metadata.mode() & 0o777 | 0o700 };
        let created = match parent.handle.create_directory(name, mode) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(creating(e)),
        };
        let handle = parent.handle.open_directory(name).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTDIR | libc::ELOOP) => {
                Error::failed("creating", &path, "it is not a directory, and a directory cannot replace it")
            }
            _ => creating(e),
        })?;
        if created {
            add(&self.tally.directories, 1);
        }
        let original = Some((source.clone(), metadata));
        let location = parent.location.child(name);
        Ok((source, TargetDirectory::new(handle, location, Some(parent), created, original)))
    }

    /// The walk, or a file, is done with this directory. Directories that are complete now get their attributes.
    pub fn leave(&self, directory: Arc<TargetDirectory>) {
        directory.one_less(|complete| {
            if let Err(error) = self.complete_directory(complete) {
                self.report_failure(complete.location.path(), &error);
            }
        });
    }

    fn complete_directory(&self, directory: &TargetDirectory) -> Result<()> {
        let Some((source, metadata)) = &directory.original else { return Ok(()) };
        let (path, file) = (directory.location.path(), directory.handle.file());
        if self.job.file.preserve {
            let notes = attributes::preserve(file, &path, source.handle.file(), metadata)?;
            self.note_all(&path, &notes);
        } else if directory.created {
            let mode = metadata.mode() & 0o777 & !self.job.file.umask;
            let permissions = std::fs::Permissions::from_mode(mode);
            file.set_permissions(permissions).map_err(|e| Error::io("setting the mode of", &path, e))?;
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

/// The directory that holds a path as the user gave it, opened.
pub fn parent_of(path: &Path) -> Result<(SourceDirectory, OsString)> {
    let name = crate::sys::last_component(path).to_os_string();
    let text = path.as_os_str().as_encoded_bytes();
    let end = text.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let parent = match text[..end].iter().rposition(|b| *b == b'/') {
        None => Path::new("."),
        Some(0) => Path::new("/"),
        Some(slash) => Path::new(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&text[..slash])),
    };
    let handle = Directory::open(parent).map_err(|e| Error::io("opening", parent, e))?;
    let location = if text[..end].contains(&b'/') { parent } else { Path::new("") };
    Ok((SourceDirectory { handle, location: super::directories::Location::root(location) }, name))
}
