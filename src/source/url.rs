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

mod client;
mod connections;
mod credentials;
mod failure;
mod name;
mod probe;
mod proxy;
mod response;
mod tls;
mod transport;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::url::Url;

use self::client::Client;
use self::connections::{Connection, ConnectionPool};
use self::failure::{PROGRESS_BYTES, Recovery, RequestFailure};
use self::response::{RangeRequest, Response};
use super::{OpenSource, ReadPlan, ReadReport, Source};
use crate::block::{Block, Layout, Placement};
use crate::error::{Error, Result, quoted};
use crate::event::{Event, Observer};
use crate::job::{Endpoint, Job};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;

/// A server that sends shorter ranges than it is asked for is asked on at once if they have this length.
const MIN_RANGE: u64 = 256 << 10;
/// Between two looks at whether the copy is over.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub struct UrlSource<'a> {
    client: Client<'a>,
    observer: &'a dyn Observer,
    name: PathBuf,
    requested_url: Url,
    /// Where the last answer came from; what follows is asked of the same.
    final_url: Mutex<Url>,
    /// Offset of the first byte to copy.
    start: u64,
    /// Bytes to copy, if that is known.
    len: Option<u64>,
    /// Only the user says so: it has to be looked whether it is true.
    length_unverified: bool,
    /// Bytes of the whole.
    total: Option<u64>,
    version: Option<String>,
    connections: usize,
    restarts: u32,
    /// The first block of this copy: its offset and number.
    first: (u64, u64),
    pool: ConnectionPool,
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
        final_url: Mutex::new(asked.clone()),
        requested_url: asked,
        start: job.skip,
        len: None,
        length_unverified: false,
        total: None,
        version: None,
        connections: job.http.connections,
        restarts,
        first: (0, 0),
        pool: ConnectionPool::default(),
        layout: Layout::default(),
        pace: pace.clone(),
    };
    let disposition = source.ask_first(job)?;
    let suggested_name = name::suggested_name(&source.requested_url, disposition.as_deref());
    let (length, identity) = (source.len, source.identity());
    let info = SourceInfo { name: source.name.clone(), suggested_name, file: None, length, identity };
    let (min_workers, description) = (source.connections, source.describe());
    Ok(OpenSource { info, alignment: 1, min_workers, extents: None, description, source: Box::new(source) })
}

