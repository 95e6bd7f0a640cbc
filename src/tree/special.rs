//! Entries that are not opened: symbolic links, FIFOs and device nodes.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::Tree;
use super::batch::hidden_name;
use super::files::{Item, Outcome};
use super::tally::add;
use crate::error::{Error, Result, quoted};
use crate::sys::{Replacement, replace_all};

impl Tree<'_> {
    /// Copies a symbolic link.
    pub fn copy_symlink(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
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
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if self.job.update && same && existing.is_some_and(|existing| time(existing) == time(&stat)) {
            add(&self.tally.unchanged, 1);
            return Ok(Outcome::Skipped);
        }
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

    /// Creates a FIFO or device node like that of the source.
    pub fn copy_node(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
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
}
