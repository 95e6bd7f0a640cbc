//! The request for a range, and the status and headers of its response.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, StatusCode, header};
use url::Url;

use super::body::Body;
use super::failure::{MAX_RETRY_AFTER, Recovery, RequestFailure, number, retry_after};

/// A range of the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ByteRange {
    pub start: u64,
    /// The end, exclusive; None: the end of the file.
    pub end: Option<u64>,
}

/// What to request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeRequest<'a> {
    /// None: the whole file, by a plain request.
    pub range: Option<ByteRange>,
    /// Request the range only if the file still has this version (If-Range).
    pub version: Option<&'a str>,
    /// Keep the connection open for later requests.
    pub keep_alive: bool,
    /// Do not reuse a connection.
    pub new_connection: bool,
}

/// A response with the requested range, or with the whole file.
pub struct Response {
    /// Offset in the file of the first byte of the body.
    pub start: u64,
    /// Length of the whole file in bytes, if the server reports it.
    pub file_len: Option<u64>,
    /// The body is the requested range (206), not the whole file.
    pub partial: bool,
    /// The file ends at or before the requested offset (416).
    pub past_end: bool,
    /// The response names a version other than the requested one.
    pub changed: bool,
    /// A strong ETag, or else a Last-Modified date that is strong enough.
    pub version: Option<String>,
    /// The Content-Disposition header.
    pub disposition: Option<Vec<u8>>,
    /// The URL after redirects.
    pub url: Url,
    pub body: Body,
}

/// Interprets status and headers as RFC 9110 defines them.
pub fn parse(
    status: u16,
    headers: &HeaderMap,
    range_request: RangeRequest<'_>,
    url: Url,
    body: Body,
) -> Result<Response, RequestFailure> {
    let (start, file_len) = match (status, range_request.range) {
        (200, _) => (0, body.length()),
        (206, Some(requested)) => partial_content(headers, requested, &body)?,
        (416, Some(_)) => match content_range(headers) {
            Some(ContentRange { range: None, file_len: Some(file_len) }) => (file_len, Some(file_len)),
            _ => return Err(RequestFailure::new(Recovery::Restart, "the server does not have the requested range")),
        },
        _ => return Err(failed_status(status, headers)),
    };
    let partial = status == 206;
    // A weak ETag does not identify a version, but it can show that the version is a different one. A partial response
    // must repeat the ETag; it may omit Last-Modified (RFC 9110, 15.3.7).
    let changed = range_request.version.is_some_and(|requested| {
        if requested.starts_with('"') {
            text(headers, header::ETAG.as_str()).map_or(partial, |etag| etag != requested)
        } else {
            text(headers, header::LAST_MODIFIED.as_str()).is_some_and(|date| date != requested)
        }
    });
    let version = version(headers);
    let disposition = headers.get(header::CONTENT_DISPOSITION).map(|value| value.as_bytes().to_vec());
    Ok(Response { start, file_len, partial, past_end: status == 416, changed, version, disposition, url, body })
}

/// Checks that a 206 response has the requested range. Returns its start and the length of the whole file.
fn partial_content(
    headers: &HeaderMap,
    requested: ByteRange,
    body: &Body,
) -> Result<(u64, Option<u64>), RequestFailure> {
    let Some(ContentRange { range: Some(range), file_len }) = content_range(headers) else {
        return Err(RequestFailure::new(Recovery::GiveUp, "the server does not report which range it sent"));
    };
    let length_matches = body.length().is_none_or(|length| length == range.end - range.start);
    if range.start != requested.start || !length_matches {
        return Err(RequestFailure::new(Recovery::Restart, "the server sent a different range than requested"));
    }
    Ok((range.start, file_len))
}

/// The failure for a status without content.
fn failed_status(status: u16, headers: &HeaderMap) -> RequestFailure {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let why = format!("the server responded with {status} {reason}");
    let mut failure = RequestFailure::new(Recovery::GiveUp, why.trim_end());
    match status {
        401 => failure.hint("add the credentials to ~/.netrc, or to the URL: https://USER:PASSWORD@HOST/"),
        407 => failure.hint("add the proxy's credentials: http_proxy=http://USER:PASSWORD@PROXY/"),
        408 | 429 | 500.. => {
            let delay = text(headers, header::RETRY_AFTER.as_str()).and_then(|h| retry_after(h, SystemTime::now()));
            match delay {
                Some(delay) if delay > MAX_RETRY_AFTER => {
                    let why = format!("{}, and asked to retry after {} s", failure.why, delay.as_secs());
                    RequestFailure::new(Recovery::GiveUp, why)
                }
                delay => {
                    failure.recovery = Recovery::Retry(delay);
                    failure
                }
            }
        }
        _ => failure,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A Content-Range header: `bytes 0-99/1234`, `bytes 0-99/*` or `bytes */1234`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    range: Option<Range<u64>>,
    file_len: Option<u64>,
}

/// None if there is no such header, or if it is invalid.
fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    text(headers, header::CONTENT_RANGE.as_str()).and_then(parse_content_range)
}