impl UrlSource<'_> {
    /// Asks until there is an answer, or no hope. `answered`: the server did answer before.
    fn ask(
        &self,
        connection: &mut Connection,
        mut range_request: RangeRequest<'_>,
        sequencer: &Sequencer,
        answered: bool,
    ) -> Result<Response> {
        let mut url = self.final_url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = answered && range_request.more_follow;
        loop {
            match self.client.get(&url, range_request) {
                Ok(answer) => {
                    *self.final_url.lock().unwrap_or_else(PoisonError::into_inner) = answer.url.clone();
                    return Ok(answer);
                }
                // A connection that was kept may have been closed meanwhile. (RFC 9112, 9.3.1)
                Err(failure) if failure.recovery == Recovery::ConnectionLost && kept && !range_request.fresh => {
                    range_request.fresh = true
                }
                // Where it was redirected to may be forgotten or gone by now.
                Err(failure) if failure.recovery == Recovery::GiveUp && url != self.requested_url => {
                    url = self.requested_url.clone()
                }
                Err(failure) => {
                    self.wait(connection, failure, sequencer, answered)?;
                    url = self.requested_url.clone();
                }
            }
            if sequencer.is_cancelled() {
                return Err(self.error(connection, "the copy is over"));
            }
        }
    }

    /// Goes on after a pause, or gives up.
    fn wait(
        &self,
        connection: &mut Connection,
        mut failure: RequestFailure,
        sequencer: &Sequencer,
        answered: bool,
    ) -> Result<()> {
        if sequencer.is_cancelled() {
            return Ok(());
        }
        failure.recovery = match failure.recovery {
            Recovery::ConnectionLost => Recovery::Retry(None),
            Recovery::RetryIfAnswered if answered => Recovery::Retry(None),
            Recovery::RetryIfAnswered | Recovery::Restart if !answered => Recovery::GiveUp,
            recovery => recovery,
        };
        if connection.brought >= PROGRESS_BYTES {
            connection.failures = self.restarts;
        }
        connection.brought = 0;
        connection.failures = connection.failures.saturating_add(1);
        let retry = self.client.web.retry;
        let (hopeless, tried) = (failure.recovery == Recovery::GiveUp, connection.failures > retry);
        if hopeless || tried {
            let mut error = self.error(connection, failure.why.clone());
            if let Some(hint) = failure.hint {
                error = error.hint(hint);
            }
            if tried && !hopeless && retry > 0 {
                error =
                    self.error(connection, format!("{}; given up after {} attempts", failure.why, connection.failures));
                error = error.hint("--retry N tries more often, and --resume keeps what was copied");
            }
            return Err(error);
        }
        let (anew, next) = (failure.recovery == Recovery::Restart, connection.failures + 1);
        // What starts over says so itself, and did not try this again before.
        let pause = if anew && connection.failures == 1 { Duration::ZERO } else { failure.pause(connection.failures) };
        let error = self.error(connection, failure.why);
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
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        if anew { Err(error.restartable()) } else { Ok(()) }
    }

    fn error(&self, connection: &Connection, why: impl Into<String>) -> Error {
        let error = Error::failed("reading", &self.name, why);
        if connection.at > 0 { error.at(self.start + connection.at) } else { error }
    }

    /// Asks for what a lane has not brought yet: the same version, or none.
    fn reopen(&self, connection: &mut Connection, sequencer: &Sequencer) -> Result<()> {
        let from = self.start + connection.at;
        let end = (connection.end != u64::MAX).then(|| self.start + connection.end);
        let whole = from == 0 && self.connections == 1 && end == self.total;
        let range = (!whole).then_some((from, end));
        let (version, more_follow) = (self.version.as_deref(), self.connections > 1);
        let range_request = RangeRequest { range, version, more_follow, fresh: false };
        let answer = self.ask(connection, range_request, sequencer, true)?;
        let same = self.version.is_some() && answer.version == self.version;
        let other_length = match (self.total, answer.total) {
            (Some(total), Some(now)) => now != total,
            (Some(_), None) => !answer.partial,
            (None, _) => false,
        };
        let why = if other_length || answer.past_end {
            Some("it has another length now")
        } else if answer.changed || answer.version.is_some() && answer.version != self.version {
            Some("it is another version now")
        } else if !answer.partial && from > 0 && (!same || self.connections > 1) {
            Some("the server sends it from the start again")
        } else {
            None
        };
        if let Some(why) = why {
            return self.wait(connection, RequestFailure::new(Recovery::Restart, why), sequencer, true);
        }
        (connection.from, connection.ahead) = (connection.at, from - answer.from);
        connection.body = Some(answer.body);
        Ok(())
    }

    /// Reads until `buffer` is full or the lane's range ends. Fewer: the source ended, or the copy is over.
    fn fill(&self, connection: &mut Connection, buffer: &mut [u8], sequencer: &Sequencer) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !sequencer.is_cancelled() {
            let Some(body) = &mut connection.body else {
                self.reopen(connection, sequencer)?;
                continue;
            };
            let ahead = usize::try_from(connection.ahead).unwrap_or(usize::MAX);
            let room = if ahead > 0 { ahead.min(buffer.len() - filled) } else { buffer.len() - filled };
            let failure = match body.read(&mut buffer[filled..filled + room]) {
                Ok(n @ 1..) if ahead > 0 => {
                    connection.ahead -= n as u64;
                    continue;
                }
                Ok(0) if ahead > 0 && self.total.is_none() => {
                    let why = format!("it ended {ahead} bytes before {} was reached", self.start + connection.at);
                    return Err(self.error(connection, why));
                }
                // Of unknown length: this is its end, and --count only the most.
                Ok(0) if self.total.is_none() => {
                    connection.end = connection.at;
                    break;
                }
                Ok(0) if connection.at - connection.from >= MIN_RANGE => None, // a shorter range than was asked for
                Ok(0) => {
                    Some(RequestFailure::new(Recovery::Retry(None), "the server sends less than it was asked for"))
                }
                Ok(n) => {
                    filled += n;
                    connection.at += n as u64;
                    connection.brought += n as u64;
                    continue;
                }
                Err(e) => Some(RequestFailure::of_io(&e, self.client.web)),
            };
            connection.body = None;
            if let Some(failure) = failure {
                let mut failure = failure;
                if connection.at > 0
                    && failure.recovery != Recovery::GiveUp
                    && (self.version.is_none() || self.total.is_none())
                {
                    let cannot = "it cannot be gone on with, for the server does not name the version (ETag, \
                                  Last-Modified) and length";
                    failure = RequestFailure::new(Recovery::Restart, format!("{}; {cannot}", failure.why));
                }
                self.wait(connection, failure, sequencer, true)?;
            }
        }
        Ok(filled)
    }

    /// A lane has brought all of its range. If that is all that was announced, nothing may follow.
    fn close(&self, connection: &mut Connection) -> Result<()> {
        let Some(body) = connection.body.take() else { return Ok(()) };
        match body.finish() {
            Ok(false) if self.connections == 1 => {
                Err(self.error(connection, "the server sends more than it announced"))
            }
            // The next request will find out what is wrong with the connection.
            _ => Ok(()),
        }
    }
}

