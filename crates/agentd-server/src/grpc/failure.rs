//! The errors of calls, with details that programs read (`google.rpc.Status`).
//!
//! A status is sent in trailers, which clients bound (8 KiB is usual), so its texts are cut.

use crate::{auth::AuthError, request::InvalidRequest, service::ServiceError};
use agentd_engine::EngineError;
use agentd_proto::refusals::{DOMAIN, INTERNAL, code};
use agentd_state::StateError;
use serde_json::Value;
use std::{collections::HashMap, time::Duration};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// The longest message in bytes. A status contains it twice.
const MAX_MESSAGE: usize = 1024;

/// The most bytes of all violations.
const MAX_VIOLATIONS: usize = 2048;

/// The field of a request that has the parameters.
const PARAMETERS: &str = "parameters_json";

/// The time after which a request to a daemon that is stopping, or whose store is busy, may succeed.
const RETRY: Duration = Duration::from_secs(1);

/// Returns the error with this reason, which is a word of the table of codes.
pub(super) fn failure(reason: &str, message: &str) -> Status {
    detailed(reason, message, [], ErrorDetails::new())
}

/// Returns the error of a request with a field that is not valid.
pub(super) fn invalid(field: &str, message: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, cut(&message, MAX_MESSAGE));
    detailed("invalid-request", &message, [], details)
}

/// Returns the error of an intent that was refused. `object` is the JSON object of its end.
pub(super) fn refused(object: &Value) -> Status {
    let error = &object["error"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (reason, message) = (text(&error["code"]), text(&error["message"]));
    let mut details = ErrorDetails::new();
    let mut left = MAX_VIOLATIONS;
    for violation in error["violations"].as_array().into_iter().flatten() {
        let (field, rule) = (format!("{PARAMETERS}{}", text(&violation["pointer"])), text(&violation["message"]));
        match left.checked_sub(field.len() + rule.len()) {
            Some(rest) => left = rest,
            None => break,
        }
        details.add_bad_request_violation(field, rule);
    }
    if reason == "quota-exceeded" {
        details.add_quota_failure_violation("principal", cut(&message, MAX_MESSAGE));
        details.set_retry_info(error["retry_after_ms"].as_u64().map(Duration::from_millis));
    }
    detailed(&reason, &message, [("intent".to_owned(), text(&object["intent"]))], details)
}

/// Returns the error of a request without an outcome. An error that the caller can do nothing about is logged, and is not
/// described to the caller, because its text is about files of the daemon.
pub(super) fn of_service(error: &ServiceError) -> Status {
    match error {
        ServiceError::Invalid(invalid) => workspace(invalid),
        ServiceError::Cancelled => failure("cancelled", &error.to_string()),
        ServiceError::Stopping => retry("stopping", &error.to_string()),
        ServiceError::Engine(engine) => of_engine(engine),
        _ => internal(error),
    }
}

/// Returns the error of a request whose caller is not authenticated.
pub(super) fn of_auth(error: AuthError) -> Status {
    let message = error.to_string();
    match error {
        AuthError::TooMany(wait) => detailed("too-many-failures", &message, [], ErrorDetails::with_retry_info(Some(wait))),
        AuthError::Interface(_) => failure("outside-scope", &message),
        AuthError::State(error) => of_engine(&error.into()),
        AuthError::Untrusted(_) | AuthError::Missing | AuthError::Invalid => failure("unauthenticated", &message),
    }
}

/// Returns the error of the engine.
pub(super) fn of_engine(error: &EngineError) -> Status {
    match error {
        EngineError::State(StateError::Busy(_) | StateError::Full) => {
            tracing::warn!(%error, "the request was not recorded");
            retry(
                "busy",
                "the daemon cannot record the request at present — send the request again, with the same idempotency key",
            )
        }
        EngineError::State(missing @ (StateError::NoApproval(_) | StateError::UnknownIntent(_))) => {
            failure("no-approval", &missing.to_string())
        }
        EngineError::State(decided @ (StateError::Decided(_) | StateError::Expired(_) | StateError::NotInFlight(_))) => {
            failure("approval-decided", &decided.to_string())
        }
        _ => internal(error),
    }
}

fn workspace(error: &InvalidRequest) -> Status {
    let reason = if matches!(error, InvalidRequest::Unlisted(_)) { "unlisted-workspace" } else { "invalid-workspace" };
    let message = error.to_string();
    let details = ErrorDetails::with_bad_request_violation("workspace.path", cut(&message, MAX_MESSAGE));
    detailed(reason, &message, [], details)
}

fn internal(error: &impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a request has no outcome");
    failure(INTERNAL, "the daemon failed to execute or to record the request — ask the operator for the daemon's log")
}

fn retry(reason: &str, message: &str) -> Status {
    detailed(reason, message, [], ErrorDetails::with_retry_info(Some(RETRY)))
}

fn detailed<const N: usize>(reason: &str, message: &str, facts: [(String, String); N], mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, HashMap::from(facts));
    Status::with_error_details(code(reason), cut(message, MAX_MESSAGE), details)
}

fn cut(text: &str, limit: usize) -> String {
    match text.len() > limit {
        true => format!("{}…", &text[..text.floor_char_boundary(limit)]),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tonic::Code;

    #[test]
    fn refusal_has_its_word_its_intent_and_the_fields_at_fault() {
        let violations = json!([{ "pointer": "/command", "message": "too long" }, { "pointer": "", "message": "no member" }]);
        let error = json!({ "code": "invalid-parameters", "message": "m", "violations": violations });
        let status = refused(&json!({ "intent": "0a", "error": error }));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "m"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str(), info.metadata["intent"].as_str()),
            ("invalid-parameters", "agentd", "0a")
        );
        let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["parameters_json/command", "parameters_json"]);
    }

    #[test]
    fn exceeded_quota_says_when_to_try_again() {
        let error = json!({ "code": "quota-exceeded", "message": "quota: …", "retry_after_ms": 2500 });
        let details = refused(&json!({ "intent": "0a", "error": error })).get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(2500)));
        assert_eq!(details.quota_failure().unwrap().violations.len(), 1);
    }

    #[test]
    fn status_of_long_texts_fits_into_the_trailers_that_clients_accept() {
        let violation = json!({ "pointer": "/é".repeat(100), "message": "é".repeat(300) });
        let error = json!({ "code": "invalid-parameters", "message": "é".repeat(10_000), "violations": vec![violation; 32] });
        let mut headers = http::HeaderMap::new();
        refused(&json!({ "intent": "0".repeat(32), "error": error })).add_header(&mut headers).unwrap();
        let length: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(length < 12 << 10, "{length}");
        assert!(!headers.is_empty());
    }

    #[test]
    fn internal_error_does_not_describe_the_files_of_the_daemon() {
        let error = StateError::Foreign("/var/lib/agentd/state".into());
        let status = of_engine(&EngineError::State(error));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("/var"), "{status:?}");
    }
}