fn parse_content_range(value: &str) -> Option<ContentRange> {
    let (range, file_len) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let file_len = match file_len.trim() {
        "*" => None,
        digits => Some(number(digits)?),
    };
    if range.trim() == "*" {
        return Some(ContentRange { range: None, file_len });
    }
    let (first, last) = range.split_once('-')?;
    let start = number(first.trim())?;
    let end = number(last.trim())?.checked_add(1)?;
    let valid = start < end && file_len.is_none_or(|file_len| end <= file_len);
    valid.then_some(ContentRange { range: Some(start..end), file_len })
}

/// A strong validator (RFC 9110, 8.8): an ETag that is not weak, or else a Last-Modified that is at least a second
/// older than the response's Date, so that the file cannot have changed again within that second.
fn version(headers: &HeaderMap) -> Option<String> {
    match text(headers, header::ETAG.as_str()) {
        Some(etag) if etag.starts_with('"') && etag.len() >= 2 && etag.ends_with('"') => return Some(etag.to_string()),
        _ => {}
    }
    let last_modified = text(headers, header::LAST_MODIFIED.as_str())?;
    let modified = httpdate::parse_http_date(last_modified).ok()?;
    let sent = text(headers, header::DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    let strong = sent.is_some_and(|sent| modified + Duration::from_secs(1) <= sent);
    strong.then(|| last_modified.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_valid_content_ranges_are_accepted() {
        let content_range = |range, file_len| Some(ContentRange { range, file_len });
        for (value, expected) in [
            ("bytes 0-99/1234", content_range(Some(0..100), Some(1234))),
            ("bytes 5-5/*", content_range(Some(5..6), None)),
            ("bytes */1234", content_range(None, Some(1234))),
            ("bytes 5-4/10", None),
            ("bytes 0-10/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("items 0-1/2", None),
            ("bytes 0-1", None),
            ("bytes +0-1/2", None),
            ("bytes 0-+1/2", None),
            ("bytes 0-1/+2", None),
        ] {
            assert_eq!(parse_content_range(value), expected, "{value}");
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

    /// A number as a header has it, and as it should not.
    fn number_text() -> impl Strategy<Value = String> {
        let valid = prop_oneof![0u64..20, (u64::MAX - 2)..=u64::MAX].prop_map(|number| number.to_string());
        prop_oneof![8 => valid, 1 => Just("*".to_string()), 1 => "[+ -]?[0-9]{0,21}", 1 => ".{0,5}"]
    }

    proptest! {
        #![proptest_config(crate::cases::cases(20_000))]

        #[test]
        fn a_content_range_has_a_range_within_the_file(
            first in number_text(),
            last in number_text(),
            total in number_text(),
        ) {
            let digits = |text: &str| {
                let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u64>().ok().filter(|_| valid)
            };
            let parsed = parse_content_range(&format!("bytes {first}-{last}/{total}"));
            if let (Some(first), Some(last)) = (digits(&first), digits(&last)) {
                let valid = first <= last && last < u64::MAX;
                let expected = match digits(&total) {
                    Some(total) if valid && last < total => Some((first..last + 1, Some(total))),
                    None if valid && total == "*" => Some((first..last + 1, None)),
                    Some(_) => None,
                    None => return Ok(()), // the next property
                };
                let parsed = parsed.map(|parsed| (parsed.range.unwrap_or_default(), parsed.file_len));
                prop_assert_eq!(parsed, expected);
            }
        }

        #[test]
        fn any_content_range_is_valid_or_nothing(
            value in prop_oneof![".{0,40}", "bytes [0-9*+ -]{0,9}-[0-9*+ ]{0,9}/[0-9*+ ]{0,9}"],
        ) {
            if let Some(ContentRange { range: Some(range), file_len }) = parse_content_range(&value) {
                prop_assert!(range.start < range.end && file_len.is_none_or(|len| range.end <= len));
                prop_assert!(!value.contains('+'));
            }
        }

        #[test]
        fn any_version_is_a_quoted_etag_or_a_date(
            etag in prop::collection::vec(0x20u8..0x80, 0..9),
            modified in prop_oneof!["[ -~]{0,30}", Just("Sun, 06 Nov 1994 08:49:37 GMT".to_string())],
            quotes in any::<bool>(),
        ) {
            let quote = if quotes { &b"\""[..] } else { b"" };
            let mut headers = HeaderMap::new();
            for (name, value) in [("etag", [quote, &etag, quote].concat()), ("last-modified", modified.into_bytes())] {
                if let Ok(value) = ureq::http::HeaderValue::from_bytes(&value) {
                    headers.insert(name, value);
                }
            }
            headers.insert("date", ureq::http::HeaderValue::from_static("Fri, 31 Dec 9999 23:59:59 GMT"));
            if let Some(version) = version(&headers) {
                let is_etag = version.starts_with('"') && version.ends_with('"') && version.len() > 1;
                prop_assert!(is_etag || httpdate::parse_http_date(&version).is_ok(), "{version}");
                prop_assert!(ureq::http::HeaderValue::from_str(&version).is_ok());
            }
        }
    }
}
