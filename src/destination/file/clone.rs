//! Clones the source instead of moving its bytes, where both files are on one filesystem that can share blocks.

use std::io;
use std::ops::Range;

use super::FileDestination;
use crate::source_info::CopiedRange;
use crate::sys;

impl FileDestination<'_> {
    /// Clones as much of `source` as consists of whole blocks of the filesystem. Returns the range that is cloned, in bytes
    /// from the first byte copied; the rest has to be copied. After an error, everything has to be copied.
    pub(super) fn clone_range(&self, source: &CopiedRange<'_>) -> io::Result<Range<u64>> {
        let own_start = self.job.seek;
        let unit = sys::block_size(&self.file)?.max(self.writer.boundary());
        if source.start % unit != own_start % unit {
            return Err(io::Error::other("the offsets in source and destination have different alignments"));
        }
        let start = source.start.next_multiple_of(unit) - source.start;
        let end_in_file = source.start + source.len;
        // The last block of a file is cloned although it may be partial, but not into the middle of another file.
        let to_end_of_file = self.is_new() && end_in_file == source.file.metadata()?.len();
        let end =
            if to_end_of_file { source.len } else { (end_in_file - end_in_file % unit).saturating_sub(source.start) };
        if end <= start {
            return Err(io::Error::other("it has no whole block"));
        }
        let length = if to_end_of_file { 0 } else { end - start };
        let result = sys::clone_range(source.file, source.start + start, length, &self.file, own_start + start);
        if !result.as_ref().is_err_and(is_refusal) {
            self.cleanup.touch();
        }
        result?;
        let written = own_start + end;
        if self.file.metadata()?.len() < written {
            return Err(io::Error::other("the source shrank"));
        }
        self.writer.resume_at(written);
        Ok(start..end)
    }
}

/// True if the filesystem refused to clone, and changed nothing.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::EXDEV | libc::EPERM | libc::ETXTBSY)
    )
}
