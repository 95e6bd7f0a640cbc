//! Entries that are not opened: symbolic links, FIFOs and device nodes.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::entry::{Item, Names};
use super::links::{Claim, NamedCopy};
use super::tally::add;
use super::{Outcome, Tree};
use crate::destination::{attributes, hidden_name};
use crate::error::{Error, Result, quoted};
use crate::sys::{Directory, Replacement, replace_all};

impl Tree<'_> {
    /// Copies an entry that is not opened.
    pub fn copy_special(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
        let names = &item.names;
        let path = names.source_path();
        let source = names.source.open().map_err(|e| Error::io("reading", &path, e))?;
        let stat = source.stat_entry(&names.source_name).map_err(|e| Error::io("reading", &path, e))?;
        let stat = stat.ok_or_else(|| Error::failed("reading", &path, "it vanished before it was copied"))?;
        if FileType::from_raw_mode(stat.st_mode) != item.kind {
            return Err(Error::failed("reading", &path, "it was replaced by something else before it was copied"));
        }
        let shared = match self.claim((stat.st_dev, stat.st_ino), stat.st_nlink > 1, names)? {
            Claim::Copy(shared) => shared,
            Claim::Settled(outcome) => return Ok(outcome),
        };
        let result = match item.kind {
            FileType::Symlink => self.copy_symlink(&source, names, &stat, existing),
            _ => self.copy_node(&source, names, &stat, existing),
        };
        match (&result, &shared) {
            (Ok(Outcome::Skipped), Some(shared)) if self.job.file.no_clobber => {
                self.shared_copy_is_left_alone(shared, names);
            }
            (Ok(_), Some(shared)) => self.shared_copy_is_named(shared, NamedCopy::new(names, None)),
            (Err(error), Some(shared)) => self.shared_copy_failed(shared, error),
            (_, None) => {}
        }
        result
    }

    fn copy_symlink(&self, source: &Directory, names: &Names, stat: &Stat, existing: Option<&Stat>) -> Result<Outcome> {
        let (path, name) = (names.target_path(), &names.target_name);
        let fail = |e| Error::io("creating", &path, e);
        let link = source.read_link(&names.source_name).map_err(|e| Error::io("reading", &names.source_path(), e))?;
        let directory = names.target.directory.open().map_err(fail)?;
        let same = existing.is_some_and(|existing| FileType::from_raw_mode(existing.st_mode) == FileType::Symlink)
            && directory.read_link(name).is_ok_and(|old| old == link);
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if self.job.update && same && existing.is_some_and(|existing| time(existing) == time(stat)) {
            add(&self.tally.unchanged, 1);
            return Ok(Outcome::Skipped);
        }
        if !same {
            let create = || directory.create_symlink(&link, name);
            let replace = || Replacement::with_symlink(&directory, &link, &hidden_name(name), name);
            if !self.create_or_replace(existing.is_some(), create, replace).map_err(fail)? {
                return Ok(Outcome::Skipped);
            }
        }
        if self.job.file.preserve {
            self.preserve_entry(source, &directory, names, &path, stat)?;
        }
        Ok(self.count_done(0))
    }

    /// Creates a FIFO or device node like that of the source.
    fn copy_node(&self, source: &Directory, names: &Names, stat: &Stat, existing: Option<&Stat>) -> Result<Outcome> {
        let (path, name) = (names.target_path(), &names.target_name);
        let fail = |e| Error::io("creating", &path, e);
        let directory = names.target.directory.open().map_err(fail)?;
        let same = existing.is_some_and(|existing| {
            let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
            kind(existing) == kind(stat) && existing.st_rdev == stat.st_rdev
        });
        if !same {
            let create = || directory.create_node(name, stat);
            let replace = || Replacement::with_node(&directory, stat, &hidden_name(name), name);
            if !self.create_or_replace(existing.is_some(), create, replace).map_err(fail)? {
                return Ok(Outcome::Skipped);
            }
        }
        if self.job.file.preserve {
            self.preserve_entry(source, &directory, names, &path, stat)?;
        }
        let mode =
            if self.job.file.preserve { stat.st_mode & 0o7777 } else { stat.st_mode & 0o777 & !self.job.file.umask };
        directory.set_entry_mode(name, mode).map_err(|e| Error::io("setting the mode of", &path, e))?;
        Ok(self.count_done(0))
    }

    /// False: another process has created the name meanwhile, and -n leaves it alone.
    fn create_or_replace<'r>(
        &self,
        exists: bool,
        create: impl FnOnce() -> io::Result<()>,
        replace: impl FnOnce() -> io::Result<Replacement<'r>>,
    ) -> io::Result<bool> {
        if !exists {
            match create() {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.job.file.no_clobber => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| true),
            }
        }
        replace_all(&[replace()?]).into_iter().collect::<io::Result<()>>().map(|()| true)
    }

    /// Keeps the owner, extended attributes and timestamps of something that cannot be opened.
    fn preserve_entry(
        &self,
        source: &Directory,
        directory: &Directory,
        names: &Names,
        path: &Path,
        stat: &Stat,
    ) -> Result<()> {
        let name = &names.target_name;
        let mut notes = Vec::new();
        let mut note = |attribute: &str, result: io::Result<()>| match result {
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
                notes.push(format!("the {attribute} of {} could not be preserved: {e}", quoted(path)));
                Ok(())
            }
            other => other.map_err(|e| Error::io(&format!("preserving the {attribute} of"), path, e)),
        };
        note("owner", directory.set_entry_owner(name, stat))?;
        let (from, to) = (source.entry_path(&names.source_name), directory.entry_path(name));
        let reading = |e| Error::io("reading the extended attributes to preserve in", path, e);
        for attribute in attributes::list(xattr::list(&from)).map_err(reading)? {
            let set = match xattr::get(&from, &attribute) {
                Ok(None) => continue, // it has just been removed
                Ok(Some(value)) => xattr::set(&to, &attribute, &value),
                Err(e) => Err(e),
            };
            note(&format!("attribute {}", attribute.display()), set)?;
        }
        note("timestamps", directory.set_entry_times(name, stat))?;
        self.note_all(path, &notes);
        Ok(())
    }
}
