//! Aligned direct I/O: a writer that anyone can use, its reader, and what both stand on.
//!
//! [`DirectWriter`] is an [`std::io::Write`] over `O_DIRECT` that keeps the length exact and leaves
//! nothing in the page cache, the last partial block included. It knows nothing of copying.
//!
//! ```text
//! writer, reader   any offset, length and chunking in; aligned transfers out
//!     access       how this file is reached: direct, or the next best way, and what was counted
//!     medium       the operations of a file, so that a test can put a strict fake disk there
//!     alignment, buffer, policy
//! resident         what of a file is in the cache already, had from there
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
