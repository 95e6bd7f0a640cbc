//! Entries that are not opened: symbolic links, FIFOs and device nodes. They are created together, each under a hidden name,
//! and get their names with all their attributes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Stat};

use super::entry::{Item, Names};
use super::links::{Claim, NamedCopy, SharedCopy};
use super::tally::add;
use super::{Outcome, Tree};
use crate::destination::{attributes, hidden_name};
use crate::error::{Error, Result, quoted};
use crate::sys::{Directory, EntryAttribute, NewEntry, Replaced, Replacement, replace_all};

/// A new FIFO or node whose directory has a default ACL gets an ACL that its source may not have.
const ACL: &str = "system.posix_acl_access";

/// An entry to create.
struct Special {
    names: Names,
    new: NewEntry,
    attributes: Vec<EntryAttribute>,
    /// For an entry with several names.
    shared: Option<SharedCopy>,
}

/// The entries that wait for others, to be created with them.
pub struct Specials {
    /// Their directories are open while they are created.
    max: usize,
    waiting: Mutex<Vec<Special>>,
}

impl Specials {
    /// None are waiting.
    pub fn new(max_open_files: u64) -> Self {
        let max = usize::try_from(max_open_files / 64).unwrap_or(usize::MAX).clamp(1, 512);
        Self { max, waiting: Mutex::default() }
    }
}

