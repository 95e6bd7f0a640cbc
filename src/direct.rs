//! Direct I/O with any offset, length and chunking: reads and writes files and block devices, bypassing the page cache.
//!
//! - [`DirectWriter`] writes a file or block device. It is an [`std::io::Write`], and it also writes at any offset from
//!   several threads. The result has the exact length, is on the medium, and leaves nothing in the page cache.
//! - [`DirectReader`] reads any range of a file or block device.
//!
//! Direct I/O (`O_DIRECT`, open(2)) requires that the memory address, the offset and the length of each transfer are
//! multiples of an [`Alignment`]. Both types meet these requirements themselves. They also handle filesystems that
//! refuse direct I/O, as [`DirectPolicy`] says, and count which bytes took which path in [`Traffic`].
//!
//! This module knows nothing about copying. Its files, from top to bottom:
//!
//! ```text
//! writer                 DirectWriter: creating it, and its methods
//!   writer/sequential    std::io::Write: appends through one buffer
//!   writer/blocks        splits a write into whole blocks and the partial blocks at its ends
//!   writer/complete      exact length, fsync, eviction; WriteReport
//! reader                 DirectReader
//! resident               CachedReader: reads the parts of a file that are in the page cache already
//! file_io                FileIo: one open file, its I/O mode, and counters
//!   file_io/reads        short reads, fallback to the next mode, eviction after a read
//!   file_io/writes       short writes, fallback to the next mode, eviction after a write
//! io_mode                IoMode: direct, uncached or buffered, and how a file's mode is chosen
//! file_ops               FileOps: the system calls on a file, as a trait
//! fake                   FakeDisk: a FileOps for tests that refuses misaligned transfers
//! alignment, buffer      Alignment, AlignedBuffer
//! policy                 DirectPolicy, Refused, Traffic
//! ```

mod alignment;
mod buffer;
#[cfg(test)]
pub(crate) mod fake;
mod file_io;
mod file_ops;
mod io_mode;
mod policy;
mod reader;
mod resident;
mod writer;

pub use alignment::Alignment;
pub use buffer::AlignedBuffer;
pub(crate) use io_mode::open;
pub use policy::{DirectPolicy, Refused, Traffic};
pub use reader::DirectReader;
pub(crate) use resident::CachedReader;
pub(crate) use writer::EarlierFailure;
pub use writer::{DirectWriter, WriteReport};
