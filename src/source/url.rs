//! A URL as a source: one connection read in order, or several that fetch ranges side by side. What is
//! lost on the way is asked for again, from the byte that was reached, and only of the same version.
//!
//! ```text
//! url          lanes, each with its range; who reads which block
//!   first      the first request: what is there, and can it be had in ranges?
//!   lanes      which connection fetches which range
//!   client     one request, redirects followed
//!     answer, transport, tls, proxy, login
//!   retry      what is worth trying again, and when
//!   name       the file name
//! ```

mod answer;
mod client;
mod first;
mod lanes;
mod login;
mod name;
mod proxy;
mod retry;
mod tls;
mod transport;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::url::Url;

use self::answer::{Answer, Wanted};
use self::client::Client;
use self::lanes::{Lane, Lanes};
use self::retry::{Cure, PROGRESS, Trouble};
use super::{OpenSource, ReadPlan, ReadReport, Source};
use crate::block::{Block, Layout, Placement};
use crate::error::{Error, Result, quoted};
use crate::event::{Event, Observer};
use crate::job::{Endpoint, Job};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;

/// A server that sends shorter ranges than it is asked for is asked on at once if they have this length.
const LEAST_RANGE: u64 = 256 << 10;
/// Between two looks at whether the copy is over.
const LOOK: Duration = Duration::from_millis(100);

pub struct UrlSource<'a> {
    client: Client<'a>,
    observer: &'a dyn Observer,
    name: PathBuf,
    asked: Url,
    /// Where the last answer came from; what follows is asked of the same.
    found: Mutex<Url>,
    /// Offset of the first byte to copy.
    start: u64,
    /// Bytes to copy, if that is known.
    len: Option<u64>,
    /// Only the user says so: it has to be looked whether it is true.
    doubtful: bool,
    /// Bytes of the whole.
    total: Option<u64>,
    version: Option<String>,
    connections: usize,
    restarts: u32,
    /// The first block of this copy: its offset and number.
    first: (u64, u64),
    lanes: Lanes,
    layout: Layout,
    pace: Arc<Pace>,
}

/// Asks for the URL, and takes what the answer's header says.
pub fn open<'a>(
    job: &'a Job,
    url: &str,
    pace: &Arc<Pace>,
    observer: &'a dyn Observer,
    restarts: u32,
) -> Result<OpenSource<'a>> {
    let name = job.source.name();
    let usage = |why: &str| Error::usage(format!("{} is no URL: {why}", quoted(&name)));
    let mut asked = Url::parse(url).map_err(|e| usage(&e.to_string()))?;
    asked.set_fragment(None);
    if asked.host_str().is_none_or(str::is_empty) {
        return Err(usage("it has no host"));
    }
    let client = Client::new(&job.http, asked.clone(), observer);
    let mut source = UrlSource {
        client,
        observer,
        name,
        found: Mutex::new(asked.clone()),
        asked,
        start: job.skip,
        len: None,
        doubtful: false,
        total: None,
        version: None,
        connections: job.http.connections,
        restarts,
        first: (0, 0),
        lanes: Lanes::default(),
        layout: Layout::default(),
        pace: pace.clone(),
    };
    let disposition = source.ask_first(job)?;
    let suggested_name = name::suggested_name(&source.asked, disposition.as_deref());
    let (length, identity) = (source.len, source.identity());
    let info = SourceInfo { name: source.name.clone(), suggested_name, file: None, length, identity };
    let (min_workers, description) = (source.connections, source.describe());
    Ok(OpenSource { info, alignment: 1, min_workers, extents: None, description, source: Box::new(source) })
}

