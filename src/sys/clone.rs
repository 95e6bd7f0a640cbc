//! Clones: files that share their blocks (ioctl_ficlonerange(2)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{check, retry};

const FICLONERANGE: libc::Ioctl = 0x4020_940du32 as libc::Ioctl; // _IOW(0x94, 13, struct file_clone_range)
const FIGETBSZ: libc::Ioctl = 2; // _IO(0, 2)

/// struct file_clone_range of include/uapi/linux/fs.h.
#[repr(C)]
struct FileCloneRange {
    source: i64,
    source_offset: u64,
    length: u64,
    destination_offset: u64,
}

/// Makes `length` bytes of `destination` share the blocks of `source`; length 0 means to the end of `source`. Offsets and
/// length are multiples of the filesystem's [`block_size`]. Fails with EOPNOTSUPP, EINVAL or EXDEV where the filesystem
/// cannot do that. Dirty pages of the source are written back first.
pub fn clone_range(
    source: &File,
    source_offset: u64,
    length: u64,
    destination: &File,
    destination_offset: u64,
) -> io::Result<()> {
    let range = FileCloneRange { source: source.as_raw_fd().into(), source_offset, length, destination_offset };
    // SAFETY: `range` has the layout that FICLONERANGE reads, and outlives the call.
    retry(|| check(unsafe { libc::ioctl(destination.as_raw_fd(), FICLONERANGE, &range) }))?;
    Ok(())
}

/// The block size of the filesystem that holds `file`, in bytes (FIGETBSZ).
pub fn block_size(file: &File) -> io::Result<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: FIGETBSZ writes one int, to `size`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FIGETBSZ, &mut size) })?;
    u64::try_from(size).map_err(io::Error::other)
}
