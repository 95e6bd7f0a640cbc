//! Reserves disk space ahead of the writes, so that a full disk is an error early and parallel writes need not extend the
//! file one after another.

use std::io;
use std::sync::PoisonError;

use super::{FileDestination, Kind};
use crate::error::{Error, Result, size};
use crate::job::Sparse;
use crate::sys;

/// A file of unknown length gets space in steps of this many bytes, but …
const RESERVE_STEP: u64 = 64 << 20;
/// … never in steps of more than this fraction of the free space, which other processes need too.
const MAX_FREE_FRACTION: u64 = 64;
/// A file of unknown length gets space once it is longer than this, in bytes.
pub const MIN_RESERVED: u64 = RESERVE_STEP / 4;

impl FileDestination<'_> {
    /// Reserves space for a range of the copy, in bytes from its first byte.
    pub(super) fn reserve_range(&self, offset: u64, len: u64) -> Result<()> {
        if matches!(self.kind, Kind::Device) || len == 0 || self.job.sparse == Sparse::Always {
            return Ok(());
        }
        let start = self.job.seek + offset;
        let resumed = self.publication().map_or(0, |publication| publication.resumed);
        let (mode, reserved_len) = if self.is_new() {
            // Up to the end of the padded last block: a write past the reserved space would have to extend the file.
            (0, self.writer.padded_end(start + len) - start)
        } else {
            self.cleanup.reserving();
            (libc::FALLOC_FL_KEEP_SIZE, len)
        };
        let result = sys::fallocate(&self.file, mode, start, reserved_len);
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = u64::MAX;
        match result {
            // XFS counts the space that a resumed file already has as if it were requested again.
            Err(e) if is_out_of_space(&e) && resumed == 0 => {
                Err(Error::io(&format!("reserving {} for", size(len)), &self.target.name, e))
            }
            // Not every filesystem supports it. posix_fallocate is no substitute: it would write zeros.
            _ => Ok(()),
        }
    }

    /// Reserves space for a file of unknown length up to `end` and past it. The excess is cut off at the end.
    pub(super) fn reserve_ahead(&self, end: u64) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        while end > *reserved {
            let start = (*reserved).max(self.job.seek);
            let step = sys::free_bytes(&self.file).unwrap_or(0) / MAX_FREE_FRACTION;
            let step = (step - step % sys::page_size()).min(RESERVE_STEP);
            // Refused, or the disk is nearly full: stop reserving. The writes report whether there is enough space.
            *reserved = match sys::fallocate(&self.file, 0, start, step) {
                Ok(()) if end <= start + step => start + step,
                _ => u64::MAX,
            };
        }
    }
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}
