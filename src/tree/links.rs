//! Hard links: entries of the source with several names, and where their copies are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directories::TreeDirectory;
use super::entry::Names;
use super::tally::add;
use super::{Outcome, Tree};
use crate::check::digest::hex;
use crate::destination::hidden_name;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::sys::{Replacement, replace_all};

/// A copy that has a name.
#[derive(Clone)]
pub struct NamedCopy {
    directory: Arc<TreeDirectory>,
    name: OsString,
    /// Its digest, if --checksum is given.
    digest: Option<Vec<u8>>,
}

impl NamedCopy {
    /// The copy has this name.
    pub fn new(names: &Names, digest: Option<Vec<u8>>) -> Self {
        Self { directory: names.target.directory.clone(), name: names.target_name.clone(), digest }
    }
}

/// A copy that gets several names.
pub enum Copy {
    /// It has none yet. Further names wait for the first one.
    Pending(Vec<Names>),
    Named(NamedCopy),
    Failed,
}

/// A copy that several names share.
pub type SharedCopy = Arc<Mutex<Copy>>;

/// The copies of all entries with several names, by device and inode number in the source. This is the only list that grows
/// with the number of files.
#[derive(Default)]
pub struct Links(Mutex<HashMap<(u64, u64), SharedCopy>>);

/// What to do with a name.
pub enum Claim {
    /// Copy the entry. Further names may come, or not.
    Copy(Option<SharedCopy>),
    /// Nothing: another name was first, and this one is linked to that copy, or will be.
    Settled(Outcome),
}

impl Tree<'_> {
    /// Says what to do with a name of the entry with this device and inode number. `several`: the entry has more than one.
    pub fn claim(&self, inode: (u64, u64), several: bool, names: &Names) -> Result<Claim> {
        if !self.job.archive || !several {
            return Ok(Claim::Copy(None));
        }
        let shared = match self.links.0.lock().unwrap_or_else(PoisonError::into_inner).entry(inode) {
            Entry::Vacant(first) => {
                let shared = Arc::new(Mutex::new(Copy::Pending(Vec::new())));
                return Ok(Claim::Copy(Some(first.insert(shared).clone())));
            }
            Entry::Occupied(known) => known.get().clone(),
        };
        let mut copy = lock(&shared);
        let named = match &mut *copy {
            Copy::Pending(waiting) => {
                waiting.push(names.clone());
                return Ok(Claim::Settled(Outcome::Waits));
            }
            Copy::Named(named) => named.clone(),
            // That failure may have been due to the other name.
            Copy::Failed => {
                *copy = Copy::Pending(Vec::new());
                drop(copy);
                return Ok(Claim::Copy(Some(shared)));
            }
        };
        drop(copy);
        Ok(Claim::Settled(self.link(&named, names)?))
    }

    /// The copy has its first name, and now gets the others.
    pub fn shared_copy_is_named(&self, shared: &SharedCopy, named: NamedCopy) {
        let before = std::mem::replace(&mut *lock(shared), Copy::Named(named.clone()));
        let Copy::Pending(waiting) = before else { return };
        for names in waiting {
            match self.link(&named, &names) {
                Ok(Outcome::Skipped) => add(&self.skipped, 1),
                Ok(_) => {}
                Err(error) => self.report_failure(names.source_path(), &error),
            }
            self.leave(&names.target);
        }
    }

    /// Reports the further names of an entry that was not copied.
    pub fn shared_copy_failed(&self, shared: &SharedCopy, error: &Error) {
        let Copy::Pending(waiting) = std::mem::replace(&mut *lock(shared), Copy::Failed) else { return };
        for names in waiting {
            self.report_failure(names.source_path(), error);
            self.leave(&names.target);
        }
    }

    /// Under -n: another process has created the first name meanwhile, so that there is nothing to link to.
    pub fn shared_copy_is_left_alone(&self, shared: &SharedCopy, names: &Names) {
        let why = "its first name was created by another process during the copy, and -n forbids replacing it";
        self.shared_copy_failed(shared, &Error::failed("linking", &names.target_path(), why));
    }

    /// Gives a copy that has a name another one.
    fn link(&self, copy: &NamedCopy, names: &Names) -> Result<Outcome> {
        let (source, target) = (names.source_path(), names.target_path());
        if let (Some(digest), Some(required)) = (&copy.digest, self.checksum_of(&source, &target)?)
            && let Some(expected) = required.expected.filter(|expected| expected != digest)
        {
            let (digest, expected) = (hex(digest), hex(&expected));
            let why = format!("it is another name of a file whose digest is {digest}, and {expected} is required");
            return Err(Error::content(&target, why));
        }
        let linked = self.try_link(copy, names).map_err(|e| Error::io("linking", &target, e))?;
        if let Some(digest) = &copy.digest {
            self.observer.event(Event::Digest(&target, digest));
        }
        if linked {
            return Ok(self.count_done(0));
        }
        add(&self.tally.unchanged, 1);
        Ok(Outcome::Skipped)
    }

    /// False: the name is one of the copy's already.
    fn try_link(&self, copy: &NamedCopy, names: &Names) -> io::Result<bool> {
        let (first, directory, name) = (copy.directory.open()?, names.target.directory.open()?, &names.target_name);
        match directory.link_entry(&first, &copy.name, name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| true),
        }
        let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        if directory.stat_entry(name)?.map(inode) == first.stat_entry(&copy.name)?.map(inode) {
            return Ok(false);
        }
        let replacement = Replacement::with_link(&directory, (&first, &copy.name), &hidden_name(name), name)?;
        replace_all(&[replacement]).into_iter().try_for_each(|replaced| replaced.result)?;
        Ok(true)
    }
}

fn lock(copy: &SharedCopy) -> MutexGuard<'_, Copy> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}
