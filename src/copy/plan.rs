//! Second stage: how the copy is cut into blocks, which checks see them, and how many workers move them. What an
//! interrupted copy left is read, what the filesystem can clone is cloned, and space is reserved.

use std::fs::File;
use std::ops::Range;

use super::open::{Context, Opened};
use crate::block::Layout;
use crate::check::Checks;
use crate::check::cache_watch::CacheWatch;
use crate::direct::{DirectPolicy, DirectReader};
use crate::error::{Error, Result, plain, quoted};
use crate::event::{Event, Phase};
use crate::job::{Job, Reflink, Sparse};
use crate::source::{CloneReader, ReadPlan};
use crate::source_info::SourceInfo;
use crate::sys;

/// A transfer of 64 KiB to 1 MiB is up to twice as fast from a huge page (benches/RESULTS.md).
const HUGE_PAGE: usize = 2 << 20;
/// The smallest block, in bytes, that gains from a huge page.
const MIN_HUGE_PAGE_BLOCK: usize = 64 << 10;
/// Memory for buffers unless the user asks for more, in bytes.
const DEFAULT_MEMORY: usize = Job::BLOCK_SIZE * Job::QUEUE_DEPTH;

/// Everything the workers need, and everything that must be known before the first block moves.
pub struct Planned<'a> {
    pub opened: Opened<'a>,
    pub checks: Checks,
    pub cache_watch: CacheWatch,
    /// The range of the copy that shares its blocks with the source.
    pub cloned: Range<u64>,
    pub workers: usize,
    /// Bytes of each worker's buffer.
    pub buffer_size: usize,
}

