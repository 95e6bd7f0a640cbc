//! What is worth trying again, and when.

use std::time::{Duration, SystemTime};

use super::tls;
use crate::error::{Error, plain};
use crate::job::HttpOptions;

/// The first pause; each one that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause is longer, unless the server asks for it.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Who is to come back later than this may as well be told.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// So many bytes in one attempt, and the next failure is the first one again.
pub const PROGRESS_BYTES: u64 = 16 << 20;

/// Why a request did not bring what it should.
#[derive(Debug)]
pub struct RequestFailure {
    /// In words, for the user.
    pub why: String,
    pub recovery: Recovery,
    /// What to try, where there is an answer.
    pub hint: Option<String>,
}

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing that dio-cp could do.
    GiveUp,
    /// To ask again; the server says when, or not.
    Retry(Option<Duration>),
    /// To ask again: the connection is gone. At once, if it was an old one.
    ConnectionLost,
    /// To ask again, if the server ever answered: else the address is wrong.
    RetryIfAnswered,
    /// To begin the copy anew: what is there now is another version.
    Restart,
}

impl RequestFailure {
    pub fn new(recovery: Recovery, why: impl Into<String>) -> Self {
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Self { why: why.into().chars().map(escape).collect(), recovery, hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// It cannot even be asked.
    pub fn fatal(error: &Error) -> Self {
        Self { why: error.to_string(), recovery: Recovery::GiveUp, hint: error.hint.clone() }
    }

    /// What the HTTP client says, put into words. Its own may hold the URL, which may hold a password.
    pub fn of(error: &ureq::Error, web: &HttpOptions) -> Self {
        use ureq::Timeout;
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                let why = format!("timed out: no connection within {} s", web.connect_timeout.as_secs_f64());
                Self::new(Recovery::Retry(None), why).hint("--connect-timeout waits longer")
            }
            ureq::Error::Timeout(_) => {
                let why = format!("timed out: nothing came for {} s", web.timeout.as_secs_f64());
                Self::new(Recovery::Retry(None), why).hint("--timeout waits longer")
            }
            ureq::Error::HostNotFound => {
                Self::new(Recovery::RetryIfAnswered, "there is no such host").hint("check the name, and the network")
            }
            ureq::Error::Io(e) => Self::of_io(e, web),
            ureq::Error::Other(e) if e.is::<rustls::Error>() => Self::of_tls(e.downcast_ref()),
            ureq::Error::LargeResponseHeader(_, most) => {
                Self::new(Recovery::GiveUp, format!("the answer's header has more than {most} bytes"))
            }
            ureq::Error::ConnectProxyFailed(why) => {
                Self::new(Recovery::RetryIfAnswered, format!("the proxy refuses: {why}"))
            }
            ureq::Error::Protocol(e) => Self::new(Recovery::RetryIfAnswered, format!("the answer is not HTTP: {e}")),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::new(Recovery::GiveUp, "no request can be made of this URL")
            }
            other => Self::new(Recovery::Retry(None), other.to_string()),
        }
    }

    /// As [`RequestFailure::of`], for what came of reading a body.
    pub fn of_io(error: &std::io::Error, web: &HttpOptions) -> Self {
        if let Some(inner) = error.get_ref() {
            if inner.is::<rustls::Error>() {
                return Self::of_tls(inner.downcast_ref());
            }
            if let Some(client) = inner.downcast_ref::<ureq::Error>() {
                return Self::of(client, web);
            }
        }
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
        match error.kind() {
            UnexpectedEof => Self::new(Recovery::ConnectionLost, "the connection was lost"),
            ConnectionReset | ConnectionAborted | BrokenPipe => Self::new(Recovery::ConnectionLost, plain(error)),
            TimedOut => Self::new(Recovery::Retry(None), plain(error)),
            // No such host, nobody listens, no route.
            _ => Self::new(Recovery::RetryIfAnswered, plain(error)),
        }
    }

    fn of_tls(error: Option<&rustls::Error>) -> Self {
        let Some(error) = error else { return Self::new(Recovery::RetryIfAnswered, "TLS failed") };
        match tls::refusal(error) {
            Some(why) => Self::new(Recovery::GiveUp, format!("the server's certificate is refused: {why}"))
                .hint("--cacert FILE trusts its authority, if you do"),
            None => Self::new(Recovery::RetryIfAnswered, format!("TLS: {error}")),
        }
    }

    /// How long to wait before the `failures`th repetition.
    pub fn pause(&self, failures: u32) -> Duration {
        match self.recovery {
            Recovery::Retry(Some(asked)) => asked,
            _ => FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_PAUSE),
        }
    }
}

/// Retry-After: seconds, or a date. (RFC 9110, 10.2.3)
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute_and_a_server_may_ask_for_its_own() {
        let lost = RequestFailure::new(Recovery::Retry(None), "lost");
        let pauses: Vec<u128> = (1..=9).map(|n| lost.pause(n).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(lost.pause(u32::MAX), MAX_PAUSE);
        assert_eq!(RequestFailure::new(Recovery::Retry(Some(Duration::ZERO)), "busy").pause(3), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
