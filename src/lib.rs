//! Copies one stream of bytes past the page cache: from a file, a block device, a pipe or a URL, to a
//! file, a block device or a pipe; exact, all or nothing, and on the medium when it says so.
//!
//! The command `dio-cp` is a thin shell around [`copy()`]. The part that is useful by itself is
//! [`DirectWriter`], an [`std::io::Write`] over `O_DIRECT`.
//!
//! ```text
//!   main      parse, run, print the error once, exit status
//!     │
//!     ├── options ── cli        the words, validated into a Job
//!     ├── output                events in; bar, JSON, last line out
//!     │
//!   copy                        N workers, one loop: source.next(&mut block), destination.put(&block)
//!     │
//!     ├── check                 digest, readback, list; residency, survey, cgroups, watch
//!     ├── source                file, stream, url
//!     ├── destination           file, device, stream; publish, attributes
//!     │       │
//!   sequencer, block, origin, job, event, standing, error
//!     │
//!   direct                      alignment, buffer, reader, writer; knows nothing of copying
//!     │
//!   pace                        rate, idle: waiting, so that others need not
//!     │
//!   sys                         every system call that std does not have
//! ```
//!
//! Imports run downwards only.

mod block;
mod check;
mod cleanup;
pub mod cli;
mod copy;
mod destination;
mod direct;
mod error;
mod event;
mod job;
pub mod options;
pub mod output;
mod pace;
mod sequencer;
mod source;
mod source_info;
#[doc(hidden)] // for main and the tests; not part of the library
pub mod sys;

pub use cleanup::Cleanup;
pub use copy::{Report, copy};
pub use direct::{AlignedBuffer, Alignment, DirectPolicy, DirectReader, DirectWriter, Refused, Traffic, WriteReport};
pub use error::{Error, ErrorKind, Result};
pub use event::{Confirmation, Event, Observer, Phase, Silent};
pub use job::{Algorithm, Checksum, Endpoint, HttpOptions, Job, Sparse};
