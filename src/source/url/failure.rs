//! Why a request failed, whether a retry can help, and after what delay.

use std::time::{Duration, SystemTime};

use super::certificates;
use crate::error::{Error, escaped, plain};
use crate::job::HttpOptions;

/// The first delay. Each of the following delays is twice as long as the one before.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest delay, unless the server asks for a longer one.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// The longest delay that a server can ask for. If it asks for more, the download fails.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// After this many bytes without a failure, the count of consecutive failures starts again.
pub const PROGRESS_BYTES: u64 = 16 << 20;

/// A failed request.
#[derive(Debug)]
pub struct RequestFailure {
    /// The reason, for the user.
    pub why: String,
    /// What can help.
    pub recovery: Recovery,
    /// What the user can try, if anything.
    pub hint: Option<String>,
}

/// What can help after a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing that dio-cp can do.
    GiveUp,
    /// A retry, after the delay that the server asked for, if it did.
    Retry(Option<Duration>),
    /// A retry, because the connection was lost. Without a delay if it was an idle connection that was reused.
    ConnectionLost,
    /// A retry, but only if the server has responded before. Otherwise the address is probably wrong.
    RetryIfAnswered,
    /// Starting the copy over, because the file has changed on the server.
    Restart,
}

impl RequestFailure {
    /// A failure without a hint. Escapes control characters in `why`, which may be the server's.
    pub fn new(recovery: Recovery, why: impl Into<String>) -> Self {
        Self { why: escaped(&why.into()), recovery, hint: None }
    }

    /// Sets what the user can try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request could not be sent at all.
    pub fn from_error(error: &Error) -> Self {
        Self { why: error.to_string(), recovery: Recovery::GiveUp, hint: error.hint.clone() }
    }

    /// An error of the HTTP client. Its own text is not used where it may contain the URL, and so a password.
    pub fn from_ureq(error: &ureq::Error, options: &HttpOptions) -> Self {
        use ureq::Timeout;
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                let why = format!("timed out: no connection within {} s", options.connect_timeout.as_secs_f64());
                Self::new(Recovery::Retry(None), why).hint("raise --connect-timeout")
            }
            ureq::Error::Timeout(_) => {
                let why = format!("timed out: the server sent nothing for {} s", options.timeout.as_secs_f64());
                Self::new(Recovery::Retry(None), why).hint("raise --timeout")
            }
            ureq::Error::HostNotFound => Self::new(Recovery::RetryIfAnswered, "host not found")
                .hint("check the host name and the network connection"),
            ureq::Error::Io(e) => Self::from_io(e, options),
            ureq::Error::Other(e) if e.is::<rustls::Error>() => Self::from_tls(e.downcast_ref()),
            ureq::Error::LargeResponseHeader(_, limit) => {
                Self::new(Recovery::GiveUp, format!("the response headers are longer than {limit} bytes"))
            }
            ureq::Error::ConnectProxyFailed(why) => {
                Self::new(Recovery::RetryIfAnswered, format!("the proxy refused the connection: {why}"))
            }
            ureq::Error::Protocol(e) => {
                Self::new(Recovery::RetryIfAnswered, format!("the response is not valid HTTP: {e}"))
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::new(Recovery::GiveUp, "the URL does not make a valid HTTP request")
            }
            other => Self::new(Recovery::Retry(None), other.to_string()),
        }
    }

    /// Like [`RequestFailure::from_ureq`], for an error while reading a body.
    pub fn from_io(error: &std::io::Error, options: &HttpOptions) -> Self {
        if let Some(inner) = error.get_ref() {
            if inner.is::<rustls::Error>() {
                return Self::from_tls(inner.downcast_ref());
            }
            if let Some(client) = inner.downcast_ref::<ureq::Error>() {
                return Self::from_ureq(client, options);
            }
        }
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
        match error.kind() {
            UnexpectedEof => Self::new(Recovery::ConnectionLost, "the connection was lost"),
            ConnectionReset | ConnectionAborted | BrokenPipe => Self::new(Recovery::ConnectionLost, plain(error)),
            TimedOut => Self::new(Recovery::Retry(None), plain(error)),
            // Host not found, connection refused, no route to host.
            _ => Self::new(Recovery::RetryIfAnswered, plain(error)),
        }
    }

    fn from_tls(error: Option<&rustls::Error>) -> Self {
        let Some(error) = error else { return Self::new(Recovery::RetryIfAnswered, "TLS failed") };
        match certificates::why_rejected(error) {
            Some(why) => Self::new(Recovery::GiveUp, format!("the server's certificate was rejected: {why}"))
                .hint("if you trust the server, pass its certificate authority with --cacert FILE"),
            None => Self::new(Recovery::RetryIfAnswered, format!("TLS: {error}")),
        }
    }

    /// The delay before the retry that follows `failures` consecutive failures.
    pub fn delay(&self, failures: u32) -> Duration {
        match self.recovery {
            Recovery::Retry(Some(requested)) => requested,
            _ => FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_DELAY),
        }
    }
}

/// Parses a number in a header: digits only, without the sign that `parse` allows.
pub fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses a Retry-After header: seconds, or a date (RFC 9110, 10.2.3).
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(number(header).unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_grow_up_to_a_minute_and_a_server_may_ask_for_its_own() {
        let lost = RequestFailure::new(Recovery::Retry(None), "lost");
        let delays: Vec<u128> = (1..=9).map(|failures| lost.delay(failures).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(lost.delay(u32::MAX), MAX_DELAY);
        assert_eq!(RequestFailure::new(Recovery::Retry(Some(Duration::ZERO)), "busy").delay(3), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        for invalid in ["soon", "", "+1", "-1", "1.5"] {
            assert_eq!(retry_after(invalid, now), None, "{invalid}");
        }
        assert!(retry_after("99999999999999999999", now).is_some_and(|delay| delay > MAX_RETRY_AFTER));
    }

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn any_retry_after_is_a_delay_or_nothing(
            header in prop_oneof![
                ".{0,40}",
                "[0-9+-]{0,25}",
                "[0-9]{15,25}",
                "(Sun|Mon), [0-9]{2} (Jan|Feb|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
            ],
        ) {
            let digits = header.trim();
            let delay = retry_after(&header, SystemTime::UNIX_EPOCH);
            if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
                let expected = digits.bytes().fold(0u64, |sum, digit| {
                    sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
                });
                prop_assert_eq!(delay, Some(Duration::from_secs(expected)));
            }
        }

        #[test]
        fn a_date_in_retry_after_is_the_time_until_then(now in 0u64..200_000_000_000, later in 0u64..50_000_000_000) {
            let (now, delay) = (SystemTime::UNIX_EPOCH + Duration::from_secs(now), Duration::from_secs(later));
            prop_assert_eq!(retry_after(&httpdate::fmt_http_date(now + delay), now), Some(delay));
        }

        #[test]
        fn the_reason_of_a_failure_has_nothing_that_a_terminal_obeys(why in "(?s).{0,40}") {
            prop_assert!(!RequestFailure::new(Recovery::GiveUp, why).why.contains(char::is_control));
        }
    }
}
