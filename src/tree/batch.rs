//! Files that are complete but have no name yet. They become durable together, with one syncfs(2) for up to 4096 files,
//! and get their names afterwards.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Tree;
use super::directories::TargetDirectory;
use super::links::{Copy, Name, SharedCopy, lock};
use super::tally::add;
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::sys::{self, Replacement, replace_all};

/// A batch ends with this many files …
const MAX_FILES: usize = 4096;
/// … or with this many bytes in the page cache.
const MAX_BYTES: u64 = 8 << 20;

/// A complete file without a name.
pub struct Unnamed {
    pub file: File,
    pub directory: Arc<TargetDirectory>,
    pub name: OsString,
    /// Its path in the source, for messages.
    pub source: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes that are in the page cache until the batch is on the medium.
    pub cached: u64,
    /// Something has the name, or may have it.
    pub replaces: bool,
    /// The hidden name it has on filesystems that cannot create a file without one.
    pub hidden: Option<OsString>,
    /// For a file with several names.
    pub shared: Option<SharedCopy>,
}

/// The current batch.
pub struct Batch {
    max_files: usize,
    files: Mutex<Vec<Unnamed>>,
    bytes: AtomicU64,
}

impl Batch {
    /// An empty batch. Each file in it needs up to two of `max_open_files`.
    pub fn new(max_open_files: u64) -> Self {
        let max_files = usize::try_from(max_open_files / 8).unwrap_or(MAX_FILES).clamp(1, MAX_FILES);
        Self { max_files, files: Mutex::default(), bytes: AtomicU64::new(0) }
    }

    /// Adds a file. Returns the files to publish now, if the batch is full.
    fn add(&self, file: Unnamed) -> Option<Vec<Unnamed>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.fetch_add(file.cached, Ordering::Relaxed) + file.cached;
        files.push(file);
        (files.len() >= self.max_files || bytes >= MAX_BYTES).then(|| self.take(&mut files))
    }

    fn take(&self, files: &mut Vec<Unnamed>) -> Vec<Unnamed> {
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::take(files)
    }
}

