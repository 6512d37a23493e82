//! The measured span of one intent, and the span of its caller.

use crate::{layer::intent_span, trace_context::TraceContext};
use serde_json::Value;
use tracing::Span;

/// The span of an intent.
#[derive(Debug)]
pub struct IntentTrace {
    own: TraceContext,
    caller: Option<TraceContext>,
}

impl IntentTrace {
    /// Returns a new span below that of the caller, or in a new trace.
    pub fn below(caller: Option<TraceContext>) -> Self {
        let own = caller.as_ref().map_or_else(TraceContext::new_trace, TraceContext::child);
        Self { own, caller }
    }

    /// Returns a new span for the headers `traceparent` and `tracestate` of a request. An invalid `traceparent` begins a new
    /// trace, as the specification requires (W3C Trace Context).
    pub fn of_headers(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let caller = traceparent.and_then(|text| match text.parse::<TraceContext>() {
            Ok(context) => Some(context.with_state(tracestate.unwrap_or_default())),
            Err(error) => {
                tracing::debug!(%error, "ignored traceparent");
                None
            }
        });
        Self::below(caller)
    }

    /// Returns the identity of the span.
    pub fn own(&self) -> &TraceContext {
        &self.own
    }

    /// Returns the span, which has begun.
    pub fn span(&self) -> Span {
        intent_span(&self.own, self.caller.as_ref())
    }
}

/// Records in the current span how an intent ended. `object` is the JSON object of the intent.
pub fn record_end(object: &Value) {
    let span = Span::current();
    let record = |field: &str, value: &Value| {
        if let Some(text) = value.as_str() {
            span.record(field, text);
        }
    };
    for member in ["intent", "status", "reason"] {
        record(member, &object[member]);
    }
    record("backend", &object["sandbox"]["backend"]);
    // The name of an unknown capability is a text of the caller.
    if object["reason"] != "unknown-capability" {
        record("capability", &object["capability"]);
    }
}