impl UrlSource<'_> {
    /// Asks until there is an answer, or no hope. `answered`: the server did answer before.
    fn ask(&self, lane: &mut Lane, mut wanted: Wanted<'_>, sequencer: &Sequencer, answered: bool) -> Result<Answer> {
        let mut url = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = answered && wanted.more_follow;
        loop {
            match self.client.get(&url, wanted) {
                Ok(answer) => {
                    *self.found.lock().unwrap_or_else(PoisonError::into_inner) = answer.url.clone();
                    return Ok(answer);
                }
                // A connection that was kept may have been closed meanwhile. (RFC 9112, 9.3.1)
                Err(trouble) if trouble.cure == Cure::Lost && kept && !wanted.fresh => wanted.fresh = true,
                // Where it was redirected to may be forgotten or gone by now.
                Err(trouble) if trouble.cure == Cure::None && url != self.asked => url = self.asked.clone(),
                Err(trouble) => {
                    self.wait(lane, trouble, sequencer, answered)?;
                    url = self.asked.clone();
                }
            }
            if sequencer.is_cancelled() {
                return Err(self.error(lane, "the copy is over"));
            }
        }
    }

    /// Goes on after a pause, or gives up.
    fn wait(&self, lane: &mut Lane, mut trouble: Trouble, sequencer: &Sequencer, answered: bool) -> Result<()> {
        if sequencer.is_cancelled() {
            return Ok(());
        }
        trouble.cure = match trouble.cure {
            Cure::Lost => Cure::Again(None),
            Cure::Reconnect if answered => Cure::Again(None),
            Cure::Reconnect | Cure::StartOver if !answered => Cure::None,
            cure => cure,
        };
        if lane.brought >= PROGRESS {
            lane.failures = self.restarts;
        }
        lane.brought = 0;
        lane.failures = lane.failures.saturating_add(1);
        let retry = self.client.web.retry;
        let (hopeless, tried) = (trouble.cure == Cure::None, lane.failures > retry);
        if hopeless || tried {
            let mut error = self.error(lane, trouble.why.clone());
            if let Some(hint) = trouble.hint {
                error = error.hint(hint);
            }
            if tried && !hopeless && retry > 0 {
                error = self.error(lane, format!("{}; given up after {} attempts", trouble.why, lane.failures));
                error = error.hint("--retry N tries more often, and --resume keeps what was copied");
            }
            return Err(error);
        }
        let (anew, next) = (trouble.cure == Cure::StartOver, lane.failures + 1);
        // What starts over says so itself, and did not try this again before.
        let pause = if anew && lane.failures == 1 { Duration::ZERO } else { trouble.pause(lane.failures) };
        let error = self.error(lane, trouble.why);
        if !anew {
            let seconds = (pause.as_secs_f64() * 10.0).round() / 10.0;
            self.observer.event(Event::Notice(&format!(
                "{error}; attempt {next} of {} in {seconds} s",
                retry.saturating_add(1)
            )));
        }
        let until = Instant::now() + pause;
        while !sequencer.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LOOK));
        }
        if anew { Err(error.restartable()) } else { Ok(()) }
    }

    fn error(&self, lane: &Lane, why: impl Into<String>) -> Error {
        let error = Error::failed("reading", &self.name, why);
        if lane.at > 0 { error.at(self.start + lane.at) } else { error }
    }

    /// Asks for what a lane has not brought yet: the same version, or none.
    fn reopen(&self, lane: &mut Lane, sequencer: &Sequencer) -> Result<()> {
        let from = self.start + lane.at;
        let end = (lane.end != u64::MAX).then(|| self.start + lane.end);
        let whole = from == 0 && self.connections == 1 && end == self.total;
        let range = (!whole).then_some((from, end));
        let (version, more_follow) = (self.version.as_deref(), self.connections > 1);
        let wanted = Wanted { range, version, more_follow, fresh: false };
        let answer = self.ask(lane, wanted, sequencer, true)?;
        let same = self.version.is_some() && answer.version == self.version;
        let other_length = match (self.total, answer.total) {
            (Some(total), Some(now)) => now != total,
            (Some(_), None) => !answer.partial,
            (None, _) => false,
        };
        let why = if other_length || answer.behind_end {
            Some("it has another length now")
        } else if answer.changed || answer.version.is_some() && answer.version != self.version {
            Some("it is another version now")
        } else if !answer.partial && from > 0 && (!same || self.connections > 1) {
            Some("the server sends it from the start again")
        } else {
            None
        };
        if let Some(why) = why {
            return self.wait(lane, Trouble::new(Cure::StartOver, why), sequencer, true);
        }
        (lane.from, lane.ahead) = (lane.at, from - answer.from);
        lane.body = Some(answer.body);
        Ok(())
    }

    /// Reads until `buffer` is full or the lane's range ends. Fewer: the source ended, or the copy is over.
    fn fill(&self, lane: &mut Lane, buffer: &mut [u8], sequencer: &Sequencer) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !sequencer.is_cancelled() {
            let Some(body) = &mut lane.body else {
                self.reopen(lane, sequencer)?;
                continue;
            };
            let ahead = usize::try_from(lane.ahead).unwrap_or(usize::MAX);
            let room = if ahead > 0 { ahead.min(buffer.len() - filled) } else { buffer.len() - filled };
            let trouble = match body.read(&mut buffer[filled..filled + room]) {
                Ok(n @ 1..) if ahead > 0 => {
                    lane.ahead -= n as u64;
                    continue;
                }
                Ok(0) if ahead > 0 && self.total.is_none() => {
                    let why = format!("it ended {ahead} bytes before {} was reached", self.start + lane.at);
                    return Err(self.error(lane, why));
                }
                // Of unknown length: this is its end, and --count only the most.
                Ok(0) if self.total.is_none() => {
                    lane.end = lane.at;
                    break;
                }
                Ok(0) if lane.at - lane.from >= LEAST_RANGE => None, // a shorter range than was asked for
                Ok(0) => Some(Trouble::new(Cure::Again(None), "the server sends less than it was asked for")),
                Ok(n) => {
                    filled += n;
                    lane.at += n as u64;
                    lane.brought += n as u64;
                    continue;
                }
                Err(e) => Some(Trouble::of_io(&e, self.client.web)),
            };
            lane.body = None;
            if let Some(trouble) = trouble {
                let mut trouble = trouble;
                if lane.at > 0 && trouble.cure != Cure::None && (self.version.is_none() || self.total.is_none()) {
                    let cannot = "it cannot be gone on with, for the server does not name the version (ETag, \
                                  Last-Modified) and length";
                    trouble = Trouble::new(Cure::StartOver, format!("{}; {cannot}", trouble.why));
                }
                self.wait(lane, trouble, sequencer, true)?;
            }
        }
        Ok(filled)
    }

    /// A lane has brought all of its range. If that is all that was announced, nothing may follow.
    fn close(&self, lane: &mut Lane) -> Result<()> {
        let Some(body) = lane.body.take() else { return Ok(()) };
        match body.finish() {
            Ok(false) if self.connections == 1 => Err(self.error(lane, "the server sends more than it announced")),
            // The next request will find out what is wrong with the connection.
            _ => Ok(()),
        }
    }
}

