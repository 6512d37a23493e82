//! The measured span of an intent.

use agentd_telemetry::{TraceContext, intent_span};
use serde_json::Value;
use tracing::Span;

/// The span of a call, and the span of its caller.
#[derive(Debug)]
pub(crate) struct IntentTrace {
    own: TraceContext,
    caller: Option<TraceContext>,
}

impl IntentTrace {
    /// Returns a span below that of the caller. An invalid `traceparent` begins a new trace, as the specification requires.
    pub(crate) fn of(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let caller = traceparent.and_then(|text| text.parse::<TraceContext>().ok());
        let caller = caller.map(|caller| caller.with_state(tracestate.unwrap_or_default()));
        let own = caller.as_ref().map_or_else(TraceContext::new_trace, TraceContext::child);
        Self { own, caller }
    }

    /// Returns the identity of the span.
    pub(crate) fn own(&self) -> &TraceContext {
        &self.own
    }

    /// Returns the span.
    pub(crate) fn span(&self) -> Span {
        intent_span(&self.own, self.caller.as_ref())
    }
}

/// Records in the current span how an intent ended.
pub(crate) fn record_end(object: &Value) {
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