impl Source for UrlSource<'_> {
    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let layout = &self.layout;
        let Some(mut connection) = self.pool.take(layout, sequencer) else { return Ok(false) };
        let offset = connection.at;
        let Placement { lead, max_len } = layout.placement(offset);
        let room = max_len.min(usize::try_from(connection.end - offset).unwrap_or(usize::MAX));
        self.pace.rate.wait(Direction::Read, room);
        let read = match self.fill(&mut connection, &mut block.buffer[lead..lead + room], sequencer) {
            // Another worker failed, and ended the connections: that is not this one's story.
            Err(_) | Ok(_) if sequencer.is_cancelled() => return Ok(false),
            other => other?,
        };
        if let Some(len) = self.len.filter(|len| {
            self.length_unverified && (connection.at > *len || connection.at == connection.end && connection.at < *len)
        }) {
            let more = if connection.at > len { "at least " } else { "" };
            let why =
                format!("it has {more}{} bytes, and --size says {}", self.start + connection.at, self.start + len);
            return Err(Error::content(&self.name, why));
        }
        if connection.at >= connection.end {
            self.close(&mut connection)?;
        }
        self.pool.give_back(connection);
        let (first, number) = self.first;
        let behind = offset - first + if first == 0 { layout.lead as u64 } else { 0 };
        block.number = number + behind / layout.block_size as u64;
        (block.offset, block.len, block.lead, block.hole) = (offset, read as u64, lead, false);
        Ok(read > 0)
    }

    fn begin(&mut self, plan: ReadPlan) {
        self.layout = plan.layout;
        self.first = (plan.start, plan.first_block);
        let mut first = self.pool.first.take().unwrap_or_else(|| Connection::new(0, self.restarts));
        if self.connections > 1 {
            first.end = first.end.min(plan.layout.placement(0).max_len as u64);
        }
        if plan.start > 0 {
            // What comes next has another range; the answer that is open is not for it.
            let end = if self.connections == 1 { self.len.unwrap_or(u64::MAX) } else { plan.start };
            first = Connection { end, ..Connection::new(plan.start, self.restarts) };
        }
        let more = (1..self.connections).map(|_| Connection::new(first.end, self.restarts)).collect();
        let len = if self.connections == 1 { first.end } else { self.len.unwrap_or(0) };
        self.pool = ConnectionPool::new(first, more, len, plan.in_order);
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
        let found = self.final_url.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match *found == self.requested_url {
            true => String::new(),
            false => format!(", from {}", quoted(Path::new(&Endpoint::Url(found.to_string()).name()))),
        };
        format!("{length}, {version}, {} {lines}{from}", self.connections)
    }
}
