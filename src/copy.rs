//! The copy: symmetric workers, each with one buffer, each in the same loop.
//!
//! ```text
//! source.next(&mut block)    claims the next range, in order, and fills the buffer
//! checks.see(&block)           digests; in parallel per block, or in order
//! destination.put(&block)    writes it: at its offset, in parallel; or in its turn, to a stream
//! ```
//!
//! There is no queue and no pool: a worker that must wait waits at the [`Sequencer`]. Ranges are
//! handed out in order, so the one that the others wait for is always being worked on. A worker that
//! fails shuts the sequencer, and the others stop at their next block.

use std::fs::{File, Metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::block::{Block, Layout};
use crate::check::Checks;
use crate::check::watch::{self, Watch};
use crate::cleanup::Cleanup;
use crate::destination::{self, Destination};
use crate::direct::{Traffic, WriteReport};
use crate::error::{Error, Result, quoted};
use crate::event::{Event, Observer, Phase};
use crate::job::{Algorithm, Job};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source::{self, Course, Source};

/// What a finished copy did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes at the destination, holes included.
    pub bytes: u64,
    /// Of these, bytes that an earlier, interrupted copy had left there.
    pub resumed: u64,
    /// Bytes of this copy that the source had as holes.
    pub holes: u64,
    /// How the source was read.
    pub read: Traffic,
    /// How the destination was written.
    pub written: WriteReport,
    /// From the start to the last fsync.
    pub elapsed: Duration,
    /// Of this, moving the bytes.
    pub copying: Duration,
    /// Of this, waiting for the medium and giving the name.
    pub syncing: Duration,
    /// Of this, reading back.
    pub verifying: Duration,
    /// The digest of the bytes copied, if it was asked for.
    pub digest: Option<(Algorithm, Vec<u8>)>,
    /// The destination as it was named, links and directories followed.
    pub destination: PathBuf,
    /// Alignment of direct transfers in bytes: of the source, of the destination; 1 is none.
    pub alignment: (u64, u64),
    /// What of the source and of the destination was in the cache, if it was asked for and they are
    /// files or devices.
    pub cache: (Option<watch::Course>, Option<watch::Course>),
    /// The medium was read back, and holds what was written.
    pub verified: bool,
    /// What was chosen, and why.
    pub chosen: Vec<String>,
    /// What the user should know: what did not go direct, what changed meanwhile.
    pub notes: Vec<String>,
}