impl Tree<'_> {
    /// Copies an entry that is not opened, now or with others.
    pub fn copy_special(&self, item: &Item, existing: Option<&Stat>) -> Result<Outcome> {
        let names = &item.names;
        let path = names.source_path();
        let fail = |e| Error::io("reading", &path, e);
        let source = names.source.open().map_err(fail)?;
        let stat = source.stat_entry(&names.source_name).map_err(fail)?;
        let stat = stat.ok_or_else(|| Error::failed("reading", &path, "it vanished before it was copied"))?;
        if FileType::from_raw_mode(stat.st_mode) != item.kind {
            return Err(Error::failed("reading", &path, "it was replaced by something else before it was copied"));
        }
        let shared = match self.claim((stat.st_dev, stat.st_ino), stat.st_nlink > 1, names)? {
            Claim::Copy(shared) => shared,
            Claim::Settled(outcome) => return Ok(outcome),
        };
        let described = self.describe(&source, names, &stat, existing);
        match (described, shared) {
            (Ok(Some((new, attributes))), shared) => {
                self.create_later(Special { names: names.clone(), new, attributes, shared });
                Ok(Outcome::Waits)
            }
            (Ok(None), shared) => {
                shared.iter().for_each(|shared| self.shared_copy_is_named(shared, NamedCopy::new(names, None)));
                add(&self.tally.unchanged, 1);
                Ok(Outcome::Skipped)
            }
            (Err(error), shared) => {
                shared.iter().for_each(|shared| self.shared_copy_failed(shared, &error));
                Err(error)
            }
        }
    }

    /// What to create. None: -u finds that `existing` is the same.
    fn describe(
        &self,
        source: &Directory,
        names: &Names,
        stat: &Stat,
        existing: Option<&Stat>,
    ) -> Result<Option<(NewEntry, Vec<EntryAttribute>)>> {
        let reading = |e| Error::io("reading", &names.source_path(), e);
        let same = |existing: &Stat| {
            let version =
                |stat: &Stat| (FileType::from_raw_mode(stat.st_mode), stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec);
            self.job.update && version(existing) == version(stat)
        };
        let mut same = existing.is_some_and(same);
        let new = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let link = source.read_link(&names.source_name).map_err(reading)?;
            let old = |directory: Arc<Directory>| directory.read_link(&names.target_name);
            same = same && names.target.directory.open().and_then(old).is_ok_and(|old| old == link);
            NewEntry::symlink(&link).map_err(reading)?
        } else {
            NewEntry::node(stat)
        };
        if same {
            return Ok(None);
        }
        Ok(Some((new, self.attributes_to_set(source, names, stat)?)))
    }

    fn attributes_to_set(&self, source: &Directory, names: &Names, stat: &Stat) -> Result<Vec<EntryAttribute>> {
        let job = &self.job.file;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mut wanted = Vec::new();
        if job.preserve {
            wanted.push(EntryAttribute::Owner(stat.st_uid, stat.st_gid));
            self.add_extended_attributes(&mut wanted, source, names, is_link)?;
        }
        if !is_link {
            let mode = if job.preserve { stat.st_mode & 0o7777 } else { stat.st_mode & 0o777 & !job.umask };
            wanted.push(EntryAttribute::Mode(mode));
        }
        if job.preserve || self.job.update {
            wanted.push(EntryAttribute::times(stat));
        }
        Ok(wanted)
    }

    fn add_extended_attributes(
        &self,
        wanted: &mut Vec<EntryAttribute>,
        source: &Directory,
        names: &Names,
        is_link: bool,
    ) -> Result<()> {
        if !self.has_proc {
            self.tally.note("extended attributes of links, FIFOs and devices could not be preserved: /proc is missing");
            return Ok(());
        }
        let reading = |e| Error::io("reading the extended attributes to preserve in", &names.source_path(), e);
        let path = source.entry_path(&names.source_name);
        let present = attributes::list(xattr::list(&path)).map_err(reading)?;
        if !is_link && !present.iter().any(|attribute| attribute == ACL) {
            wanted.push(EntryAttribute::extended(ACL.as_ref(), None).map_err(reading)?);
        }
        for attribute in present {
            if let Some(value) = xattr::get(&path, &attribute).map_err(reading)? {
                wanted.push(EntryAttribute::extended(&attribute, Some(value)).map_err(reading)?);
            }
        }
        Ok(())
    }

    fn create_later(&self, special: Special) {
        let mut waiting = self.specials.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(special);
        if waiting.len() >= self.specials.max {
            let full = std::mem::take(&mut *waiting);
            drop(waiting);
            self.create_entries(full);
        }
    }

    /// Creates the entries that are waiting.
    pub fn create_specials(&self) {
        let rest = std::mem::take(&mut *self.specials.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.create_entries(rest);
    }

    fn create_entries(&self, specials: Vec<Special>) {
        if self.cleanup.is_abandoned() {
            return; // nothing gets a name after a signal
        }
        let mut opened = Vec::new();
        for special in specials {
            match special.names.target.directory.open() {
                Ok(directory) => opened.push((special, directory)),
                Err(e) => self.created(special, Replaced::failed(e)),
            }
        }
        let replacements = opened.iter().map(|(Special { names, new, attributes, .. }, directory)| {
            let name = &names.target_name;
            Replacement::with_entry(directory, (new, attributes), &hidden_name(name), name, self.job.file.no_clobber)
        });
        // No name from a directory has a NUL byte, which would be the only reason for an error here.
        let replacements: io::Result<Vec<_>> = replacements.collect();
        let mut results = replacements.map_or_else(|_| Vec::new(), |list| replace_all(&list)).into_iter();
        for (special, _) in opened {
            let invalid = || Replaced::failed(io::ErrorKind::InvalidInput.into());
            self.created(special, results.next().unwrap_or_else(invalid));
        }
    }

    /// Counts an entry that was created, and gives it its other names.
    fn created(&self, special: Special, replaced: Replaced) {
        let Special { names, attributes, shared, .. } = special;
        let path = names.target_path();
        let refused = replaced.refused.iter().map(|(attribute, e)| {
            format!("the {} of {} could not be preserved: {e}", attributes[*attribute], quoted(&path))
        });
        match replaced.result {
            Ok(()) => {
                self.note_all(&path, &refused.collect::<Vec<_>>());
                self.count_done(0);
                shared.iter().for_each(|shared| self.shared_copy_is_named(shared, NamedCopy::new(&names, None)));
            }
            Err(e) if self.job.file.no_clobber && e.kind() == io::ErrorKind::AlreadyExists => {
                add(&self.skipped, 1); // another process has created the name meanwhile
                shared.iter().for_each(|shared| self.shared_copy_is_left_alone(shared, &names));
            }
            Err(e) => {
                let doing = match replaced.failed {
                    Some(attribute) => format!("setting the {} of", attributes[attribute]),
                    None => "creating".into(),
                };
                let error = Error::io(&doing, &path, e);
                self.report_failure(names.source_path(), &error);
                shared.iter().for_each(|shared| self.shared_copy_failed(shared, &error));
            }
        }
        self.leave(&names.target);
    }
}
