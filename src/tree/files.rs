//! One entry of a tree: a file, small or large, a symbolic link, or a device node.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, Stat};

use super::Tree;
use super::batch::{Unnamed, hidden_name};
use super::directories::{SourceDirectory, TargetDirectory};
use super::links::{Claim, Name, SharedCopy};
use super::tally::add;
use crate::copy::{OpenFiles, copy_open_files};
use crate::destination::attributes;
use crate::direct::{AlignedBuffer, DirectPolicy, Traffic};
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::job::{Job, Reflink, Sparse};
use crate::sys::{self, Replacement, replace_all};

/// Files of up to this many bytes are read whole, and written through the page cache with many others. Larger ones are
/// copied like single files.
pub const MAX_SMALL: u64 = 512 << 10;
/// Bytes of a small file's buffer: the largest small file, rounded up to whatever direct I/O requires.
pub const BUFFER_SIZE: usize = MAX_SMALL as usize + (64 << 10);
/// Direct reads have a multiple of this many bytes, which satisfies the alignment of almost every disk.
const READ_STEP: u64 = 4096;

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
        if let Some(existing) = existing.filter(|_| self.job.update && item.opened.is_none()) {
            let source = item.source.handle.stat_entry(&item.name).map_err(opening)?;
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
            return Err(Error::failed("opening", &source_path, "it was a file, and is none now"));
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
        let result = self
            .copy_bytes(source, metadata, &mut complete, &target_path, buffer)
            .and_then(|()| self.set_attributes(&complete.file, &target_path, source, metadata, item, existing));
        if let Err(error) = result {
            if let Some(hidden) = &complete.hidden {
                let _ = item.target.handle.remove_file(hidden); // the failure that is reported is the cause
            }
            return Err(error);
        }
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
        if self.can_be_unnamed {
            if let Some(file) = item.target.handle.create_unnamed()? {
                return Ok((file, None));
            }
        }
        let hidden = hidden_name(&item.target_name);
        Ok((item.target.handle.create_file(&hidden)?, Some(hidden)))
    }

    /// Clones or copies the bytes.
    fn copy_bytes(
        &self,
        source: &File,
        metadata: &Metadata,
        complete: &mut Unnamed,
        target_path: &Path,
        buffer: &mut AlignedBuffer,
    ) -> Result<()> {
        let job = &self.job.file;
        let len = metadata.len();
        if len == 0 {
            return Ok(());
        }
        let plain = job.direct == DirectPolicy::Auto && job.sparse == Sparse::Auto && !self.checks_content();
        if plain && job.reflink != Reflink::Never && !self.clone_refused.load(Ordering::Relaxed) {
            match sys::clone_range(source, 0, 0, &complete.file, 0) {
                Ok(()) => {
                    add(&self.tally.cloned, len);
                    self.observer.event(Event::Copied(len));
                    return Ok(());
                }
                Err(e) if job.reflink == Reflink::Always => return Err(Error::io("cloning", &complete.source, e)),
                Err(e) => {
                    if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY)) {
                        self.clone_refused.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        let has_holes = metadata.blocks() * 512 < len;
        let small = plain && len <= MAX_SMALL && !has_holes && !self.paced && job.reflink != Reflink::Always;
        if small && !self.source_not_direct.load(Ordering::Relaxed) && self.copy_small(source, len, complete, buffer)? {
            return Ok(());
        }
        self.copy_large(source, complete, target_path)
    }

    /// Reads a file past the page cache in one go, and writes it through the page cache, from which it is evicted when the
    /// batch is on the medium. False if the source refuses direct reads.
    fn copy_small(&self, source: &File, len: u64, complete: &mut Unnamed, buffer: &mut AlignedBuffer) -> Result<bool> {
        let wanted = (len + 1).next_multiple_of(READ_STEP) as usize; // one byte more shows whether the file has grown
        let read = match source.read_at(&mut buffer[..wanted], 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(false),
            other => other.map_err(|e| Error::io("reading", &complete.source, e))?,
        };
        if (read as u64) < len {
            let why = format!("it shrank from {len} to {read} bytes during the copy");
            return Err(Error::failed("reading", &complete.source, why));
        }
        let data = &buffer[..len as usize];
        let target = || complete.directory.location.path_of(&complete.name);
        complete.file.write_all_at(data, 0).map_err(|e| Error::io("writing", &target(), e))?;
        complete.cached = len;
        self.tally.transferred(
            Traffic { direct: len, ..Traffic::default() },
            Traffic { uncached: len, ..Traffic::default() },
        );
        self.observer.event(Event::Copied(len));
        Ok(true)
    }

    /// Copies a file like a single one: with several blocks in flight, checks, and limits.
    fn copy_large(&self, source: &File, complete: &mut Unnamed, target_path: &Path) -> Result<()> {
        let _turn = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let reopen = |file: &File| file.try_clone();
        let fail = |e| Error::io("opening", &complete.source, e);
        let files = OpenFiles {
            source: reopen(source).map_err(fail)?,
            source_name: &complete.source,
            destination: reopen(&complete.file).map_err(fail)?,
            destination_name: target_path,
            pace: &self.pace,
        };
        let job = Job { checksum: self.checksum_of(&complete.source, target_path)?, ..self.job.file.clone() };
        let report = copy_open_files(files, &job, &super::LargeFileObserver(self.observer), self.cleanup)?;
        complete.len = report.bytes;
        add(&self.tally.cloned, report.cloned);
        self.tally.transferred(report.source.traffic, report.destination.written.traffic);
        for note in &report.notes {
            if !note.starts_with("cloned:") {
                self.observer.event(Event::Notice(note));
            }
        }
        if let Some(digest) = &report.digest {
            self.observer.event(Event::Digest(target_path, &digest.bytes));
        }
        Ok(())
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
                    Claim::First(copy) => *super::links::lock(&copy) = super::links::Copy::Published(name()),
                    Claim::Waits => return Ok(Outcome::Waits),
                    Claim::Link(first) => self.link(&first, &name())?,
                    Claim::Failed => {}
                }
            }
        }
        Ok(Outcome::Skipped)
    }

    fn copy_symlink(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
        let source_path = item.source.location.path_of(&item.name);
        let path = item.target.location.path_of(&item.target_name);
        let reading = |e| Error::io("reading", &source_path, e);
        let stat = item.source.handle.stat_entry(&item.name).map_err(reading)?;
        let stat = stat.ok_or_else(|| Error::failed("reading", &source_path, "it vanished before it was copied"))?;
        let link = item.source.handle.read_link(&item.name).map_err(reading)?;
        let (directory, name) = (&item.target.handle, &item.target_name);
        let fail = |e| Error::io("creating", &path, e);
        let same = existing.is_some_and(|existing| FileType::from_raw_mode(existing.st_mode) == FileType::Symlink)
            && directory.read_link(name).is_ok_and(|old| old == link);
        if existing.is_none() {
            directory.create_symlink(&link, name).map_err(fail)?;
        } else if !same {
            let replacement = Replacement::with_symlink(directory, &link, &hidden_name(name), name).map_err(fail)?;
            replace_all(&[replacement]).into_iter().collect::<io::Result<()>>().map_err(fail)?;
        }
        if self.job.file.preserve {
            self.preserve_entry(item, &path, &stat)?;
        }
        Ok(self.count_done(0))
    }

    fn copy_node(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
        let source_path = item.source.location.path_of(&item.name);
        let path = item.target.location.path_of(&item.target_name);
        let fail = |e| Error::io("creating", &path, e);
        let stat = item.source.handle.stat_entry(&item.name).map_err(|e| Error::io("reading", &source_path, e))?;
        let stat = stat.ok_or_else(|| Error::failed("reading", &source_path, "it vanished before it was copied"))?;
        let (directory, name) = (&item.target.handle, &item.target_name);
        let same = existing.is_some_and(|existing| {
            let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
            kind(existing) == kind(&stat) && existing.st_rdev == stat.st_rdev
        });
        if !same {
            if existing.is_some() {
                directory.remove_file(name).map_err(fail)?;
            }
            directory.create_node(name, &stat).map_err(fail)?;
        }
        if self.job.file.preserve {
            self.preserve_entry(item, &path, &stat)?;
        }
        let mode =
            if self.job.file.preserve { stat.st_mode & 0o7777 } else { stat.st_mode & 0o777 & !self.job.file.umask };
        directory.set_entry_mode(name, mode).map_err(|e| Error::io("setting the mode of", &path, e))?;
        Ok(self.count_done(0))
    }

    /// Keeps the owner, extended attributes and timestamps of something that cannot be opened.
    fn preserve_entry(&self, item: &Item, path: &Path, stat: &Stat) -> Result<()> {
        let (directory, name) = (&item.target.handle, &item.target_name);
        let mut notes = Vec::new();
        let mut note = |attribute: &str, result: io::Result<()>| match result {
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
                notes.push(format!("the {attribute} of {} could not be preserved: {e}", quoted(path)));
                Ok(())
            }
            other => other.map_err(|e| Error::io(&format!("preserving the {attribute} of"), path, e)),
        };
        note("owner", directory.set_entry_owner(name, stat))?;
        let (from, to) = (item.source.handle.entry_path(&item.name), directory.entry_path(name));
        for attribute in xattr::list(&from).into_iter().flatten() {
            if let Some(value) = xattr::get(&from, &attribute).ok().flatten() {
                note(&format!("attribute {}", attribute.display()), xattr::set(&to, &attribute, &value))?;
            }
        }
        note("timestamps", directory.set_entry_times(name, stat))?;
        self.note_all(path, &notes);
        Ok(())
    }

    fn count_done(&self, bytes: u64) -> Outcome {
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