impl<'a> Opened<'a> {
    /// Plans the copy.
    pub fn plan(mut self) -> Result<Planned<'a>> {
        let job = self.context.job;
        let layout = self.layout();
        let checks = Checks::new(job, &layout, &self.source.info.name, &self.destination_info.name)?;
        let first_block = self.digest_resumed(&checks)?;
        let cache_watch = self.watch_cache()?;
        let cloned = self.clone_blocks()?;
        if cloned.is_empty() {
            self.reserve(&layout)?;
        }
        let limited = self.context.pace.rate.limits();
        let in_order = self.destination_info.in_order;
        self.source.source.begin(ReadPlan {
            layout,
            start: self.destination_info.resumed,
            first_block,
            // A rate limit on a stream also covers the zeros of a hole.
            fill_holes: limited && in_order,
            cloned: cloned.clone(),
            clone_reader: self.clone_reader(&cloned, &checks)?,
            in_order: in_order || checks.in_order(),
        })?;
        let Context { observer, .. } = self.context;
        observer.event(Event::Start(self.source.info.length));
        observer.event(Event::Copied(self.destination_info.resumed + not_read(&cloned, &checks)));
        // With several workers, the others would wait while the reader of the stream stalls, and then write all at once.
        let workers = if limited && in_order { 1 } else { self.workers(&cloned, &checks) };
        let buffer_size = self.buffer_size(&layout, workers);
        Ok(Planned { opened: self, checks, cache_watch, cloned, workers, buffer_size })
    }

    fn layout(&self) -> Layout {
        let job = self.context.job;
        let boundary = self.destination_info.block_boundary;
        Layout { block_size: job.block_size, boundary, lead: (job.seek % boundary) as usize }
    }

    /// Digests what an interrupted copy left. Returns the number of the first block that is still missing.
    fn digest_resumed(&self, checks: &Checks) -> Result<u64> {
        let (destination, context) = (&self.destination_info, &self.context);
        match &destination.file {
            Some(file) if destination.resumed > 0 => {
                context.observer.event(Event::Phase(Phase::Resuming));
                checks.digest_resumed(context.job, &destination.name, file, destination.resumed, &context.pace)
            }
            _ => Ok(0),
        }
    }

    /// Clones what the filesystem can clone. Returns the range of the copy that need not be moved.
    fn clone_blocks(&mut self) -> Result<Range<u64>> {
        let job = self.context.job;
        let wanted = job.reflink != Reflink::Never && job.sparse == Sparse::Auto && job.direct == DirectPolicy::Auto;
        if !wanted || self.destination_info.resumed > 0 {
            return Ok(0..0);
        }
        let SourceInfo { name, file, length, .. } = &self.source.info;
        let always = job.reflink == Reflink::Always;
        let cannot_clone =
            |e| Error::io("cloning", name, e).hint("leave out --reflink always: dio-cp then copies the data");
        let is_file = file.as_ref().is_some_and(|(_, metadata)| metadata.is_file());
        if is_file && length.is_none_or(|length| length == 0) {
            return Ok(0..0);
        }
        let Some(extents) = self.source.extents.as_ref().filter(|_| is_file) else {
            let why = std::io::Error::other("it is not a file");
            return if always { Err(cannot_clone(why)) } else { Ok(0..0) };
        };
        match self.destination.clone_blocks(&extents.range()) {
            Ok(cloned) => Ok(cloned),
            Err(e) if always => Err(cannot_clone(e)),
            Err(e) => {
                let line = format!("{}: not cloned: {}", quoted(name), plain(&e));
                self.context.detail(line);
                Ok(0..0)
            }
        }
    }

    /// Reads the cloned range back for the checks, if they need its bytes.
    fn clone_reader(&self, cloned: &Range<u64>, checks: &Checks) -> Result<Option<CloneReader>> {
        let Some(file) = self.destination_info.file.as_ref().filter(|_| !cloned.is_empty() && checks.need_bytes())
        else {
            return Ok(None);
        };
        let fail = |e| Error::io("reading back", &self.destination_info.name, e);
        // Reopened, so that a refusal of direct reads does not change how the file is written.
        let mut reader = DirectReader::from_file(File::open(sys::fd_path(file)).map_err(fail)?).map_err(fail)?;
        self.context.pace.idle.iter().for_each(|idle| reader.yield_at(idle));
        Ok(Some(CloneReader { reader, start: self.context.job.seek }))
    }

    fn watch_cache(&self) -> Result<CacheWatch> {
        let destination = &self.destination_info;
        if self.context.job.check_cache {
            CacheWatch::new(&self.source.info, &destination.name, destination.file.as_ref())
        } else {
            Ok(CacheWatch::default())
        }
    }

    /// Reserves space for the data, so that a full disk is an error now and not in an hour.
    fn reserve(&self, layout: &Layout) -> Result<()> {
        let Some(length) = self.source.info.length.filter(|length| *length > layout.block_size as u64) else {
            return Ok(());
        };
        self.context.observer.event(Event::Phase(Phase::Reserving));
        match &self.source.extents {
            Some(extents) => extents.for_each_data(layout, |offset, len| self.destination.reserve(offset, len)),
            None => self.destination.reserve(0, length),
        }
    }

    /// As many as the queue depth asks for, or the source serves, or there are blocks to read.
    fn workers(&self, cloned: &Range<u64>, checks: &Checks) -> usize {
        let job = self.context.job;
        let not_read = not_read(cloned, checks);
        let blocks = |length: u64| (length - not_read).div_ceil(job.block_size as u64).max(1);
        let blocks = self.source.info.length.map_or(u64::MAX, blocks);
        blocks.min(job.queue_depth.max(self.source.min_workers) as u64) as usize
    }

    /// Bytes for a block, and for what the source reads around it to stay aligned. At least a huge page, as long as
    /// that takes no more memory than the default does and there is enough to copy to be worth clearing it.
    fn buffer_size(&self, layout: &Layout, workers: usize) -> usize {
        let length = self.source.info.length;
        let alignment = self.source.alignment as usize;
        let around = if alignment > 1 { 2 * alignment } else { 0 };
        let longest_block = match &self.source.extents {
            Some(_) => length.unwrap_or(u64::MAX).min(layout.block_size as u64) as usize + layout.lead,
            None => layout.block_size,
        };
        let needed = longest_block + around;
        let long = length.is_none_or(|length| length >= DEFAULT_MEMORY as u64);
        let huge = needed >= MIN_HUGE_PAGE_BLOCK && workers * HUGE_PAGE <= DEFAULT_MEMORY && long;
        if huge { needed.max(HUGE_PAGE) } else { needed }
    }
}

/// Bytes of the copy that no worker has to read.
fn not_read(cloned: &Range<u64>, checks: &Checks) -> u64 {
    if checks.need_bytes() { 0 } else { cloned.end - cloned.start }
}