impl Tree<'_> {
    /// Publishes a complete file with the next batch.
    pub fn publish_later(&self, file: Unnamed) {
        if let Some(full) = self.batch.add(file) {
            self.publish(full);
        }
    }

    /// Publishes what is in the current batch.
    pub fn publish_rest(&self) {
        let rest = self.batch.take(&mut self.batch.files.lock().unwrap_or_else(PoisonError::into_inner));
        self.publish(rest);
    }

    /// Makes the files durable, evicts them from the page cache, and gives them their names.
    fn publish(&self, files: Vec<Unnamed>) {
        if let Err((directory, e)) = self.sync(files.iter().map(|file| &file.directory)) {
            for file in files {
                let error = io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO));
                self.failed(&file, Error::io("syncing the filesystem of", &directory.location.path(), error));
            }
            return;
        }
        for file in files.iter().filter(|file| file.cached > 0) {
            if let Err(e) = sys::advise(&file.file, 0, 0, libc::POSIX_FADV_DONTNEED) {
                self.tally.note(&format!("pages of copied files may stay in the page cache: {e}"));
            }
        }
        files.iter().for_each(|file| self.cache.copied(&file.file));
        let (replacing, new): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.replaces);
        let mut taken = Vec::new();
        for file in new {
            if self.cleanup.is_abandoned() {
                return; // nothing gets a name after a signal
            }
            match self.name(&file) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !self.job.file.no_clobber => taken.push(file),
                result => self.published(file, result),
            }
        }
        // Another process has created these names meanwhile. The later one wins, as with cp.
        self.replace(replacing.into_iter().chain(taken).collect());
    }

    /// Gives a file a name that nothing has.
    fn name(&self, file: &Unnamed) -> io::Result<()> {
        let directory = &file.directory.handle;
        match &file.hidden {
            None => directory.link_file(&file.file, &file.name),
            Some(hidden) => directory.rename(hidden, &file.name),
        }
    }

    fn replace(&self, files: Vec<Unnamed>) {
        let temporary = |file: &Unnamed| hidden_name(&file.name);
        let replacements = files
            .iter()
            .filter(|file| file.hidden.is_none())
            .map(|file| Replacement::with_file(&file.directory.handle, &file.file, &temporary(file), &file.name));
        let mut results = match replacements.collect::<io::Result<Vec<_>>>() {
            Ok(replacements) => replace_all(&replacements).into_iter(),
            Err(_) => Vec::new().into_iter(),
        };
        for file in files {
            let result = match &file.hidden {
                Some(_) => self.name(&file),
                None => results.next().unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into())),
            };
            self.published(file, result);
        }
    }

    /// Counts a file that has its name, and gives it its other names.
    fn published(&self, file: Unnamed, result: io::Result<()>) {
        if let Err(e) = result {
            let name = file.directory.location.path_of(&file.name);
            return self.failed(&file, Error::io("naming", &name, e));
        }
        let Unnamed { directory, name, source, len, shared, .. } = file;
        add(&self.tally.files, 1);
        add(&self.tally.bytes, len);
        self.observer.event(Event::FileDone);
        if let Some(shared) = shared {
            let first = Name { directory: directory.clone(), name };
            let mut copy = lock(&shared);
            let others = if let Copy::Pending(names) = &mut *copy { std::mem::take(names) } else { Vec::new() };
            *copy = Copy::Published(first.clone());
            drop(copy);
            for other in others {
                let result = self.link(&first, &other);
                self.named_again(other, &source, result);
            }
        }
        self.leave(directory);
    }

    /// Gives a copy that has a name another one.
    pub fn link(&self, first: &Name, other: &Name) -> Result<()> {
        let path = other.directory.location.path_of(&other.name);
        let fail = |e| Error::io("linking", &path, e);
        let directory = &other.directory.handle;
        match directory.link_entry(&first.directory.handle, &first.name, &other.name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let existing = directory.stat_entry(&other.name).map_err(fail)?;
                let copy = first.directory.handle.stat_entry(&first.name).map_err(fail)?;
                let inode = |stat: &rustix::fs::Stat| (stat.st_dev, stat.st_ino);
                if existing.as_ref().map(inode) == copy.as_ref().map(inode) {
                    return Ok(()); // it is the copy already
                }
                let temporary = hidden_name(&other.name);
                directory.link_entry(&first.directory.handle, &first.name, &temporary).map_err(fail)?;
                directory.rename(&temporary, &other.name).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    /// Counts a further name of a copy.
    pub fn named_again(&self, other: Name, source: &std::path::Path, result: Result<()>) {
        match result {
            Ok(()) => {
                add(&self.tally.files, 1);
                self.observer.event(Event::FileDone);
            }
            Err(error) => self.report_failure(source.to_path_buf(), &error),
        }
        self.leave(other.directory);
    }

    fn failed(&self, file: &Unnamed, error: Error) {
        if let Some(hidden) = &file.hidden {
            let _ = file.directory.handle.remove_file(hidden); // the failure that is reported is the cause
        }
        self.report_failure(file.source.clone(), &error);
        self.fail_shared(file.shared.as_ref(), &file.source, &error);
        self.leave(file.directory.clone());
    }

    /// Reports the further names of a file that was not copied.
    pub fn fail_shared(&self, shared: Option<&SharedCopy>, source: &std::path::Path, error: &Error) {
        let Some(shared) = shared else { return };
        let copy = std::mem::replace(&mut *lock(shared), Copy::Failed);
        let Copy::Pending(names) = copy else { return };
        for name in names {
            self.report_failure(source.to_path_buf(), error);
            self.leave(name.directory);
        }
    }

    /// Waits until everything on the filesystems of these directories is on the medium.
    pub fn sync<'d>(
        &self,
        directories: impl Iterator<Item = &'d Arc<TargetDirectory>>,
    ) -> std::result::Result<(), (Arc<TargetDirectory>, io::Error)> {
        if !self.job.file.sync {
            return Ok(());
        }
        let mut filesystems: HashMap<u64, &Arc<TargetDirectory>> = HashMap::new();
        for directory in directories {
            let device = directory.handle.file().metadata().map_err(|e| (directory.clone(), e))?.dev();
            filesystems.insert(device, directory);
        }
        for directory in filesystems.into_values() {
            sys::sync_filesystem(directory.handle.file()).map_err(|e| (directory.clone(), e))?;
        }
        Ok(())
    }
}

/// A hidden name next to `name` that no other process uses.
pub fn hidden_name(name: &OsStr) -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = format!(".{:x}-{:x}.dio-cp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // File names have at most 255 bytes.
    let kept = &name.as_bytes()[..name.len().min(254 - unique.len())];
    OsStr::from_bytes(&[b".", kept, unique.as_bytes()].concat()).into()
}

/// The message for a signal: what was done, and how to continue.
pub fn interrupted(files: u64, found: u64, destination: &std::path::Path) -> String {
    format!(
        "{files} of {found} files found so far are complete in {}; repeat the command with -u to copy the rest",
        quoted(destination)
    )
}
