//! The bytes of a response, and how their end is known.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::BodyReader;
use ureq::http::{HeaderMap, Version, header};

use super::failure::{Recovery, RequestFailure, number};
use super::transport::ConnectionMonitor;

/// How the end of a body is known (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By Content-Length: it has this many bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// The server closes the connection.
    UntilClose,
}

/// Determines the framing as the HTTP client does. Fails for other transfer encodings, which would have to be decoded,
/// and for an invalid Content-Length.
pub fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, RequestFailure> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
        if !chunked || version != Version::HTTP_11 {
            let why = "the server uses a transfer encoding that was not requested";
            return Err(RequestFailure::new(Recovery::GiveUp, why));
        }
        return Ok(Framing::Chunked);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Framing::UntilClose) };
    let length = length.to_str().ok().and_then(|length| number(length.trim())).filter(|_| lengths.next().is_none());
    match length.filter(|length| *length <= i64::MAX as u64) {
        Some(length) => Ok(Framing::Length(length)),
        None => Err(RequestFailure::new(Recovery::GiveUp, "the server sent an invalid Content-Length")),
    }
}

/// The bytes of a response.
pub struct Body {
    reader: BodyReader<'static>,
    framing: Framing,
    /// Bytes that are still to come, if the server announced a length.
    remaining: Option<u64>,
    monitor: Arc<ConnectionMonitor>,
    /// The monitored connection is used for this response only.
    exclusive: bool,
}

impl Body {
    pub fn new(
        reader: BodyReader<'static>,
        framing: Framing,
        monitor: Arc<ConnectionMonitor>,
        exclusive: bool,
    ) -> Self {
        let remaining = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { reader, framing, remaining, monitor, exclusive }
    }

    /// The announced length; None for a chunked body, or if only the end of the connection ends it.
    pub fn length(&self) -> Option<u64> {
        self.remaining
    }

    /// Reads the next bytes; 0 at the end of the body. A body that ends too early is an error.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(read as u64));
        if read > 0 {
            self.monitor.body_received();
            return Ok(read);
        }
        let truncated = match self.framing {
            Framing::Length(_) => false, // the HTTP client checks it
            Framing::Chunked => self.monitor.has_ended(),
            Framing::UntilClose => self.monitor.has_failed(),
        };
        if self.exclusive && truncated {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }

    /// Closes the body, or lets the connection be reused. False: the server sent more than it announced.
    pub fn finish(mut self) -> io::Result<bool> {
        if self.remaining != Some(0) {
            return Ok(true); // abandoned: do not wait for the rest
        }
        let mut at_end = || Ok(self.reader.read(&mut [0])? == 0);
        if !self.exclusive {
            return at_end();
        }
        let (exact, surplus) = self.monitor.detect_surplus(at_end);
        Ok(exact? && !surplus)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_ends_in_one_of_three_ways_or_is_refused() {
        use Framing::{Chunked, Length, UntilClose};
        let (new, old) = (Version::HTTP_11, Version::HTTP_10);
        for (version, pairs, expected) in [
            (new, vec![], Some(UntilClose)),
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
            (new, vec![("content-length", "+3")], None),
            (new, vec![("content-length", "9223372036854775808")], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                headers.append(*name, ureq::http::HeaderValue::from_static(value));
            }
            assert_eq!(framing(version, &headers).ok(), expected, "{version:?} {pairs:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn a_content_length_is_a_number_of_at_most_63_bits(
            value in prop_oneof!["[ +-]?[0-9]{0,20}[, ]?", "[ -~]{0,12}"],
        ) {
            let mut headers = HeaderMap::new();
            let Ok(header) = ureq::http::HeaderValue::from_str(&value) else { return Ok(()) };
            headers.insert("content-length", header);
            let digits = value.trim();
            let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let expected = digits.parse::<i64>().ok().filter(|_| valid).map(|length| Framing::Length(length as u64));
            prop_assert_eq!(framing(Version::HTTP_11, &headers).ok(), expected);
        }

        #[test]
        fn any_transfer_encoding_but_chunked_is_refused(
            value in prop_oneof!["[ -~]{0,12}", "(chunked|gzip|[ ,;]){1,3}"],
        ) {
            let mut headers = HeaderMap::new();
            let Ok(header) = ureq::http::HeaderValue::from_str(&value) else { return Ok(()) };
            headers.insert("transfer-encoding", header);
            let chunked = value.trim().to_lowercase() == "chunked";
            prop_assert_eq!(framing(Version::HTTP_11, &headers).ok(), chunked.then_some(Framing::Chunked));
        }
    }
}
