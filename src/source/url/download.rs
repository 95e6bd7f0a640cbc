//! Fills blocks from a connection, and reconnects where it stopped.

use super::UrlSource;
use super::connections::Connection;
use super::failure::{Recovery, RequestFailure};
use super::response::{ByteRange, RangeRequest, Response};
use crate::error::Result;
use crate::sequencer::Sequencer;

/// A server may send a shorter range than requested. The rest is requested without a delay if the range had at least
/// this many bytes.
const MIN_RANGE: u64 = 256 << 10;

impl UrlSource<'_> {
    /// Reads until `buffer` is full or the connection's range ends. Returns the number of bytes: fewer if the source
    /// has ended or the copy was cancelled.
    pub(super) fn fill(&self, connection: &mut Connection, buffer: &mut [u8], sequencer: &Sequencer) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !sequencer.is_cancelled() {
            let Some(body) = &mut connection.body else {
                self.reconnect(connection, sequencer)?;
                continue;
            };
            let room = &mut buffer[filled..];
            let wanted = match connection.discard {
                0 => room.len(),
                discard => room.len().min(usize::try_from(discard).unwrap_or(usize::MAX)),
            };
            match body.read(&mut room[..wanted]) {
                Ok(0) => {
                    if self.end_body(connection, sequencer)? {
                        break;
                    }
                }
                Ok(read) if connection.discard > 0 => connection.discard -= read as u64,
                Ok(read) => {
                    filled += read;
                    connection.offset += read as u64;
                    connection.received += read as u64;
                }
                Err(e) => {
                    let failure = RequestFailure::from_io(&e, self.client.options);
                    self.drop_body(connection, failure, sequencer)?;
                }
            }
        }
        Ok(filled)
    }

    /// The body ended before the connection's range did. True if this is the end of the source.
    fn end_body(&self, connection: &mut Connection, sequencer: &Sequencer) -> Result<bool> {
        if self.file_len.is_none() {
            if connection.discard > 0 {
                let offset = self.skip + connection.offset;
                let why = format!("it ended {} bytes before offset {offset}", connection.discard);
                return Err(self.error(connection, why));
            }
            connection.end = connection.offset;
            return Ok(true);
        }
        if connection.offset - connection.body_start >= MIN_RANGE {
            connection.body = None;
            return Ok(false);
        }
        let failure = RequestFailure::new(Recovery::Retry(None), "the server sent fewer bytes than requested");
        self.drop_body(connection, failure, sequencer)?;
        Ok(false)
    }

    /// Drops a failed response, and waits until the next request may be sent. Without a version and a length, bytes of
    /// two responses could be of different files, so the copy starts over instead.
    fn drop_body(&self, connection: &mut Connection, mut failure: RequestFailure, sequencer: &Sequencer) -> Result<()> {
        connection.body = None;
        let identified = self.version.is_some() && self.file_len.is_some();
        if connection.offset > 0 && failure.recovery != Recovery::GiveUp && !identified {
            let why = "it cannot be resumed: the server does not identify the file's version (ETag, Last-Modified) or \
                       does not report its length";
            failure = RequestFailure::new(Recovery::Restart, format!("{}; {why}", failure.why));
        }
        self.delay_or_fail(connection, failure, sequencer, true)
    }

    /// Requests the rest of the connection's range, of the same version only. If the file has changed, the copy has to
    /// start over.
    fn reconnect(&self, connection: &mut Connection, sequencer: &Sequencer) -> Result<()> {
        let start = self.skip + connection.offset;
        let end = (connection.end != u64::MAX).then(|| self.skip.saturating_add(connection.end));
        let whole_file = start == 0 && self.connections == 1 && end == self.file_len;
        let range_request = RangeRequest {
            range: (!whole_file).then_some(ByteRange { start, end }),
            version: self.version.as_deref(),
            keep_alive: self.connections > 1,
            new_connection: false,
        };
        let response = self.request(connection, range_request, sequencer, true)?;
        if let Some(why) = self.mismatch(&response, start) {
            return self.delay_or_fail(connection, RequestFailure::new(Recovery::Restart, why), sequencer, true);
        }
        connection.body_start = connection.offset;
        connection.discard = start - response.start;
        connection.body = Some(response.body);
        Ok(())
    }

    /// Why `response` does not continue this download at `start`; None if it does.
    fn mismatch(&self, response: &Response, start: u64) -> Option<&'static str> {
        let same_version = self.version.is_some() && response.version == self.version;
        let length_changed = match (self.file_len, response.file_len) {
            (Some(before), Some(now)) => now != before,
            (Some(_), None) => !response.partial,
            (None, _) => false,
        };
        if length_changed || response.past_end {
            Some("its length has changed on the server")
        } else if response.changed || response.version.is_some() && response.version != self.version {
            Some("its version has changed on the server")
        } else if !response.partial && start > 0 && (!same_version || self.connections > 1) {
            Some("the server sent the whole file instead of the requested range")
        } else {
            None
        }
    }

    /// Closes the response of a connection whose range is complete. Fails if the server sent more than it announced.
    pub(super) fn close(&self, connection: &mut Connection) -> Result<()> {
        let Some(body) = connection.body.take() else { return Ok(()) };
        match body.finish() {
            Ok(false) if self.connections == 1 => {
                Err(self.error(connection, "the server sent more bytes than it announced"))
            }
            // With several connections, the next request on this one finds out what is wrong with it.
            _ => Ok(()),
        }
    }
}
