//! Requests with retries.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::connections::Connection;
use super::failure::{PROGRESS_BYTES, Recovery, RequestFailure};
use super::response::{RangeRequest, Response};
use super::{POLL_INTERVAL, UrlSource};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::sequencer::Sequencer;

impl UrlSource<'_> {
    /// Sends a request until it succeeds, or a retry cannot help. `answered`: the server has responded before.
    pub(super) fn request(
        &self,
        connection: &mut Connection,
        mut range_request: RangeRequest<'_>,
        sequencer: &Sequencer,
        answered: bool,
    ) -> Result<Response> {
        let mut url = self.final_url();
        let reuses_connection = answered && range_request.keep_alive;
        loop {
            match self.client.get(&url, range_request) {
                Ok(response) => {
                    *self.final_url.lock().unwrap_or_else(PoisonError::into_inner) = response.url.clone();
                    return Ok(response);
                }
                // The server may close an idle connection at any time (RFC 9112, 9.3.1), so this is not a failure yet.
                Err(failure)
                    if failure.recovery == Recovery::ConnectionLost
                        && reuses_connection
                        && !range_request.new_connection =>
                {
                    range_request.new_connection = true;
                }
                // The target of a redirect may have expired or disappeared, so follow the redirect again.
                Err(failure) if failure.recovery == Recovery::GiveUp && url != self.requested_url => {
                    url = self.requested_url.clone();
                }
                Err(failure) => {
                    self.delay_or_fail(connection, failure, sequencer, answered)?;
                    url = self.requested_url.clone();
                }
            }
            if sequencer.is_cancelled() {
                return Err(self.error(connection, "the copy was cancelled"));
            }
        }
    }

    /// Counts a failure, and waits until the next attempt may start. Fails if a retry cannot help, if the retries are
    /// used up, or if the copy has to start over. `answered`: the server has responded before.
    pub(super) fn delay_or_fail(
        &self,
        connection: &mut Connection,
        mut failure: RequestFailure,
        sequencer: &Sequencer,
        answered: bool,
    ) -> Result<()> {
        if sequencer.is_cancelled() {
            return Ok(());
        }
        failure.recovery = match failure.recovery {
            Recovery::ConnectionLost => Recovery::Retry(None),
            Recovery::RetryIfAnswered if answered => Recovery::Retry(None),
            Recovery::RetryIfAnswered | Recovery::Restart if !answered => Recovery::GiveUp,
            recovery => recovery,
        };
        if connection.received >= PROGRESS_BYTES {
            connection.failures = self.restarts;
        }
        connection.received = 0;
        connection.failures = connection.failures.saturating_add(1);
        let retries = self.client.options.retry;
        if failure.recovery == Recovery::GiveUp || connection.failures > retries {
            return Err(self.final_error(connection, failure));
        }
        let delay = failure.delay(connection.failures);
        let error = self.error(connection, failure.why);
        if failure.recovery == Recovery::Restart {
            // The copy itself reports that it starts over. The first time, it does so without a delay.
            sleep(if connection.failures == 1 { Duration::ZERO } else { delay }, sequencer);
            return Err(error.restartable());
        }
        let (attempt, attempts) = (connection.failures + 1, retries.saturating_add(1));
        let seconds = (delay.as_secs_f64() * 10.0).round() / 10.0;
        self.observer.event(Event::Notice(&format!("{error}; attempt {attempt} of {attempts} in {seconds} s")));
        sleep(delay, sequencer);
        Ok(())
    }

    /// The error of a download that is no longer retried.
    fn final_error(&self, connection: &Connection, failure: RequestFailure) -> Error {
        if failure.recovery != Recovery::GiveUp && self.client.options.retry > 0 {
            let why = format!("{}; gave up after {} attempts", failure.why, connection.failures);
            return self.error(connection, why).hint("raise --retry, or add --resume to keep what was copied");
        }
        let error = self.error(connection, failure.why);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// An error at the current offset of `connection`.
    pub(super) fn error(&self, connection: &Connection, why: impl Into<String>) -> Error {
        let error = Error::failed("reading", &self.name, why);
        if connection.offset > 0 { error.at(self.skip + connection.offset) } else { error }
    }
}

/// Waits for `delay`, or until the copy is cancelled.
fn sleep(delay: Duration, sequencer: &Sequencer) {
    let end = Instant::now() + delay;
    while !sequencer.is_cancelled() {
        let remaining = end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            break;
        }
        std::thread::sleep(remaining.min(POLL_INTERVAL));
    }
}