/// Copies as `job` says. On an error nothing is left behind, unless the job says to keep it, and
/// [`Error::left`] says what stands under the destination's name. `standing` is for a thread that may
/// have to end the copy early.
pub fn copy(job: &Job, observer: &dyn Observer, cleanup: &Cleanup) -> Result<Report> {
    let (started, mut restarts) = (Instant::now(), 0);
    let mut job = job.clone();
    loop {
        let mut error = match attempt(&job, observer, cleanup, (started, restarts)) {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if !error.again || !cleanup.start_over() {
            let wrong = error.again || error.wrong;
            error.left = if wrong { cleanup.discard() } else { cleanup.abandon() };
            return Err(error);
        }
        observer.event(Event::Notice(&format!("{error}; starting over")));
        restarts += 1;
        job.force = true; // whoever was asked about a device has answered
    }
}

fn attempt(
    job: &Job,
    observer: &dyn Observer,
    cleanup: &Cleanup,
    (started, restarts): (Instant, u32),
) -> Result<Report> {
    let (mut source, from) = source::open(job, observer, restarts)?;
    let (name, mut to) = destination::open(job, &from, observer, cleanup)?;
    let layout = layout(job, &*source, &*to)?;
    let length = from.length;
    let alignment = (source.alignment(), to.alignment());
    let mut chosen =
        vec![format!("{}: {}", quoted(&from.name), source.describe()), format!("{}: {}", quoted(&name), to.describe())];
    chosen.iter().for_each(|line| observer.event(Event::Detail(line)));
    let stored = |found: &Metadata| found.is_file() || found.file_type().is_block_device();
    let read = from.file.as_ref().filter(|(_, found)| stored(found)).map(|(file, _)| file);
    let files: Vec<&File> = read.into_iter().chain(to.file()).collect();
    let pace = Arc::new(Pace::new(job, &files));
    source.pace(&pace);
    pace.idle.iter().for_each(|idle| to.yield_at(idle));
    let checks = Checks::new(job, &layout, &from.name, &name)?;
    let resumed = to.resumed();
    let number = match to.file() {
        Some(file) if resumed > 0 => {
            observer.event(Event::Phase(Phase::Resuming));
            checks.catch_up(job, &name, file, resumed, &pace)?
        }
        _ => 0,
    };
    // Under a limit a stream gets the zeros of a hole block by block, too.
    let whole = pace.rate.limits() && to.in_order();
    source.begin(&layout, Course { from: resumed, number, whole, in_order: to.in_order() || checks.in_order() });

    let watch = if job.check_cache { Watch::new(&from, &name, to.file())? } else { Watch::default() };
    if length.is_some_and(|length| length > job.block_size as u64) {
        observer.event(Event::Phase(Phase::Reserving));
        source.data_ranges(&layout, &mut |offset, len| to.reserve(offset, len))?;
    }
    observer.event(Event::Start(length));
    observer.event(Event::Copied(resumed));
    let blocks = length.map_or(u64::MAX, |length| length.div_ceil(job.block_size as u64).max(1));
    let workers = match pace.rate.limits() && to.in_order() {
        // Others would wait behind a reader that stalls, and write all at once when he goes on.
        true => 1,
        false => blocks.min(job.queue_depth.max(source.workers()) as u64) as usize,
    };
    let room = room(source.room(&layout), workers, length);
    let work = Work { layout, room, source: &*source, destination: &*to, checks: &checks, pace: &pace, observer };
    let moved = watch.during(|| run(workers, &work))?;
    let copying = started.elapsed();

    let mut notes: Vec<String> = source.finish()?.into_iter().collect();
    let (digest, mut range_digests) = checks.finish(&name)?;
    observer.event(Event::Phase(Phase::Syncing));
    let (mut verifying, mut unverified) = (Duration::ZERO, None);
    let mut inspect = |file: &File, base| {
        let Some(range_digests) = range_digests.take() else { return Ok(()) };
        observer.event(Event::Phase(Phase::Verifying));
        let began = Instant::now();
        unverified = range_digests.verify(job, &name, file, base, &pace)?;
        verifying = began.elapsed();
        Ok(())
    };
    let finished = watch.during(|| to.finish(&from, &mut inspect))?;
    tell(&pace, observer);
    let cache = watch.courses();
    let (read, why) = source.traffic();
    if read.resident > 0 {
        let what = "were in the page cache, and were read from there";
        chosen.push(format!("{} bytes of {} {what}", read.resident, quoted(&from.name)));
        chosen.last().iter().for_each(|line| observer.event(Event::Detail(line)));
    }
    notes.extend(note(&from.name, "read", &read, why.as_deref()));
    notes.extend(note(&name, "written", &finished.written.traffic, finished.written.why.as_deref()));
    notes.extend(finished.notes);
    if resumed > 0 && job.verify {
        let what = "that an earlier copy had written were not compared with the source";
        unverified.get_or_insert(format!("not verified: {resumed} bytes of {} {what}", quoted(&name)));
    }
    let verified = job.verify && unverified.is_none();
    notes.extend(unverified);
    if let Some(pages) = finished.written.cached_pages.filter(|pages| *pages > 0) {
        notes.push(format!("{pages} pages of {} are in the page cache", quoted(&name)));
    }
    let (bytes, holes) = (resumed + moved.bytes, moved.holes);
    let elapsed = started.elapsed();
    let syncing = elapsed.saturating_sub(copying + verifying);
    let (written, destination) = (finished.written, name);
    Ok(Report {
        bytes,
        resumed,
        holes,
        read,
        written,
        elapsed,
        copying,
        syncing,
        verifying,
        digest,
        destination,
        alignment,
        cache,
        verified,
        chosen,
        notes,
    })
}

/// How the copy is cut into blocks, so that both sides get what their alignment asks for.
fn layout(job: &Job, source: &dyn Source, destination: &dyn Destination) -> Result<Layout> {
    let needed = destination.alignment().max(source.alignment());
    job.check_block_size(needed)?;
    let unit = destination.unit();
    Ok(Layout { block_size: job.block_size, unit, lead: (job.seek % unit) as usize })
}

/// Bytes of a buffer that has to have `needed`. A huge page makes a transfer of 64 KiB to 1 MiB up to
/// twice as fast (benches/RESULTS.md), so each gets one while all have no more than the usual ones, and
/// where there is enough to copy to be worth clearing it.
fn room(needed: usize, workers: usize, length: Option<u64>) -> usize {
    const HUGE_PAGE: usize = 2 << 20;
    let usual = Job::BLOCK_SIZE * Job::QUEUE_DEPTH;
    let worth = needed >= 64 << 10 && workers * HUGE_PAGE <= usual && length.is_none_or(|len| len >= usual as u64);
    if worth { needed.max(HUGE_PAGE) } else { needed }
}

/// What the workers moved.
#[derive(Default)]
struct Moved {
    bytes: u64,
    holes: u64,
}

/// What every worker works with.
struct Work<'a> {
    layout: Layout,
    /// Bytes of each one's buffer.
    room: usize,
    source: &'a dyn Source,
    destination: &'a dyn Destination,
    checks: &'a Checks,
    pace: &'a Pace,
    observer: &'a dyn Observer,
}

