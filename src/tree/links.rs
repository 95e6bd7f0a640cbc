//! Hard links: files of the source with several names, and where their copies are.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directories::TargetDirectory;

/// A name of a copy.
#[derive(Clone)]
pub struct Name {
    pub directory: Arc<TargetDirectory>,
    pub name: OsString,
}

/// The names that a copy gets when it is published.
pub enum Copy {
    /// It is not published yet. Further names wait for that.
    Pending(Vec<Name>),
    /// It has this name.
    Published(Name),
    /// It could not be copied.
    Failed,
}

/// A copy that several names share.
pub type SharedCopy = Arc<Mutex<Copy>>;

/// The copies of all files with several names, by device and inode number in the source. This is the only list that grows
/// with the number of files.
#[derive(Default)]
pub struct Links(Mutex<HashMap<(u64, u64), SharedCopy>>);

/// What to do with a name of a file that has several.
pub enum Claim {
    /// It is the first name: copy the file, and publish it with all names that have come in the meantime.
    First(SharedCopy),
    /// The file is being copied, and gets this name with the others.
    Waits,
    /// The copy has a name already: link to that.
    Link(Name),
    /// The file could not be copied under its first name.
    Failed,
}

impl Links {
    /// Says what to do with `name`, which is a name of the file with this device and inode number.
    pub fn claim(&self, inode: (u64, u64), name: impl FnOnce() -> Name) -> Claim {
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(copy) = copies.get(&inode).cloned() else {
            let copy = SharedCopy::new(Mutex::new(Copy::Pending(Vec::new())));
            copies.insert(inode, copy.clone());
            return Claim::First(copy);
        };
        drop(copies);
        let mut copy = lock(&copy);
        match &mut *copy {
            Copy::Pending(names) => {
                names.push(name());
                Claim::Waits
            }
            Copy::Published(first) => Claim::Link(first.clone()),
            Copy::Failed => Claim::Failed,
        }
    }
}

/// Locks a shared copy.
pub fn lock(copy: &SharedCopy) -> MutexGuard<'_, Copy> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}
