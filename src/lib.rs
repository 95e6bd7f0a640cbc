//! Copies a file, directory tree, block device, pipe, URL or command output, bypassing the page cache: exact, all or
//! nothing, and on the medium when it returns.
//!
//! Two things here are useful by themselves. [`copy()`] and [`copy_tree()`] do what the command `dio-cp` does: the command
//! only parses its options into a [`Job`] or a [`TreeJob`] and shows the [`Report`] or the [`TreeReport`].
//! [`DirectWriter`] is an [`std::io::Write`] over `O_DIRECT`, for programs that produce the bytes themselves.
//!
//! # How the code is laid out
//!
//! ```text
//!   main, signals               parse, run, print the error once, exit status
//!     │
//!   cli ── options              the command line; validated into a Job
//!     │
//!   output                      progress, the report, --residency
//!     │
//!   tree                        directory trees: the walk, and workers that copy what it finds
//!     │
//!   copy                        open, plan, workers, finish, report: the stages of a copy
//!     │
//!     ├── source                file, stream, command, url: where the blocks come from
//!     ├── destination           file, device, stream: where they go
//!     ├── check                 digests, --verify, page cache statistics
//!     │
//!   job, block, sequencer, source_info, cleanup, event, error
//!     │
//!   direct                      aligned direct I/O: reader, writer; knows nothing of copying
//!     │
//!   pace                        --rate-limit and --idle
//!     │
//!   sys                         system calls that the standard library does not offer; all unsafe code
//! ```
//!
//! Imports run downwards only, and `source`, `destination` and `check` do not know each other; a test enforces both rules.
//!
//! # Asynchronous programs
//!
//! Everything here blocks: direct I/O waits for the device. Call it from a thread of its own, for instance with tokio's
//! `spawn_blocking`.

mod block;
#[cfg(test)]
#[path = "../tests/common/cases.rs"]
mod cases;
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
mod tree;

pub use cleanup::Cleanup;
pub use copy::{CommandEnd, DestinationReport, Report, SourceReport, Times, copy};
pub use direct::{AlignedBuffer, Alignment, DirectPolicy, DirectReader, DirectWriter, Refused, Traffic, WriteReport};
pub use error::{Error, ErrorKind, Result};
pub use event::{Confirmation, Event, Observer, Phase, Silent};
pub use job::{Algorithm, Checksum, Endpoint, HttpOptions, Job, Reflink, Sparse, TargetRule, TreeJob};
pub use tree::{FailedFile, Failures, PagesLeft, TreeReport, copy_tree};
