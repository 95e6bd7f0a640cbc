//! What is asked for, what an answer's header says, and the bytes behind it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::BodyReader;
use ureq::http::{HeaderMap, Version, header};
use url::Url;

use super::failure::{MAX_RETRY_AFTER, Recovery, RequestFailure, retry_after};
use super::transport::ConnectionMonitor;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeRequest<'a> {
    /// First byte, and one past the last one if that is known. None: everything, by a plain request.
    pub range: Option<(u64, Option<u64>)>,
    /// Only of this version.
    pub version: Option<&'a str>,
    /// Other requests to this server follow: the connection is worth keeping.
    pub more_follow: bool,
    /// Not on a connection that was kept.
    pub fresh: bool,
}

/// An answer that has what was asked for, or everything.
pub struct Response {
    /// The first byte of the body, counted in the whole.
    pub from: u64,
    /// Bytes of the whole.
    pub total: Option<u64>,
    /// It is a part, as asked for.
    pub partial: bool,
    /// There is nothing at the offset that was asked for: the whole ends before.
    pub past_end: bool,
    /// It names itself another version than the one that was asked for.
    pub changed: bool,
    /// What tells this version from every other: a strong ETag, or else a date.
    pub version: Option<String>,
    /// The header that proposes a file name.
    pub disposition: Option<Vec<u8>>,
    /// Where it came from, redirects followed.
    pub url: Url,
    pub body: Body,
}

/// How the end of a body is known. (RFC 9112, 6.3)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It has so many bytes.
    Length(u64),
    /// Its last chunk says so.
    Chunked,
    /// The connection is closed.
    Connection,
}

/// Reads it as the HTTP client does, or refuses it: what is encoded for the transfer otherwise would have
/// to be decoded.
pub fn framing(version: Version, headers: &HeaderMap) -> std::result::Result<Framing, RequestFailure> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
        if !chunked || version != Version::HTTP_11 {
            return Err(RequestFailure::new(
                Recovery::GiveUp,
                "the server encodes it for the transfer in a way that was not asked for",
            ));
        }
        return Ok(Framing::Chunked);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Framing::Connection) };
    let length =
        length.to_str().ok().and_then(|length| length.trim().parse().ok()).filter(|_| lengths.next().is_none());
    match length.filter(|length| *length <= i64::MAX as u64) {
        Some(length) => Ok(Framing::Length(length)),
        None => Err(RequestFailure::new(Recovery::GiveUp, "the server announces a length that is none")),
    }
}

/// Reads a header as RFC 9110 means it.
pub fn answer(
    status: u16,
    headers: &HeaderMap,
    range_request: RangeRequest<'_>,
    url: Url,
    body: Body,
) -> std::result::Result<Response, RequestFailure> {
    let (from, total) = match (status, range_request.range) {
        (200, _) => (0, body.left.filter(|_| body.framing != Framing::Chunked)),
        (206 | 416, Some((asked, _))) => {
            let range = text(headers, header::CONTENT_RANGE.as_str()).and_then(content_range);
            match (status, range) {
                (206, Some((Some((from, end)), total)))
                    if from == asked && body.left.is_none_or(|left| left == end - from) =>
                {
                    (from, total)
                }
                (206, Some((Some(_), _))) => {
                    let why = "the server sends another range than it was asked for";
                    return Err(RequestFailure::new(Recovery::Restart, why));
                }
                (416, Some((None, Some(total)))) => (total, Some(total)),
                (416, _) => return Err(RequestFailure::new(Recovery::Restart, "the server does not have that range")),
                _ => return Err(RequestFailure::new(Recovery::GiveUp, "the server does not say which range it sends")),
            }
        }
        (401, _) => return Err(failed(status).hint("~/.netrc, or https://USER@HOST/, holds the login")),
        (407, _) => return Err(failed(status).hint("http_proxy=http://USER:PASSWORD@PROXY/ holds the login")),
        (408 | 429 | 500.., _) => {
            let asked = text(headers, header::RETRY_AFTER.as_str()).and_then(|h| retry_after(h, SystemTime::now()));
            if let Some(asked) = asked.filter(|asked| *asked > MAX_RETRY_AFTER) {
                let why = format!("{}, and asks to come back in {} s", failed(status).why, asked.as_secs());
                return Err(RequestFailure::new(Recovery::GiveUp, why));
            }
            return Err(RequestFailure { recovery: Recovery::Retry(asked), ..failed(status) });
        }
        _ => return Err(failed(status)),
    };
    let partial = status == 206;
    // A weak validator is none, but it may well say that it is another one. A part must repeat the ETag;
    // the date it may leave out. (RFC 9110, 15.3.7)
    let changed = range_request.version.is_some_and(|asked| match asked.starts_with('"') {
        true => text(headers, header::ETAG.as_str()).map_or(partial, |now| now != asked),
        false => text(headers, header::LAST_MODIFIED.as_str()).is_some_and(|now| now != asked),
    });
    let version = version(headers);
    let disposition = headers.get(header::CONTENT_DISPOSITION).map(|value| value.as_bytes().to_vec());
    let past_end = status == 416;
    Ok(Response { from, total, partial, past_end, changed, version, disposition, url, body })
}

