//! Fourth stage: the data become durable, are verified, and get their final name.

use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::open::{Context, Opened};
use super::plan::Planned;
use super::workers::{Moved, Totals};
use crate::check::NamedDigest;
use crate::check::cache_watch::CacheWatch;
use crate::destination::{self, DestinationInfo};
use crate::error::{Result, quoted};
use crate::event::{Event, Phase};
use crate::source::ReadReport;
use crate::source_info::SourceInfo;

/// The copy is done: on the medium, and under its final name.
pub struct Finished<'a> {
    pub context: Context<'a>,
    pub source_info: SourceInfo,
    pub source_alignment: u64,
    pub destination_info: DestinationInfo,
    pub totals: Totals,
    /// The range of the copy that shares its blocks with the source.
    pub cloned: Range<u64>,
    pub read: ReadReport,
    pub written: destination::Finished,
    pub digest: Option<NamedDigest>,
    pub verification: Verification,
    pub cache_watch: CacheWatch,
    /// From the start of the copy until the last block was written.
    pub copying: Duration,
}

/// The result of --verify.
#[derive(Default)]
pub struct Verification {
    pub elapsed: Duration,
    /// Why not everything was compared with the medium, if so.
    pub gap: Option<String>,
}

impl<'a> Moved<'a> {
    /// Checks the source and the digest, then completes the destination: sync, --verify, attributes, name.
    pub fn finish(self) -> Result<Finished<'a>> {
        let Moved { planned: Planned { opened, checks, cache_watch, cloned, .. }, totals, copying } = self;
        let Opened { context, source, destination_info, destination } = opened;
        let (job, name) = (context.job, &destination_info.name);
        let read = source.source.finish()?;
        let checked = checks.finish(name)?;
        context.observer.event(Event::Phase(Phase::Syncing));
        let mut range_digests = checked.range_digests;
        let mut verification = Verification::default();
        // Called with the synced file, before it gets its name, and with the offset of the copy in it.
        let mut verify = |file: &File, base: u64| {
            let Some(range_digests) = range_digests.take() else { return Ok(()) };
            context.observer.event(Event::Phase(Phase::Verifying));
            let started = Instant::now();
            verification.gap = range_digests.verify(job, name, file, base, &context.pace)?;
            verification.elapsed = started.elapsed();
            Ok(())
        };
        let written = cache_watch.during(|| destination.finish(&source.info, &mut verify))?;
        context.forward_idle_messages();
        if job.verify && destination_info.resumed > 0 {
            let resumed = destination_info.resumed;
            verification.gap.get_or_insert_with(|| {
                let why = "from an earlier copy were not compared with the source";
                format!("not verified: {resumed} bytes of {} {why}", quoted(name))
            });
        }
        Ok(Finished {
            context,
            source_info: source.info,
            source_alignment: source.alignment,
            destination_info,
            totals,
            cloned,
            read,
            written,
            digest: checked.digest,
            verification,
            cache_watch,
            copying,
        })
    }
}
