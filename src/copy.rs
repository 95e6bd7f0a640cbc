//! The copy: its stages, in order.
//!
//! ```text
//! open      Opened     both ends are open; nothing is written
//! plan      Planned    how the copy is cut into blocks, and who works on it; space is reserved
//! workers   Moved      every block has been read, checked and written
//! finish    Finished   durable, verified, and under its final name
//! report    Report     what was done, for the caller
//! ```
//!
//! Each stage is a type that only the stage before it can make, so the order cannot be changed by accident. [`workers`]
//! is the heart of it. A rate limit or `--idle` belongs to [`pace`](crate::pace), a new kind of source to
//! [`source`](crate::source), a new proof to [`check`](crate::check).

mod finish;
mod open;
mod plan;
mod report;
mod workers;

use std::time::Instant;

use crate::cleanup::Cleanup;
use crate::error::Result;
use crate::event::{Event, Observer};
use crate::job::Job;
pub(crate) use open::OpenFiles;
use open::Opened;

pub use report::{CommandEnd, DestinationReport, Report, SourceReport, Times};

/// Copies as `job` says. After an error nothing is left behind, unless the job says to keep it, and
/// [`Error::destination_state`](crate::Error::destination_state) says what is under the destination's name. Another thread
/// may use `cleanup` to end the copy early.
pub fn copy(job: &Job, observer: &dyn Observer, cleanup: &Cleanup) -> Result<Report> {
    let mut job = job.clone();
    let mut attempt = Attempt { started: Instant::now(), restarts: 0 };
    loop {
        let mut error = match run(&job, observer, cleanup, &mut attempt) {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if !error.restartable || !cleanup.roll_back() {
            let keep = !error.restartable && !error.corrupt;
            error.destination_state = if keep { cleanup.abandon() } else { cleanup.discard() };
            return Err(error);
        }
        observer.event(Event::Notice(&format!("{error}; starting over")));
        attempt.restarts += 1;
        job.force = true; // the question about overwriting a device was answered at the first attempt
    }
}

/// Copies one open file to another, which is empty and has no name yet. Attributes and a name are the caller's business,
/// and so is [`Cleanup`].
pub(crate) fn copy_open_files(
    files: OpenFiles<'_>,
    job: &Job,
    observer: &dyn Observer,
    cleanup: &Cleanup,
) -> Result<Report> {
    let opened = Opened::files(files, job, observer, cleanup)?;
    Ok(opened.plan()?.move_blocks()?.finish()?.report())
}

/// Which attempt at the copy this is.
struct Attempt {
    /// When the first attempt started. The time that the user takes for an answer is not counted.
    started: Instant,
    restarts: u32,
}

fn run(job: &Job, observer: &dyn Observer, cleanup: &Cleanup, attempt: &mut Attempt) -> Result<Report> {
    let opened = Opened::open(job, observer, cleanup, attempt)?;
    let planned = opened.plan()?;
    let moved = planned.move_blocks()?;
    let finished = moved.finish()?;
    Ok(finished.report())
}
