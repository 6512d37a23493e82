//! What a call has beside its message: the caller, the deadline and the trace.

use super::failure::{failure, invalid};
use crate::caller::Caller;
use agentd_telemetry::IntentTrace;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
};

/// The metadata in which a client states its deadline, as the time that is left.
const TIMEOUT: &str = "grpc-timeout";

/// The most digits of that time.
const MAX_DIGITS: usize = 8;

/// What a call that executes an intent has beside its message.
#[derive(Debug)]
pub(super) struct ExecuteCall {
    /// The caller.
    pub caller: Caller,
    /// The span of the intent.
    pub trace: IntentTrace,
    deadline: Option<Instant>,
}

impl ExecuteCall {
    /// Reads metadata and extensions of a request.
    ///
    /// # Errors
    /// A status, if the request has no caller or a malformed deadline.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let trace = IntentTrace::of_headers(text("traceparent"), text("tracestate"));
        let deadline = timeout(request.metadata())?.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Self { caller: caller(request)?.clone(), trace, deadline })
    }

    /// Returns the error of a call whose deadline has passed, at that time. Without a deadline, the function does not return.
    pub async fn overdue(&self) -> Status {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        failure("deadline-exceeded", "the deadline of the call has passed, and the intent is cancelled — allow more time")
    }

    /// Adds the identity of the span to the metadata of a reply.
    pub fn identify(&self, metadata: &mut MetadataMap) {
        if let Ok(value) = AsciiMetadataValue::try_from(self.trace.own().to_string()) {
            metadata.insert("traceparent", value);
        }
    }
}

/// Returns the caller, whom the middleware of the router has authenticated.
///
/// # Errors
/// A status, if there is none.
pub(super) fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    let missing = || failure("unauthenticated", "the request was not authenticated — send an API key, or use the Unix socket");
    request.extensions().get().ok_or_else(missing)
}

/// Returns the time until the deadline: up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Status> {
    let Some(value) = metadata.get(TIMEOUT) else { return Ok(None) };
    let malformed =
        || invalid(TIMEOUT, format!("{TIMEOUT}: {value:?} is not a time — send up to 8 digits and a unit: H, M, S, m, u, n"));
    let text = value.to_str().map_err(|_| malformed())?;
    parse_timeout(text).map(Some).ok_or_else(malformed)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_has_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999M", Some(Duration::from_secs(99_999_999 * 60))),
            ("2S", Some(Duration::from_secs(2))),
            ("0m", Some(Duration::ZERO)),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
        for text in ["", "S", "1", "123456789S", "-1S", "+1S", "1.5S", "1s", "1 S", "1é", "é"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