fn run(workers: usize, work: &Work) -> Result<Moved> {
    let &Work { ref layout, room, source, destination, checks, pace, observer } = work;
    let sequencer = Sequencer::default();
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let total: Mutex<Moved> = Mutex::default();
    let work = || {
        let mut moved = Moved::default();
        let mut step = || -> Result<()> {
            let mut block = Block::new(room).map_err(no_memory)?;
            while source.next(layout, &mut block, &sequencer)? {
                checks.see(&block);
                pace.rate.wait(Direction::Write, block.data().len());
                destination.put(&block, &sequencer)?;
                observer.event(Event::Copied(block.len));
                tell(pace, observer);
                moved.bytes += block.len;
                moved.holes += if block.hole { block.len } else { 0 };
            }
            Ok(())
        };
        if let Err(error) = step() {
            // The first one is the cause, unless it only says that another failed.
            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|first| first.consequence) {
                *first = Some(error);
            }
            drop(first);
            sequencer.cancel();
            checks.cancel();
            pace.rate.cancel();
            source.stop();
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.bytes += moved.bytes;
        total.holes += moved.holes;
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            // Where threads are short, fewer do as well: this one is always there.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What --idle sees, for -v.
fn tell(pace: &Pace, observer: &dyn Observer) {
    pace.messages().iter().for_each(|line| observer.event(Event::Detail(line)));
}

fn no_memory(e: std::io::Error) -> Error {
    Error::io("making a buffer for", &PathBuf::from("the copy"), e)
        .hint("a smaller --block-size or --queue-depth needs less memory")
}

/// One line on what did not go direct, if anything.
fn note(name: &Path, verb: &str, traffic: &Traffic, why: Option<&str>) -> Option<String> {
    let (bytes, how) = match traffic {
        Traffic { uncached: bytes @ 1.., .. } => (bytes, "uncached"),
        Traffic { cached: bytes @ 1.., .. } => (bytes, "through the page cache"),
        Traffic { memory: bytes @ 1.., .. } => (bytes, "in memory"),
        _ => return None,
    };
    let why = why?;
    Some(format!("not direct: {bytes} bytes of {} {verb} {how}: {why}", quoted(name)))
}
