//! An http or https URL as a source: one connection that is read in order, or several that fetch ranges in parallel.
//! After a lost connection, the download resumes at the byte it had reached. Two versions of the file are never mixed.
//!
//! ```text
//! url            opens the URL, and hands its blocks to the workers
//!   probe          the first request: length, version, and whether the server supports ranges
//!   connections    which connection fetches which range
//!   download       fills a block from a connection, and reconnects where it stopped
//!   retry          sends a request until it succeeds, with a delay after each failure
//!   failure        why a request failed, and whether a retry can help
//!   client         one request, with its redirects
//!     credentials    ~/.netrc, and the credentials in a URL
//!     proxy          http_proxy, https_proxy, all_proxy, no_proxy
//!     certificates   which certificates are trusted
//!     transport      TCP, proxies, and the monitor of a connection
//!       resolver       name lookups with a time limit
//!       tls            TLS
//!   response       the status and headers of a response
//!     body           the bytes of a response, and how their end is known
//!   name           the file name of a copy in a directory
//! ```

mod body;
mod certificates;
mod client;
mod connections;
mod credentials;
mod download;
mod failure;
mod name;
mod probe;
mod proxy;
mod resolver;
mod response;
mod retry;
mod tls;
mod transport;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::url::Url;

use self::client::Client;
use self::connections::{Connection, ConnectionPool};
use super::{OpenSource, ReadPlan, ReadReport, Source};
use crate::block::{Block, Layout, Placement};
use crate::error::{Error, Result, quoted};
use crate::event::Observer;
use crate::job::{Endpoint, Job};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;

/// How often a worker that waits checks whether the copy was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

struct UrlSource<'a> {
    client: Client<'a>,
    observer: &'a dyn Observer,
    /// The URL in messages.
    name: PathBuf,
    requested_url: Url,
    /// The URL of the latest response, after redirects. The next request goes there directly.
    final_url: Mutex<Url>,
    /// Offset in the file of the first byte to copy.
    skip: u64,
    /// Bytes to copy, if known.
    len: Option<u64>,
    /// `len` comes from --size alone; the download checks it.
    length_unverified: bool,
    /// Length of the whole file in bytes, if the server reports it.
    file_len: Option<u64>,
    /// A strong ETag or a Last-Modified date.
    version: Option<String>,
    /// Number of connections.
    connections: usize,
    /// How often this copy has started over.
    restarts: u32,
    /// Offset in the copy of the first block to read, in bytes.
    first_offset: u64,
    /// Number of the first block to read.
    first_block: u64,
    /// The connection with the first response, until the copy begins.
    first_connection: Option<Connection>,
    pool: ConnectionPool,
    layout: Layout,
    pace: Arc<Pace>,
}

/// Requests the URL and reads the headers of the response.
pub fn open<'a>(
    job: &'a Job,
    url: &str,
    pace: &Arc<Pace>,
    observer: &'a dyn Observer,
    restarts: u32,
) -> Result<OpenSource<'a>> {
    let name = job.source.name();
    let requested_url = parse(url, &name)?;
    let mut source = UrlSource {
        client: Client::new(&job.http, requested_url.clone(), observer),
        observer,
        name,
        final_url: Mutex::new(requested_url.clone()),
        requested_url,
        skip: job.skip,
        len: None,
        length_unverified: false,
        file_len: None,
        version: None,
        connections: job.http.connections,
        restarts,
        first_offset: 0,
        first_block: 0,
        first_connection: None,
        pool: ConnectionPool::default(),
        layout: Layout::default(),
        pace: pace.clone(),
    };
    let disposition = source.probe(job)?;
    let suggested_name = name::suggested_name(&source.requested_url, disposition.as_deref());
    let (length, identity) = (source.len, source.identity());
    let info = SourceInfo { name: source.name.clone(), suggested_name, file: None, length, identity };
    let (min_workers, description) = (source.connections, source.describe());
    Ok(OpenSource { info, alignment: 1, min_workers, extents: None, description, source: Box::new(source) })
}

