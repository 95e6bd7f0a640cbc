//! First stage: both ends are opened. Nothing is written yet, and everything that can be refused now is refused.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Attempt;
use crate::cleanup::Cleanup;
use crate::destination::{self, Destination, DestinationInfo};
use crate::error::{Result, quoted};
use crate::event::{Event, Observer};
use crate::job::Job;
use crate::pace::Pace;
use crate::source::{self, OpenSource};

/// What every stage needs.
pub struct Context<'a> {
    pub job: &'a Job,
    pub observer: &'a dyn Observer,
    pub pace: Arc<Pace>,
    /// As in [`Attempt`].
    pub started: Instant,
    /// What was chosen so far, for verbose output and the report.
    pub details: Vec<String>,
}

impl Context<'_> {
    /// Reports a choice, and keeps it for the report.
    pub fn detail(&mut self, line: String) {
        self.observer.event(Event::Detail(&line));
        self.details.push(line);
    }

    /// Passes on what --idle has to say.
    pub fn forward_idle_messages(&self) {
        forward_idle_messages(&self.pace, self.observer);
    }
}

/// Passes on what --idle has to say, for verbose output.
pub fn forward_idle_messages(pace: &Pace, observer: &dyn Observer) {
    pace.take_messages().iter().for_each(|line| observer.event(Event::Detail(line)));
}

/// Two open files and their names in messages.
pub struct OpenFiles<'a> {
    /// The file to read.
    pub source: File,
    pub source_name: &'a Path,
    /// The source is read until it ends, for its length means nothing.
    pub is_stream: bool,
    /// An empty file without a name.
    pub destination: File,
    pub destination_name: &'a Path,
    /// The limits that all files share.
    pub pace: &'a Arc<Pace>,
}

/// Both ends, open.
pub struct Opened<'a> {
    pub context: Context<'a>,
    pub source: OpenSource<'a>,
    pub destination_info: DestinationInfo,
    pub destination: Box<dyn Destination + 'a>,
}

impl<'a> Opened<'a> {
    /// Opens the source, then the destination.
    pub fn open(job: &'a Job, observer: &'a dyn Observer, cleanup: &'a Cleanup, attempt: &mut Attempt) -> Result<Self> {
        let pace = Arc::new(Pace::new(job.rate_limit, job.idle));
        let source = source::open(job, &pace, observer, cleanup, attempt.restarts)?;
        let (destination_info, destination) = destination::open(job, &source.info, &pace, observer, cleanup)?;
        attempt.started += destination_info.confirmation;
        let files: Vec<_> = source.info.stored_file().into_iter().chain(&destination_info.file).collect();
        pace.watch(&files);
        let context = Context { job, observer, pace, started: attempt.started, details: Vec::new() };
        Self::new(context, source, (destination_info, destination))
    }

    /// Two open files: the source, and an empty one without a name. The caller watches the disks for --idle.
    pub fn files(files: OpenFiles<'_>, job: &'a Job, observer: &'a dyn Observer, cleanup: &'a Cleanup) -> Result<Self> {
        let OpenFiles { source, source_name, is_stream, destination, destination_name, pace } = files;
        let source = source::open_file(job, source_name, source, is_stream, pace)?;
        let destination = destination::open_unnamed(job, destination_name, destination, pace, cleanup)?;
        let context = Context { job, observer, pace: pace.clone(), started: Instant::now(), details: Vec::new() };
        Self::new(context, source, destination)
    }

    fn new(
        mut context: Context<'a>,
        source: OpenSource<'a>,
        (destination_info, destination): destination::Opened<'a>,
    ) -> Result<Self> {
        context.job.check_block_size(source.alignment.max(destination_info.alignment))?;
        context.detail(format!("{}: {}", quoted(&source.info.name), source.description));
        context.detail(format!("{}: {}", quoted(&destination_info.name), destination_info.description));
        Ok(Self { context, source, destination_info, destination })
    }
}
