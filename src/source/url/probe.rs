//! The first request: what is there, and can it be had in ranges?

use super::UrlSource;
use super::connections::Connection;
use super::response::RangeRequest;
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::job::Job;
use crate::sequencer::Sequencer;
use crate::source_info::Identity;

impl UrlSource<'_> {
    /// Learns length and version, decides how many connections there will be, and opens the first lane. Gives
    /// the file name that the server proposes.
    pub(super) fn ask_first(&mut self, job: &Job) -> Result<Option<Vec<u8>>> {
        if job.count == Some(0) {
            self.connections = 1;
        }
        let (parallel, answered) = (self.connections > 1, self.restarts > 0);
        let first = job.count.unwrap_or(u64::MAX).min(job.block_size as u64);
        let range = match job.count {
            Some(0) => None,
            _ if parallel => Some((self.start, Some(self.start.saturating_add(first)))),
            Some(count) => Some((self.start, Some(self.start.saturating_add(count)))),
            None if self.start > 0 => Some((self.start, None)),
            None => None,
        };
        let range_request = RangeRequest { range, more_follow: parallel, ..RangeRequest::default() };
        let mut connection = Connection { end: u64::MAX, ..Connection::new(0, self.restarts) };
        let mut answer = self.ask(&mut connection, range_request, &Sequencer::default(), answered)?;
        if answer.partial && answer.total.is_none() && !parallel {
            // Where its range ends it may go on: only a plain answer has an end.
            answer = self.ask(&mut connection, RangeRequest::default(), &Sequencer::default(), true)?;
        }
        let why = match (parallel, answer.partial, answer.total, &answer.version) {
            (true, false, _, _) if !answer.past_end => Some("the server does not serve ranges"),
            (true, true, None, _) => Some("the server does not say how long it is"),
            (true, true, _, None) => Some("the server does not name the version (ETag, Last-Modified)"),
            _ => None,
        };
        if let Some(why) = why {
            self.connections = 1;
            self.observer.event(Event::Notice(&format!("one connection for {}: {why}", quoted(&self.name))));
            let range = (self.start > 0).then_some((self.start, None));
            let range_request = RangeRequest { range, ..RangeRequest::default() };
            answer = self.ask(&mut connection, range_request, &Sequencer::default(), true)?;
        }
        (self.total, self.version) = (answer.total, answer.version.clone());
        if let Some(total) = self.total {
            if let Some(range_request) = job.size.filter(|range_request| *range_request != total) {
                return Err(Error::content(
                    &self.name,
                    format!("it has {total} bytes, and --size says {range_request}"),
                ));
            }
            if self.start > total {
                let why = format!("--skip {} is behind the end of {}", self.start, quoted(&self.name));
                return Err(Error::usage(why).hint(format!("it has {total} bytes")));
            }
        }
        self.len = match (self.total, job.size, job.count) {
            (Some(total), _, count) => Some((total - self.start).min(count.unwrap_or(u64::MAX))),
            (None, Some(size), count) => Some(size.saturating_sub(self.start).min(count.unwrap_or(u64::MAX))),
            (None, None, Some(0)) => Some(0),
            (None, None, _) => None,
        };
        self.length_unverified = self.total.is_none() && job.size.is_some();
        connection.end = match self.connections {
            1 => self.len.filter(|_| !self.length_unverified).or(job.count).unwrap_or(u64::MAX),
            _ => first.min(self.len.unwrap_or(0)),
        };
        let disposition = answer.disposition.clone();
        if !answer.past_end {
            connection.ahead = self.start.saturating_sub(answer.from);
            connection.body = Some(answer.body);
        }
        self.pool.first = Some(connection);
        Ok(disposition)
    }

    /// By what it is known again.
    pub(super) fn identity(&self) -> Option<Identity> {
        let (version, total) = (self.version.as_ref()?, self.total?);
        let shown = match quoted(&self.name).split_once('?') {
            // A query may be a signature, which is nobody's business.
            Some((path, query)) => format!("{path}?…' ({})", &blake3::hash(query.as_bytes()).to_hex()[..16]),
            None => quoted(&self.name),
        };
        Some(vec![
            ("URL", shown),
            ("version", version.clone()),
            ("length", total.to_string()),
            ("offset", self.start.to_string()),
            ("number of bytes", self.len.unwrap_or(0).to_string()),
        ])
    }
}
