//! One file of a tree: opened, or skipped because it is unchanged; filled; given its attributes.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FileType, Stat, fstat};

use super::batch::Unnamed;
use super::entry::{Item, Names};
use super::links::{Claim, NamedCopy, SharedCopy};
use super::tally::add;
use super::{Outcome, Tree};
use crate::destination::attributes;
use crate::direct::{AlignedBuffer, DirectPolicy};
use crate::error::{Error, Result, quoted};
use crate::event::Event;

impl Tree<'_> {
    /// Copies a file. `buffer` is the thread's own.
    pub fn copy_file(&self, item: &Item, existing: Option<&Stat>, buffer: &mut AlignedBuffer) -> Result<Outcome> {
        let names = &item.names;
        let path = names.source_path();
        let opening = |e| Error::io("opening", &path, e);
        if let Some(existing) = existing.filter(|_| self.job.update) {
            let source = match &item.opened {
                Some(file) => Some(fstat(file).map_err(|e| opening(e.into()))?),
                None => names.source.open().and_then(|d| d.stat_entry(&names.source_name)).map_err(opening)?,
            };
            if let Some(source) = source.filter(|source| is_unchanged(source, existing)) {
                return self.leave_unchanged(names, &source);
            }
        }
        let source = match &item.opened {
            Some(file) => file.try_clone().map_err(opening)?,
            None => self.open_source(names).map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT) => Error::failed("opening", &path, "it vanished before it was copied"),
                Some(libc::ELOOP) => Error::failed("opening", &path, "it was replaced by a symbolic link"),
                _ => opening(e),
            })?,
        };
        let metadata = source.metadata().map_err(opening)?;
        if !metadata.is_file() {
            return Err(Error::failed("opening", &path, "it was replaced by something that is not a file"));
        }
        let shared = match self.claim((metadata.dev(), metadata.ino()), metadata.nlink() > 1, names)? {
            Claim::Copy(shared) => shared,
            Claim::Settled(outcome) => return Ok(outcome),
        };
        let result = self.fill(names, existing, &source, &metadata, buffer, shared.clone());
        if let (Err(error), Some(shared)) = (&result, &shared) {
            self.shared_copy_failed(shared, error);
        }
        result
    }

    /// Opens the source with O_DIRECT where the filesystem supports that.
    fn open_source(&self, names: &Names) -> io::Result<File> {
        let refused = &names.source.filesystem.not_direct;
        let directory = names.source.open()?;
        let direct = self.job.file.direct != DirectPolicy::Never && !refused.is_set();
        match directory.open_file(&names.source_name, direct) {
            Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) => {
                let file = directory.open_file(&names.source_name, false)?;
                refused.set();
                Ok(file)
            }
            other => other,
        }
    }

    /// Copies the bytes and attributes of an open file to a new one without a name.
    fn fill(
        &self,
        names: &Names,
        existing: Option<&Stat>,
        source: &File,
        metadata: &Metadata,
        buffer: &mut AlignedBuffer,
        shared: Option<SharedCopy>,
    ) -> Result<Outcome> {
        let (source_path, target_path) = (names.source_path(), names.target_path());
        let (file, hidden) = self.create(names, metadata).map_err(|e| Error::io("creating", &target_path, e))?;
        let mut complete = Unnamed {
            file,
            names: names.clone(),
            len: metadata.len(),
            cached: 0,
            ordered: false,
            digest: None,
            replaces: existing.is_some(),
            hidden,
            shared,
        };
        let cached = self.cache.before(source);
        let result = self
            .copy_bytes(source, metadata, &mut complete, buffer)
            .and_then(|()| self.set_attributes(&complete.file, &target_path, source, metadata, names, existing));
        if let Err(error) = result {
            self.discard(&complete);
            return Err(error);
        }
        self.cache.after(source, cached);
        let now = source.metadata().map_err(|e| Error::io("reading", &source_path, e))?;
        let version = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec());
        if version(&now) != version(metadata) && !names.source.filesystem.generated {
            let note = format!("{} changed during the copy; the copy may mix old and new data", quoted(&source_path));
            self.observer.event(Event::Notice(&note));
        }
        Ok(Outcome::Complete(Box::new(complete)))
    }

    /// A new file without a name, or with a hidden one where the filesystem cannot do that. Nobody can open a file without a
    /// name, so it has the mode of its source from the start.
    fn create(&self, names: &Names, source: &Metadata) -> io::Result<(File, Option<OsString>)> {
        let target = &names.target.directory;
        if !target.filesystem.needs_names.is_set() && self.can_be_unnamed {
            if let Some(file) = target.open()?.create_unnamed(source.mode() & 0o777)? {
                return Ok((file, None));
            }
            target.filesystem.needs_names.set();
        }
        let (file, hidden) = self.hidden.create(target, &names.target_name)?;
        Ok((file, Some(hidden)))
    }

    /// Gives a new file its attributes: with -p or -a those of the source, otherwise those of the file that it replaces, or
    /// the source's mode.
    fn set_attributes(
        &self,
        file: &File,
        path: &Path,
        source: &File,
        metadata: &Metadata,
        names: &Names,
        existing: Option<&Stat>,
    ) -> Result<()> {
        if self.job.file.preserve {
            return attributes::preserve(file, path, source, metadata).map(|notes| self.note_all(path, &notes));
        }
        let replaced = existing.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if replaced.is_some() {
            let directory = names.target.directory.open().map_err(|e| Error::io("keeping the mode of", path, e))?;
            attributes::keep_from(file, path, &directory.entry_path(&names.target_name))?;
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
    fn leave_unchanged(&self, names: &Names, source: &Stat) -> Result<Outcome> {
        match self.claim((source.st_dev, source.st_ino), source.st_nlink > 1, names)? {
            Claim::Settled(outcome) => return Ok(outcome),
            Claim::Copy(Some(shared)) => self.shared_copy_is_named(&shared, NamedCopy::new(names, None)),
            Claim::Copy(None) => {}
        }
        add(&self.tally.unchanged, 1);
        Ok(Outcome::Skipped)
    }
}

/// rsync's quick check: same size and modification time.
fn is_unchanged(source: &Stat, existing: &Stat) -> bool {
    FileType::from_raw_mode(existing.st_mode) == FileType::RegularFile
        && FileType::from_raw_mode(source.st_mode) == FileType::RegularFile
        && source.st_size == existing.st_size
        && (source.st_mtime, source.st_mtime_nsec) == (existing.st_mtime, existing.st_mtime_nsec)
}
