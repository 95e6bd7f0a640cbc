//! The first request: length, version, and whether the server supports ranges.

use super::UrlSource;
use super::connections::Connection;
use super::response::{ByteRange, RangeRequest, Response};
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::job::Job;
use crate::sequencer::Sequencer;
use crate::source_info::Identity;

impl UrlSource<'_> {
    /// Finds out length and version, decides how many connections there will be, and opens the first one. Returns the
    /// Content-Disposition header.
    pub(super) fn probe(&mut self, job: &Job) -> Result<Option<Vec<u8>>> {
        if job.count == Some(0) {
            self.connections = 1;
        }
        let first_len = job.count.unwrap_or(u64::MAX).min(job.block_size as u64);
        let mut connection = Connection { end: u64::MAX, ..Connection::new(0, self.restarts) };
        let response = self.first_response(&mut connection, job, first_len)?;
        (self.file_len, self.version) = (response.file_len, response.version.clone());
        self.check_file_len(job)?;
        self.len = match (self.file_len, job.size, job.count) {
            (Some(file_len), _, count) => Some((file_len - self.skip).min(count.unwrap_or(u64::MAX))),
            (None, Some(size), count) => Some(size.saturating_sub(self.skip).min(count.unwrap_or(u64::MAX))),
            (None, None, Some(0)) => Some(0),
            (None, None, _) => None,
        };
        self.length_unverified = self.file_len.is_none() && job.size.is_some();
        connection.end = match self.connections {
            1 => self.len.filter(|_| !self.length_unverified).or(job.count).unwrap_or(u64::MAX),
            _ => first_len.min(self.len.unwrap_or(0)),
        };
        if !response.past_end {
            connection.discard = self.skip.saturating_sub(response.start);
            connection.body = Some(response.body);
        }
        self.first_connection = Some(connection);
        Ok(response.disposition)
    }

    /// The response to start with. Falls back to one connection if the server does not allow more. `first_len`: bytes
    /// to request first if there are several connections.
    fn first_response(&mut self, connection: &mut Connection, job: &Job, first_len: u64) -> Result<Response> {
        let never_cancelled = Sequencer::default();
        let (parallel, answered) = (self.connections > 1, self.restarts > 0);
        let up_to = |len: u64| ByteRange { start: self.skip, end: Some(self.skip.saturating_add(len)) };
        let rest = (self.skip > 0).then_some(ByteRange { start: self.skip, end: None });
        let range = match job.count {
            Some(0) => None,
            _ if parallel => Some(up_to(first_len)),
            Some(count) => Some(up_to(count)),
            None => rest,
        };
        let range_request = RangeRequest { range, keep_alive: parallel, ..RangeRequest::default() };
        let mut response = self.request(connection, range_request, &never_cancelled, answered)?;
        if response.partial && response.file_len.is_none() && !parallel {
            // The file may continue after the end of this range. Only the response to a plain request ends with the
            // file.
            response = self.request(connection, RangeRequest::default(), &never_cancelled, true)?;
        }
        let why_not_parallel = match (response.partial, response.file_len, &response.version) {
            _ if !parallel => None,
            (false, _, _) if !response.past_end => Some("the server does not support ranges"),
            (true, None, _) => Some("the server does not report the file's length"),
            (true, _, None) => Some("the server does not identify the file's version (ETag, Last-Modified)"),
            _ => None,
        };
        if let Some(why) = why_not_parallel {
            self.connections = 1;
            self.observer.event(Event::Notice(&format!("using one connection for {}: {why}", quoted(&self.name))));
            let range_request = RangeRequest { range: rest, ..RangeRequest::default() };
            response = self.request(connection, range_request, &never_cancelled, true)?;
        }
        Ok(response)
    }

    /// Checks --size and --skip against the length that the server reports.
    fn check_file_len(&self, job: &Job) -> Result<()> {
        let Some(file_len) = self.file_len else { return Ok(()) };
        if let Some(required) = job.size.filter(|required| *required != file_len) {
            let why = format!("it has {file_len} bytes, and --size requires {required}");
            return Err(Error::content(&self.name, why));
        }
        if self.skip > file_len {
            let (skip, name) = (self.skip, quoted(&self.name));
            return Err(Error::usage(format!("--skip {skip} is past the end of {name}, which has {file_len} bytes")));
        }
        Ok(())
    }

    /// How a later run recognizes the same file and the same range of it; None without a version or a length.
    pub(super) fn identity(&self) -> Option<Identity> {
        let (version, file_len) = (self.version.as_ref()?, self.file_len?);
        // The query may be a signature, which must stay secret. Its hash is enough to compare it.
        let url = match quoted(&self.name).split_once('?') {
            Some((path, query)) => format!("{path}?…' ({})", &blake3::hash(query.as_bytes()).to_hex()[..16]),
            None => quoted(&self.name),
        };
        Some(vec![
            ("URL", url),
            ("version", version.clone()),
            ("length", file_len.to_string()),
            ("offset", self.skip.to_string()),
            ("number of bytes", self.len.unwrap_or(0).to_string()),
        ])
    }
}
