//! One entry of a tree: a file, small or large, a symbolic link, or a device node.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Stat};

use super::Tree;
use super::batch::{Unnamed, hidden_name};
use super::directories::{SourceDirectory, TargetDirectory};
use super::links::{self, Claim, Copy, Name, SharedCopy};
use super::tally::add;
use crate::destination::attributes;
use crate::direct::{AlignedBuffer, DirectPolicy};
use crate::error::{Error, Result, quoted};
use crate::event::Event;

/// An entry to copy.
pub struct Item {
    /// Its directory, and its name there.
    pub source: Arc<SourceDirectory>,
    pub name: OsString,
    /// Where the copy goes.
    pub target: Arc<TargetDirectory>,
    pub target_name: OsString,
    pub kind: FileType,
    /// A file that the user named, which may have been reached by way of a symbolic link.
    pub opened: Option<File>,
}

/// What became of an entry.
pub enum Outcome {
    /// It is complete.
    Done,
    /// There is nothing to do: -n, -u, or a socket.
    Skipped,
    /// It is complete except for its name.
    Complete(Box<Unnamed>),
    /// Another name of the same file is being copied, and this one follows.
    Waits,
}

impl Tree<'_> {
    /// Copies one entry. `buffer` is the thread's own.
    pub fn copy_entry(&self, item: &mut Item, buffer: &mut AlignedBuffer) -> Result<Outcome> {
        let path = item.target.location.path_of(&item.target_name);
        let existing = if item.target.created {
            None
        } else {
            item.target.handle.stat_entry(&item.target_name).map_err(|e| Error::io("opening", &path, e))?
        };
        if let Some(existing) = &existing {
            if FileType::from_raw_mode(existing.st_mode) == FileType::Directory {
                return Err(Error::failed("replacing", &path, "it is a directory, and a file cannot replace it"));
            }
            if self.job.file.no_clobber {
                return Ok(Outcome::Skipped);
            }
        }
        match item.kind {
            FileType::RegularFile => self.copy_file(item, existing.as_ref(), buffer),
            FileType::Symlink => self.copy_symlink(item, existing.as_ref()),
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.copy_node(item, existing.as_ref())
            }
            _ => {
                let socket = item.source.location.path_of(&item.name);
                self.observer.event(Event::Notice(&format!("{} is a socket and was skipped", quoted(&socket))));
                Ok(Outcome::Skipped)
            }
        }
    }

    fn copy_file(&self, item: &mut Item, existing: Option<&Stat>, buffer: &mut AlignedBuffer) -> Result<Outcome> {
        let source_path = item.source.location.path_of(&item.name);
        let opening = |e| Error::io("opening", &source_path, e);
        if let Some(existing) = existing.filter(|_| self.job.update) {
            let source = match &item.opened {
                Some(file) => Some(rustix::fs::fstat(file).map_err(|e| opening(e.into()))?),
                None => item.source.handle.stat_entry(&item.name).map_err(opening)?,
            };
            if source.is_some_and(|source| is_unchanged(&source, existing)) {
                return self.unchanged(item);
            }
        }
        let source = match item.opened.take() {
            Some(file) => file,
            None => self.open_source(item).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Error::failed("opening", &source_path, "it vanished before it was copied"),
                _ => opening(e),
            })?,
        };
        let metadata = source.metadata().map_err(opening)?;
        if !metadata.is_file() {
            return Err(Error::failed("opening", &source_path, "it was replaced by something that is not a file"));
        }
        let mut shared = None;
        if self.job.archive && metadata.nlink() > 1 {
            let name = || Name { directory: item.target.clone(), name: item.target_name.clone() };
            match self.links.claim((metadata.dev(), metadata.ino()), name) {
                Claim::First(copy) => shared = Some(copy),
                Claim::Waits => return Ok(Outcome::Waits),
                Claim::Link(first) => return self.link(&first, &name()).map(|()| self.count_done(0)),
                Claim::Failed => {
                    return Err(Error::failed("linking", &source_path, "the first name of the file was not copied"));
                }
            }
        }
        let result = self.fill(item, existing, &source, &metadata, buffer, shared.clone());
        if let Err(error) = &result {
            self.fail_shared(shared.as_ref(), &source_path, error);
        }
        result
    }

    /// Opens the source with O_DIRECT where the filesystem supports that.
    fn open_source(&self, item: &Item) -> io::Result<File> {
        let direct = self.job.file.direct != DirectPolicy::Never && !self.source_not_direct.load(Ordering::Relaxed);
        match item.source.handle.open_file(&item.name, direct) {
            Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) => {
                let file = item.source.handle.open_file(&item.name, false)?;
                self.source_not_direct.store(true, Ordering::Relaxed);
                Ok(file)
            }
            other => other,
        }
    }

    /// Copies the bytes and attributes of an open file to a new one without a name.
    fn fill(
        &self,
        item: &Item,
        existing: Option<&Stat>,
        source: &File,
        metadata: &Metadata,
        buffer: &mut AlignedBuffer,
        shared: Option<SharedCopy>,
    ) -> Result<Outcome> {
        let source_path = item.source.location.path_of(&item.name);
        let target_path = item.target.location.path_of(&item.target_name);
        let creating = |e| Error::io("creating", &target_path, e);
        let (file, hidden) = self.create(item).map_err(creating)?;
        let mut complete = Unnamed {
            file,
            directory: item.target.clone(),
            name: item.target_name.clone(),
            source: source_path.clone(),
            len: metadata.len(),
            cached: 0,
            replaces: existing.is_some(),
            hidden,
            shared,
        };
        let cached = self.cache.before(source);
        let result = self
            .copy_bytes(source, metadata, &mut complete, &target_path, buffer)
            .and_then(|()| self.set_attributes(&complete.file, &target_path, source, metadata, item, existing));
        if let Err(error) = result {
            if let Some(hidden) = &complete.hidden {
                let _ = item.target.handle.remove_file(hidden); // the failure that is reported is the cause
            }
            return Err(error);
        }
        self.cache.after(source, cached);
        let now = source.metadata().map_err(|e| Error::io("reading", &source_path, e))?;
        let version = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec());
        if version(&now) != version(metadata) {
            let note = format!("{} changed during the copy; the copy may mix old and new data", quoted(&source_path));
            self.observer.event(Event::Notice(&note));
        }
        Ok(Outcome::Complete(Box::new(complete)))
    }

    /// A new file without a name, or with a hidden one.
    fn create(&self, item: &Item) -> io::Result<(File, Option<OsString>)> {
        if self.can_be_unnamed
            && let Some(file) = item.target.handle.create_unnamed()?
        {
            return Ok((file, None));
        }
        let hidden = hidden_name(&item.target_name);
        Ok((item.target.handle.create_file(&hidden)?, Some(hidden)))
    }

    /// Gives a new file its attributes: with -p or -a those of the source, otherwise those of the file that it replaces, or
    /// the source's mode.
    fn set_attributes(
        &self,
        file: &File,
        path: &Path,
        source: &File,
        metadata: &Metadata,
        item: &Item,
        existing: Option<&Stat>,
    ) -> Result<()> {
        if self.job.file.preserve {
            return attributes::preserve(file, path, source, metadata).map(|notes| self.note_all(path, &notes));
        }
        let replaced = existing.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if replaced.is_some() {
            attributes::keep_from(file, path, &item.target.handle.entry_path(&item.target_name))?;
        } else {
            let mode = metadata.mode() & 0o777 & !self.job.file.umask;
            file.set_permissions(Permissions::from_mode(mode)).map_err(|e| Error::io("creating", path, e))?;
        }
        if self.job.update {
            attributes::set_times(file, metadata).map_err(|e| Error::io("setting the timestamps of", path, e))?;
        }
        Ok(())
    }

    /// -u found nothing to copy. Further names of the file must still be linked to the copy.
    fn unchanged(&self, item: &Item) -> Result<Outcome> {
        add(&self.tally.unchanged, 1);
        if self.job.archive {
            let path = item.source.location.path_of(&item.name);
            let stat = item.source.handle.stat_entry(&item.name).map_err(|e| Error::io("opening", &path, e))?;
            if let Some(stat) = stat.filter(|stat| stat.st_nlink > 1) {
                let name = || Name { directory: item.target.clone(), name: item.target_name.clone() };
                match self.links.claim((stat.st_dev, stat.st_ino), name) {
                    Claim::First(copy) => {
                        let before = std::mem::replace(&mut *links::lock(&copy), Copy::Published(name()));
                        let others = if let Copy::Pending(names) = before { names } else { Vec::new() };
                        for other in others {
                            let result = self.link(&name(), &other);
                            self.named_again(other, &path, result);
                        }
                    }
                    Claim::Waits => return Ok(Outcome::Waits),
                    Claim::Link(first) => self.link(&first, &name())?,
                    Claim::Failed => {}
                }
            }
        }
        Ok(Outcome::Skipped)
    }

    /// Counts a complete entry.
    pub fn count_done(&self, bytes: u64) -> Outcome {
        add(&self.tally.files, 1);
        add(&self.tally.bytes, bytes);
        self.observer.event(Event::FileDone);
        Outcome::Done
    }
}

/// rsync's quick check: same size and modification time.
fn is_unchanged(source: &Stat, existing: &Stat) -> bool {
    FileType::from_raw_mode(existing.st_mode) == FileType::RegularFile
        && FileType::from_raw_mode(source.st_mode) == FileType::RegularFile
        && source.st_size == existing.st_size
        && (source.st_mtime, source.st_mtime_nsec) == (existing.st_mtime, existing.st_mtime_nsec)
}
