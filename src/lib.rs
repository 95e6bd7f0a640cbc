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
//!   turnstile, block, origin, job, event, standing, error
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
pub mod cli;
mod copy;
mod destination;
mod direct;
mod error;
mod event;
mod job;
pub mod options;
mod origin;
pub mod output;
mod pace;
mod source;
mod standing;
#[doc(hidden)] // for main and the tests; not part of the library
pub mod sys;
mod turnstile;

pub use copy::{Report, copy};
pub use direct::{AlignedBuffer, Alignment, Direct, DirectReader, DirectWriter, Refused, Traffic, Written};
pub use error::{Error, Kind, Result};
pub use event::{Answer, Event, Observer, Phase, Silent};
pub use job::{Algorithm, Checksum, End, Job, Sparse, Web};
pub use standing::Standing;
