//! Last stage: what the copy did, for the caller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::finish::Finished;
use crate::check::NamedDigest;
use crate::check::cache_watch::PageCounts;
use crate::direct::{Traffic, WriteReport};
use crate::error::quoted;
pub use crate::source::CommandEnd;

/// What a finished copy did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes at the destination, holes included.
    pub bytes: u64,
    /// Of these, bytes that an interrupted copy had left there.
    pub resumed: u64,
    /// Bytes that share their blocks with the source: they were cloned, not moved.
    pub cloned: u64,
    /// Bytes of this copy that are holes in the source.
    pub holes: u64,
    /// How the source was read.
    pub source: SourceReport,
    /// How the destination was written.
    pub destination: DestinationReport,
    /// How long the parts of the copy took.
    pub times: Times,
    /// The digest of the bytes copied, if requested.
    pub digest: Option<NamedDigest>,
    /// The destination was read back from the medium, and holds what was written.
    pub verified: bool,
    /// What was chosen, and why.
    pub details: Vec<String>,
    /// What the user should know: what did not use direct I/O, what changed during the copy.
    pub notes: Vec<String>,
}

/// How the source was read.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// Bytes by I/O mode.
    pub traffic: Traffic,
    /// Why not all of them were read with direct I/O, if so.
    pub why_not_direct: Option<String>,
    /// Alignment of direct reads in bytes; 1 if they need none.
    pub alignment: u64,
    /// Its pages in the page cache, if requested and if it can have any.
    pub cache: Option<PageCounts>,
    /// How the command ended, if the source is one.
    pub command: Option<CommandEnd>,
}

/// How the destination was written.
#[derive(Clone, Debug)]
pub struct DestinationReport {
    /// Its name as the user gave it; in a directory, with the source's file name.
    pub name: PathBuf,
    /// Its path, symbolic links followed.
    pub path: PathBuf,
    /// What the writer did.
    pub written: WriteReport,
    /// Alignment of direct writes in bytes; 1 if they need none.
    pub alignment: u64,
    /// Its pages in the page cache, if requested and if it can have any.
    pub cache: Option<PageCounts>,
}

/// How long a copy took.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the start to the last fsync.
    pub total: Duration,
    /// Of this, moving the bytes.
    pub copying: Duration,
    /// Of this, waiting for the medium and publishing.
    pub syncing: Duration,
    /// Of this, reading back.
    pub verifying: Duration,
}

impl Finished<'_> {
    /// Puts the report together.
    pub fn report(mut self) -> Report {
        let pages = self.cache_watch.page_counts();
        let cached = self.read.traffic.resident;
        if cached > 0 {
            let name = quoted(&self.source_info.name);
            self.context
                .detail(format!("{cached} bytes of {name} were read from the page cache, which held them already"));
        }
        let notes = self.notes();
        let Self { context, destination_info, totals, read, written, verification, .. } = self;
        let cloned = self.cloned.end - self.cloned.start;
        let (total, verifying) = (context.started.elapsed(), verification.elapsed);
        let syncing = total.saturating_sub(self.copying + verifying);
        Report {
            bytes: destination_info.resumed + cloned + totals.bytes,
            resumed: destination_info.resumed,
            cloned,
            holes: totals.holes,
            source: SourceReport {
                traffic: read.traffic,
                why_not_direct: read.why_not_direct,
                alignment: self.source_alignment,
                cache: pages.source,
                command: read.command,
            },
            destination: DestinationReport {
                name: destination_info.name,
                path: destination_info.path,
                written: written.written,
                alignment: destination_info.alignment,
                cache: pages.destination,
            },
            times: Times { total, copying: self.copying, syncing, verifying },
            digest: self.digest,
            verified: context.job.verify && verification.gap.is_none(),
            details: context.details,
            notes,
        }
    }

    /// What the user should know.
    fn notes(&mut self) -> Vec<String> {
        let (source, destination) = (&self.source_info.name, &self.destination_info.name);
        let written = &self.written.written;
        let mut notes: Vec<String> = self.read.note.take().into_iter().collect();
        if !self.cloned.is_empty() {
            let bytes = self.cloned.end - self.cloned.start;
            let (destination, source) = (quoted(destination), quoted(source));
            notes.push(format!("cloned: {bytes} bytes of {destination} share the blocks of {source}"));
        }
        notes.extend(not_direct(source, "read", &self.read.traffic, self.read.why_not_direct.as_deref()));
        notes.extend(not_direct(destination, "written", &written.traffic, written.why.as_deref()));
        notes.extend(may_stay(source, self.read.why_not_evicted.as_deref()));
        notes.extend(may_stay(destination, written.why_not_evicted.as_deref()));
        notes.append(&mut self.written.notes);
        notes.extend(self.verification.gap.clone());
        if let Some(pages) = written.cached_pages.filter(|pages| *pages > 0) {
            let (unit, verb) = if pages == 1 { ("page", "is") } else { ("pages", "are") };
            notes.push(format!("{pages} {unit} of {} {verb} in the page cache", quoted(destination)));
        }
        notes
    }
}

/// The note on pages that may stay in the page cache.
fn may_stay(name: &Path, why: Option<&str>) -> Option<String> {
    Some(format!("pages of {} may stay in the page cache: {}", quoted(name), why?))
}

/// The note on bytes that did not use direct I/O, if there were any.
fn not_direct(name: &Path, verb: &str, traffic: &Traffic, why: Option<&str>) -> Option<String> {
    let (bytes, how) = traffic.indirect()?;
    Some(format!("not direct: {bytes} bytes of {} {verb} {how}: {}", quoted(name), why?))
}