impl Source for UrlSource<'_> {
    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let layout = &self.layout;
        let Some(mut lane) = self.lanes.take(layout, sequencer) else { return Ok(false) };
        let offset = lane.at;
        let Placement { lead, max_len } = layout.placement(offset);
        let room = max_len.min(usize::try_from(lane.end - offset).unwrap_or(usize::MAX));
        self.pace.rate.wait(Direction::Read, room);
        let read = match self.fill(&mut lane, &mut block.buffer[lead..lead + room], sequencer) {
            // Another worker failed, and ended the connections: that is not this one's story.
            Err(_) | Ok(_) if sequencer.is_cancelled() => return Ok(false),
            other => other?,
        };
        if let Some(len) =
            self.len.filter(|len| self.doubtful && (lane.at > *len || lane.at == lane.end && lane.at < *len))
        {
            let more = if lane.at > len { "at least " } else { "" };
            let why = format!("it has {more}{} bytes, and --size says {}", self.start + lane.at, self.start + len);
            return Err(Error::content(&self.name, why));
        }
        if lane.at >= lane.end {
            self.close(&mut lane)?;
        }
        self.lanes.give_back(lane);
        let (first, number) = self.first;
        let behind = offset - first + if first == 0 { layout.lead as u64 } else { 0 };
        block.number = number + behind / layout.block_size as u64;
        (block.offset, block.len, block.lead, block.hole) = (offset, read as u64, lead, false);
        Ok(read > 0)
    }

    fn begin(&mut self, plan: ReadPlan) {
        self.layout = plan.layout;
        self.first = (plan.start, plan.first_block);
        let mut first = self.lanes.first.take().unwrap_or_else(|| Lane::new(0, self.restarts));
        if self.connections > 1 {
            first.end = first.end.min(plan.layout.placement(0).max_len as u64);
        }
        if plan.start > 0 {
            // What comes next has another range; the answer that is open is not for it.
            let end = if self.connections == 1 { self.len.unwrap_or(u64::MAX) } else { plan.start };
            first = Lane { end, ..Lane::new(plan.start, self.restarts) };
        }
        let more = (1..self.connections).map(|_| Lane::new(first.end, self.restarts)).collect();
        let len = if self.connections == 1 { first.end } else { self.len.unwrap_or(0) };
        self.lanes = Lanes::new(first, more, len, plan.in_order);
    }

    fn cancel(&self) {
        self.client.stop();
    }

    fn finish(&self) -> Result<ReadReport> {
        Ok(ReadReport::default())
    }
}

impl UrlSource<'_> {
    /// What was opened, for verbose output.
    fn describe(&self) -> String {
        let length = self.len.map_or("unknown length".to_string(), |len| format!("{len} bytes"));
        let version = self.version.as_ref().map_or("no version".to_string(), |version| format!("version {version}"));
        let lines = if self.connections == 1 { "connection" } else { "connections" };
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match *found == self.asked {
            true => String::new(),
            false => format!(", from {}", quoted(Path::new(&Endpoint::Url(found.to_string()).name()))),
        };
        format!("{length}, {version}, {} {lines}{from}", self.connections)
    }
}
