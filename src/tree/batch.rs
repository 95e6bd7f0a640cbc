//! Files that are complete but have no name yet. They become durable together, with one syncfs(2) for up to 4096 files,
//! and get their names afterwards.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Tree;
use super::entry::Names;
use super::filesystem::Filesystem;
use super::links::{NamedCopy, SharedCopy};
use super::tally::add;
use crate::destination::hidden_name;
use crate::error::Error;
use crate::event::Event;
use crate::sys::{self, Replacement, replace_all};

/// A batch ends with this many files …
const MAX_FILES: usize = 4096;
/// … or with this many bytes in the page cache.
const MAX_BYTES: u64 = 8 << 20;

/// A complete file without a name.
pub struct Unnamed {
    pub file: File,
    pub names: Names,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes that are in the page cache until the batch is on the medium.
    pub cached: u64,
    /// It needs no sync before it gets its name: the filesystem makes no name durable before the content.
    pub ordered: bool,
    /// With --checksum.
    pub digest: Option<Vec<u8>>,
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
    /// An empty batch of up to an eighth of `max_open_files`: each worker may be publishing one while the next one is filled.
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
    /// Publishes a complete file, with the next batch if it has to be synced or replaces another one.
    pub fn publish_later(&self, file: Unnamed) {
        if file.ordered && !file.replaces {
            return self.publish(vec![file]);
        }
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
        if files.is_empty() {
            return;
        }
        let unordered = files.iter().filter(|file| !file.ordered);
        let unsynced = self.sync(unordered.map(|file| &file.names.target.directory.filesystem));
        let (mut replacing, mut new) = (Vec::new(), Vec::new());
        for file in files {
            let errno = unsynced.as_ref().err().and_then(io::Error::raw_os_error);
            let result = match &unsynced {
                Err(_) => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
                Ok(()) if self.job.file.sync && file.cached > 0 => sys::write_error(&file.file),
                Ok(()) => Ok(()),
            };
            if let Err(e) = result {
                self.failed(&file, &Error::io("syncing", &file.names.target_path(), e));
                continue;
            }
            self.evict(&file);
            if file.replaces { replacing.push(file) } else { new.push(file) }
        }
        for file in new {
            if self.cleanup.is_abandoned() {
                return; // nothing gets a name after a signal
            }
            match self.give_name(&file) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // Another process has created the name meanwhile. The later one wins, as with cp.
                    if self.job.file.no_clobber { self.left_alone(&file) } else { replacing.push(file) }
                }
                result => self.published(file, result),
            }
        }
        // A few at a time, for the directory of each is open meanwhile.
        while !replacing.is_empty() {
            let rest = replacing.split_off(replacing.len().min(self.batch.max_files.div_ceil(8)));
            self.replace(std::mem::replace(&mut replacing, rest));
        }
    }

    fn evict(&self, file: &Unnamed) {
        if file.cached > 0
            && let Err(e) = sys::advise(&file.file, 0, 0, libc::POSIX_FADV_DONTNEED)
        {
            self.tally.note(&format!("pages of copied files may stay in the page cache: {e}"));
        }
        self.cache.copied(&file.file);
    }

    /// Gives a file a name that nothing had.
    fn give_name(&self, file: &Unnamed) -> io::Result<()> {
        let (directory, name) = (file.names.target.directory.open()?, &file.names.target_name);
        match &file.hidden {
            None => directory.link_file(&file.file, name),
            Some(hidden) if self.job.file.no_clobber => directory.rename_new(hidden, name),
            // Some filesystems have neither exclusive renames nor links. The later one wins, as with cp.
            Some(hidden) => directory.rename(hidden, name),
        }
    }

    /// Gives files names that others have.
    fn replace(&self, files: Vec<Unnamed>) {
        if self.cleanup.is_abandoned() {
            return;
        }
        let mut unnamed = Vec::new();
        for file in files {
            match (file.names.target.directory.open(), &file.hidden) {
                (Ok(directory), None) => unnamed.push((file, directory)),
                (Ok(directory), Some(hidden)) => {
                    let result = directory.rename(hidden, &file.names.target_name);
                    self.published(file, result);
                }
                (Err(e), _) => self.published(file, Err(e)),
            }
        }
        let replacements = unnamed.iter().map(|(file, directory)| {
            let name = &file.names.target_name;
            Replacement::with_file(directory, &file.file, &hidden_name(name), name)
        });
        // No name from a directory has a NUL byte, which would be the only reason for an error here.
        let replacements: io::Result<Vec<_>> = replacements.collect();
        let mut results = replacements.map_or_else(|_| Vec::new(), |list| replace_all(&list)).into_iter();
        for (file, _) in unnamed {
            let result = results.next().map(|replaced| replaced.result);
            self.published(file, result.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into())));
        }
    }

    /// Counts a file that has its name, and gives it its other names.
    fn published(&self, file: Unnamed, result: io::Result<()>) {
        let target = file.names.target_path();
        if let Err(e) = result {
            return self.failed(&file, &Error::io("naming", &target, e));
        }
        let Unnamed { names, len, digest, hidden, shared, .. } = file;
        hidden.iter().for_each(|hidden| self.hidden.renamed(hidden));
        self.count_done(len);
        if let Some(digest) = &digest {
            self.observer.event(Event::Digest(&target, digest));
        }
        if let Some(shared) = shared {
            self.shared_copy_is_named(&shared, NamedCopy::new(&names, digest));
        }
        self.leave(&names.target);
    }

    /// Under -n: another process has created the file meanwhile.
    fn left_alone(&self, file: &Unnamed) {
        self.discard(file);
        add(&self.skipped, 1);
        if let Some(shared) = &file.shared {
            self.shared_copy_is_left_alone(shared, &file.names);
        }
        self.leave(&file.names.target);
    }

    fn failed(&self, file: &Unnamed, error: &Error) {
        self.discard(file);
        self.report_failure(file.names.source_path(), error);
        if let Some(shared) = &file.shared {
            self.shared_copy_failed(shared, error);
        }
        self.leave(&file.names.target);
    }

    /// Removes the hidden name of a file that gets no other.
    pub fn discard(&self, file: &Unnamed) {
        if let Some(hidden) = &file.hidden
            && let Err(e) = self.hidden.remove(hidden)
        {
            let directory = file.names.target.directory.path_of(hidden);
            self.observer.event(Event::Failure(&Error::io("removing", &directory, e).to_string()));
        }
    }

    /// Waits until everything on these filesystems is on the medium.
    pub fn sync<'f>(&self, filesystems: impl Iterator<Item = &'f Arc<Filesystem>>) -> io::Result<()> {
        if !self.job.file.sync {
            return Ok(());
        }
        let mut synced = Vec::new();
        for filesystem in filesystems {
            if !synced.contains(&filesystem.device) {
                filesystem.sync()?;
                synced.push(filesystem.device);
            }
        }
        Ok(())
    }
}
