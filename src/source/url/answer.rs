//! What is asked for, what an answer's header says, and the bytes behind it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::BodyReader;
use ureq::http::{HeaderMap, header};
use url::Url;

use super::retry::{Cure, Trouble, retry_after};
use super::transport::Witness;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// First byte, and one past the last one if that is known. None: everything, by a plain request.
    pub range: Option<(u64, Option<u64>)>,
    /// Only of this version.
    pub version: Option<&'a str>,
    /// Other requests to this server follow: the connection is worth keeping.
    pub more_follow: bool,
}

/// An answer that has what was asked for, or everything.
pub struct Answer {
    /// The first byte of the body, counted in the whole.
    pub from: u64,
    /// Bytes of the whole.
    pub total: Option<u64>,
    /// It is a part, as asked for.
    pub partial: bool,
    /// There is nothing at the offset that was asked for: the whole ends before.
    pub behind_end: bool,
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

/// Reads a header as RFC 9110 means it.
pub fn answer(
    status: u16,
    headers: &HeaderMap,
    wanted: Wanted<'_>,
    length: Option<u64>,
    url: Url,
    body: Body,
) -> std::result::Result<Answer, Trouble> {
    let (from, total) = match status {
        200 => (0, length),
        206 | 416 if wanted.range.is_some() => {
            let range = text(headers, header::CONTENT_RANGE.as_str()).and_then(content_range);
            match (status, range) {
                (206, Some((Some((from, _)), total))) => (from, total),
                (416, Some((None, Some(total)))) => (total, Some(total)),
                (416, _) => return Err(Trouble::new(Cure::StartOver, "the server does not have that range")),
                _ => return Err(Trouble::new(Cure::None, "the server does not say which range it sends")),
            }
        }
        401 | 407 => return Err(failed(status).hint("~/.netrc, or https://USER@HOST/, holds the login")),
        408 | 429 | 500.. => {
            let asked = text(headers, header::RETRY_AFTER.as_str()).and_then(|h| retry_after(h, SystemTime::now()));
            return Err(Trouble { cure: Cure::Again(asked), ..failed(status) });
        }
        _ => return Err(failed(status)),
    };
    // A weak validator is none, but it may well say that it is another one.
    let mark = |asked: &str| if asked.starts_with('"') { header::ETAG } else { header::LAST_MODIFIED };
    let now = wanted.version.and_then(|asked| Some((asked, text(headers, mark(asked).as_str())?)));
    let changed = now.is_some_and(|(asked, now)| asked != now);
    let version = version(headers);
    let disposition = headers.get(header::CONTENT_DISPOSITION).map(|value| value.as_bytes().to_vec());
    let (partial, behind_end) = (status == 206, status == 416);
    Ok(Answer { from, total, partial, behind_end, changed, version, disposition, url, body })
}

fn failed(status: u16) -> Trouble {
    let reason = ureq::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    Trouble::new(Cure::None, format!("the server answers {status} {}", reason.unwrap_or_default()).trim_end())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
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
    let strong = answered.is_none_or(|answered| date + Duration::from_secs(1) <= answered);
    strong.then(|| modified.to_string())
}

/// The bytes of an answer.
pub struct Body {
    pub reader: BodyReader<'static>,
    /// Nothing but the end of the connection tells that this is the end.
    pub ends_with_connection: bool,
    /// What its connection saw; None: it carries other answers too.
    pub watched: Option<Arc<Witness>>,
}

impl Body {
    /// Reads on; 0 at the announced end. Anything else is an error.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0 && self.ends_with_connection && self.watched.as_ref().is_some_and(|witness| witness.torn()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }

    /// Everything that was announced has been read: lets the connection go. False: the server sent more.
    pub fn finish(mut self) -> io::Result<bool> {
        let mut end = || Ok(self.reader.read(&mut [0])? == 0);
        match self.watched.as_ref().filter(|_| !self.ends_with_connection) {
            Some(witness) => {
                let (exact, surplus) = witness.surplus(end);
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
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (pairs, expected) in [
            (vec![("etag", "\"abc\"")], Some("\"abc\"")),
            (vec![("etag", "W/\"abc\"")], None),
            (vec![("etag", "abc"), ("last-modified", date)], Some(date)),
            (vec![("last-modified", date), ("date", "Sun, 06 Nov 1994 08:49:38 GMT")], Some(date)),
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
}