/// Parses the URL, without its fragment. `name` is the URL in messages.
fn parse(url: &str, name: &Path) -> Result<Url> {
    let invalid = |why: &str| Error::usage(format!("{} is not a valid URL: {why}", quoted(name)));
    let mut parsed = Url::parse(url).map_err(|e| invalid(&e.to_string()))?;
    parsed.set_fragment(None);
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it has no host"));
    }
    Ok(parsed)
}

impl Source for UrlSource<'_> {
    fn begin(&mut self, plan: ReadPlan) -> Result<()> {
        self.layout = plan.layout;
        (self.first_offset, self.first_block) = (plan.start, plan.first_block);
        let mut first = self.first_connection.take().unwrap_or_else(|| Connection::new(0, self.restarts));
        if self.connections > 1 {
            first.end = first.end.min(plan.layout.placement(0).max_len as u64);
        }
        if plan.start > 0 {
            // The open response is for another range, so it is dropped.
            let end = if self.connections == 1 { self.len.unwrap_or(u64::MAX) } else { plan.start };
            first = Connection { end, ..Connection::new(plan.start, self.restarts) };
        }
        let more = (1..self.connections).map(|_| Connection::new(first.end, self.restarts)).collect();
        let len = if self.connections == 1 { first.end } else { self.len.unwrap_or(0) };
        self.pool = ConnectionPool::new(first, more, len, plan.in_order);
        Ok(())
    }

    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let Some(mut connection) = self.pool.take(&self.layout, sequencer) else { return Ok(false) };
        let offset = connection.offset;
        let Placement { lead, max_len } = self.layout.placement(offset);
        let wanted = max_len.min(usize::try_from(connection.end - offset).unwrap_or(usize::MAX));
        self.pace.rate.wait(Direction::Read, wanted);
        let read = match self.fill(&mut connection, &mut block.buffer[lead..lead + wanted], sequencer) {
            // Another worker has failed, and its error is the one to report.
            Err(_) | Ok(_) if sequencer.is_cancelled() => return Ok(false),
            other => other?,
        };
        self.check_size(&connection)?;
        if connection.offset >= connection.end {
            self.close(&mut connection)?;
        }
        self.pool.give_back(connection);
        block.number = self.block_number(offset);
        (block.offset, block.len, block.lead, block.hole) = (offset, read as u64, lead, false);
        Ok(read > 0)
    }

    fn cancel(&self) {
        self.client.shut_down();
    }

    fn finish(&self) -> Result<ReadReport> {
        Ok(ReadReport::default())
    }
}

impl UrlSource<'_> {
    /// The number of the block that starts at `offset` of the copy.
    fn block_number(&self, offset: u64) -> u64 {
        let first_lead = if self.first_offset == 0 { self.layout.lead as u64 } else { 0 };
        let distance = offset - self.first_offset + first_lead;
        self.first_block + distance / self.layout.block_size as u64
    }

    /// Fails if the file has more or fewer bytes than --size requires.
    fn check_size(&self, connection: &Connection) -> Result<()> {
        let Some(len) = self.len.filter(|_| self.length_unverified) else { return Ok(()) };
        let too_long = connection.offset > len;
        let too_short = connection.offset == connection.end && connection.offset < len;
        if !too_long && !too_short {
            return Ok(());
        }
        let at_least = if too_long { "at least " } else { "" };
        let (length, required) = (self.skip + connection.offset, self.skip + len);
        Err(Error::content(&self.name, format!("it has {at_least}{length} bytes, and --size requires {required}")))
    }

    /// What was opened, for verbose output.
    fn describe(&self) -> String {
        let length = self.len.map_or("unknown length".to_string(), |len| format!("{len} bytes"));
        let version = self.version.as_ref().map_or("no version".to_string(), |version| format!("version {version}"));
        let noun = if self.connections == 1 { "connection" } else { "connections" };
        let final_url = self.final_url();
        let redirect = if final_url == self.requested_url {
            String::new()
        } else {
            format!(", redirected to {}", quoted(&Endpoint::Url(final_url.to_string()).name()))
        };
        format!("{length}, {version}, {} {noun}{redirect}", self.connections)
    }

    fn final_url(&self) -> Url {
        self.final_url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
