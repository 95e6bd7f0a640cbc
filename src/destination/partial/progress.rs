//! What a running copy has written to its partial file, and how much of that is durable.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xattr::FileExt;

use super::is_file_at;
use super::record::{self, ATTRIBUTE};
use crate::error::{quoted, size};
use crate::source_info::Identity;
use crate::sys;

/// Time between two updates of the record. A power failure or SIGKILL loses what was copied since the last one.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// A partial file that is being written.
pub struct Partial {
    path: PathBuf,
    file: File,
    identity: Identity,
    state: Mutex<State>,
    /// Held during a sync: the kernel reports a failure to write back to only one caller.
    syncing: Mutex<()>,
}

struct State {
    /// Every byte before this offset is written.
    contiguous: u64,
    /// Ranges written after `contiguous`: start and end.
    later: BTreeMap<u64, u64>,
    /// Every byte before this offset is on the medium, and the record says so.
    recorded: u64,
    last_record: Instant,
    /// A sync failed. What it covered may be lost, and no later sync will report it.
    sync_failed: bool,
    /// The file was kept or removed, and must not change any more.
    ended: bool,
}

impl Partial {
    /// Takes a locked file whose first `resumed` bytes are on the medium.
    pub fn new(path: &Path, file: File, identity: Identity, resumed: u64) -> Self {
        let state = State {
            contiguous: resumed,
            later: BTreeMap::new(),
            recorded: resumed,
            last_record: Instant::now(),
            sync_failed: false,
            ended: false,
        };
        Self { path: path.into(), file, identity, state: Mutex::new(state), syncing: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the bytes from `start` to `end` were written. Once a second, makes them durable and updates the record.
    /// Fails if the sync fails: the kernel will not report that again.
    pub fn wrote(&self, start: u64, end: u64) -> io::Result<()> {
        let mut state = self.state();
        state.later.insert(start, end);
        while let Some((start, end)) = state.later.pop_first() {
            if start > state.contiguous {
                state.later.insert(start, end);
                break;
            }
            state.contiguous = state.contiguous.max(end);
        }
        let due = state.contiguous > state.recorded && state.last_record.elapsed() >= RECORD_INTERVAL;
        if !due || state.ended || state.sync_failed {
            return Ok(());
        }
        // On a slow disk another worker's sync may still run. Do not wait for it.
        let Ok(_syncing) = self.syncing.try_lock() else { return Ok(()) };
        state.last_record = Instant::now();
        let contiguous = state.contiguous;
        drop(state); // the other workers continue to write
        let synced = self.sync(contiguous);
        let mut state = self.state();
        state.sync_failed |= synced.is_err();
        let may_record = synced? && !state.ended && contiguous > state.recorded;
        // If the record cannot be updated, the old one is still true.
        if may_record && record::write(&self.file, &self.identity, contiguous).is_ok() {
            state.recorded = contiguous;
        }
        Ok(())
    }

    /// Makes the first `len` bytes durable. False: the file is shorter, so they must not be recorded.
    fn sync(&self, len: u64) -> io::Result<bool> {
        // A hole at the end is not part of the file yet. Setting the length could cut off what other workers write.
        let complete = self.file.metadata()?.len() >= len || sys::fallocate(&self.file, 0, len - 1, 1).is_ok();
        self.file.sync_data()?;
        Ok(complete)
    }

    /// Notes that a sync elsewhere failed.
    pub fn sync_failed(&self) {
        self.state().sync_failed = true;
    }

    /// Ends an interrupted copy. If it is worthwhile, makes what was written durable and returns a message about it;
    /// otherwise removes the file.
    pub fn end(&self, worthwhile: bool) -> io::Result<Option<String>> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        state.ended = true;
        if !is_file_at(&self.file, &self.path)? {
            return Ok(None); // another process has removed it
        }
        if worthwhile && state.contiguous > 0 && !state.sync_failed {
            let synced = self.sync(state.contiguous);
            state.sync_failed |= synced.is_err();
            let complete = matches!(synced, Ok(true));
            if complete && record::write(&self.file, &self.identity, state.contiguous).is_ok() {
                state.recorded = state.contiguous;
                // What follows may have gaps, and only takes space.
                self.file.set_len(state.contiguous)?;
            }
        }
        let secure = || self.file.set_permissions(Permissions::from_mode(0o600)).and_then(|()| self.file.sync_all());
        if worthwhile && state.recorded > 0 && secure().is_ok() {
            let (kept, path) = (size(state.recorded), quoted(&self.path));
            return Ok(Some(format!("{kept} are kept in {path}; repeat the command with --resume to continue")));
        }
        std::fs::remove_file(&self.path)?;
        Ok(None)
    }

    /// Removes the record: the file is complete and gets its final name now. Fails if the hidden name is no longer this
    /// file's.
    pub fn complete(&self) -> io::Result<()> {
        if !is_file_at(&self.file, &self.path)? {
            return Err(io::Error::other("the partial file was removed or replaced during the copy"));
        }
        self.file.remove_xattr(ATTRIBUTE)
    }
}