fn failed(status: u16) -> RequestFailure {
    let reason = ureq::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    RequestFailure::new(
        Recovery::GiveUp,
        format!("the server answers {status} {}", reason.unwrap_or_default()).trim_end(),
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `bytes 0-99/1234`, `bytes 0-99/*`, `bytes */1234`: (first byte, one past the last one), the whole.
#[allow(clippy::type_complexity)]
fn content_range(header: &str) -> Option<(Option<(u64, u64)>, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    if range.trim() == "*" {
        return Some((None, total));
    }
    let (from, last) = range.split_once('-')?;
    let (from, end) = (from.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?.checked_add(1)?);
    (from < end && total.is_none_or(|total| end <= total)).then_some((Some((from, end)), total))
}

/// A strong validator: an ETag that is not weak, or else a Last-Modified that lies at least a second
/// before the answer's date, so that the file cannot have changed again within it. (RFC 9110, 8.8)
fn version(headers: &HeaderMap) -> Option<String> {
    match text(headers, header::ETAG.as_str()) {
        Some(etag) if etag.starts_with('"') && etag.len() >= 2 && etag.ends_with('"') => return Some(etag.to_string()),
        _ => {}
    }
    let modified = text(headers, header::LAST_MODIFIED.as_str())?;
    let date = httpdate::parse_http_date(modified).ok()?;
    let answered = text(headers, header::DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    let strong = answered.is_some_and(|answered| date + Duration::from_secs(1) <= answered);
    strong.then(|| modified.to_string())
}

/// The bytes of an answer.
pub struct Body {
    reader: BodyReader<'static>,
    framing: Framing,
    /// Bytes that are still to come, if that was announced.
    left: Option<u64>,
    /// What the connection saw, if it carries this answer alone.
    watched: Option<Arc<ConnectionMonitor>>,
}

impl Body {
    pub fn new(reader: BodyReader<'static>, framing: Framing, watched: Option<Arc<ConnectionMonitor>>) -> Self {
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { reader, framing, left, watched }
    }

    /// Reads on; 0 at the announced end. Anything else is an error.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.left = self.left.map(|left| left.saturating_sub(read as u64));
        let cut = |monitor: &Arc<ConnectionMonitor>| match self.framing {
            Framing::Length(_) => false, // the client knows
            Framing::Chunked => monitor.ended(),
            Framing::Connection => monitor.torn(),
        };
        if read == 0 && self.watched.as_ref().is_some_and(cut) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }

    /// Nothing more is wanted of it: lets the connection go. False: the server sends more than it
    /// announced.
    pub fn finish(mut self) -> io::Result<bool> {
        if self.left != Some(0) {
            return Ok(true); // it is broken off; nobody waits for the rest
        }
        let mut end = || Ok(self.reader.read(&mut [0])? == 0);
        match &self.watched {
            Some(monitor) => {
                let (exact, surplus) = monitor.surplus(end);
                Ok(exact? && !surplus)
            }
            None => end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_that_make_sense_are_read() {
        for (header, expected) in [
            ("bytes 0-99/1234", Some((Some((0, 100)), Some(1234)))),
            ("bytes 5-5/*", Some((Some((5, 6)), None))),
            ("bytes */1234", Some((None, Some(1234)))),
            ("bytes 5-4/10", None),
            ("bytes 0-10/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("items 0-1/2", None),
            ("bytes 0-1", None),
        ] {
            assert_eq!(content_range(header), expected, "{header}");
        }
    }

    #[test]
    fn only_a_strong_validator_names_a_version() {
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        for (pairs, expected) in [
            (vec![("etag", "\"abc\"")], Some("\"abc\"")),
            (vec![("etag", "W/\"abc\"")], None),
            (vec![("etag", "abc"), ("last-modified", date), ("date", later)], Some(date)),
            (vec![("last-modified", date)], None),
            (vec![("last-modified", date), ("date", later)], Some(date)),
            (vec![("last-modified", date), ("date", date)], None),
            (vec![("last-modified", "yesterday")], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                headers.insert(*name, ureq::http::HeaderValue::from_static(value));
            }
            assert_eq!(version(&headers).as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_body_ends_in_one_of_three_ways_or_is_refused() {
        use Framing::{Chunked, Connection, Length};
        let (new, old) = (Version::HTTP_11, Version::HTTP_10);
        for (version, pairs, expected) in [
            (new, vec![], Some(Connection)),
            (old, vec![("content-length", "5")], Some(Length(5))),
            (new, vec![("transfer-encoding", "Chunked")], Some(Chunked)),
            (new, vec![("transfer-encoding", "chunked"), ("content-length", "5")], Some(Chunked)),
            (old, vec![("transfer-encoding", "chunked")], None),
            (new, vec![("transfer-encoding", "gzip, chunked")], None),
            (new, vec![("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], None),
            (new, vec![("transfer-encoding", "identity")], None),
            (new, vec![("content-length", "3, 3")], None),
            (new, vec![("content-length", "3"), ("content-length", "3")], None),
            (new, vec![("content-length", "-3")], None),
            (new, vec![("content-length", "9223372036854775808")], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                headers.append(*name, ureq::http::HeaderValue::from_static(value));
            }
            assert_eq!(framing(version, &headers).ok(), expected, "{version:?} {pairs:?}");
        }
    }
}
