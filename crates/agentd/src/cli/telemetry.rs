//! Telemetry of a call: metrics, spans for a collector, and the span of the caller.

use super::{args::CallArgs, logging::SubscriberLayer, output_file::OutputFile, writer};
use agentd_telemetry::{ExportSettings, Metrics, SpanExporter, SpanQueue, TraceContext, intent_span, measured_layer};
use serde_json::Value;
use std::sync::Arc;
use tracing::Span;

/// The variables with the span of the caller, as OpenTelemetry defines them for child processes.
const TRACEPARENT: &str = "TRACEPARENT";
const TRACESTATE: &str = "TRACESTATE";

/// The metrics and spans of this process.
pub(super) struct Telemetry {
    metrics: Arc<Metrics>,
    export: Option<(Arc<SpanQueue>, SpanExporter)>,
}

impl Telemetry {
    /// Returns the telemetry that arguments and environment request; `None` if they request none.
    pub fn requested(args: &CallArgs) -> Option<Self> {
        let exporter = match ExportSettings::of(|name| std::env::var(name).ok()) {
            Ok(settings) => settings.map(SpanExporter::new),
            // Telemetry never fails a call.
            Err(error) => {
                writer::message(format_args!("spans are not exported: {error}"));
                None
            }
        };
        if exporter.is_none() && args.metrics.is_none() {
            return None;
        }
        Some(Self { metrics: Arc::default(), export: exporter.map(|exporter| (Arc::default(), exporter)) })
    }

    /// Returns the layer that measures.
    pub fn layer(&self) -> SubscriberLayer {
        measured_layer(self.metrics.clone(), self.export.as_ref().map(|(spans, _)| spans.clone()))
    }

    /// Writes the metrics and exports the spans of a call whose outcome the caller has got. No failure changes the outcome.
    pub async fn finish(self, file: Option<OutputFile>) {
        if let Some(Err(error)) = file.map(|file| file.write("", &self.metrics.text())) {
            writer::message(format_args!("{error}"));
        }
        if let Some((spans, exporter)) = self.export
            && let Err(error) = exporter.export(&spans.take()).await
        {
            tracing::warn!(%error, "spans were not exported");
        }
    }
}

/// The span of a call.
pub(super) struct CallTrace {
    own: TraceContext,
    caller: Option<TraceContext>,
}

impl CallTrace {
    /// Returns a new span below that of the caller, or in a new trace.
    pub fn of(args: &CallArgs) -> Self {
        let caller = args.traceparent.clone().or_else(inherited);
        let own = caller.as_ref().map_or_else(TraceContext::new_trace, TraceContext::child);
        Self { own, caller }
    }

    /// Returns the span, which has begun.
    pub fn span(&self) -> Span {
        intent_span(&self.own, self.caller.as_ref())
    }

    /// Adds the span to the object of an intent, for the caller's further spans.
    pub fn add_to(&self, object: &mut Value) {
        object["traceparent"] = self.own.to_string().into();
        object["tracestate"] = self.own.state().into();
    }
}

/// Returns the span in the environment. An invalid one is ignored, as the specification requires.
fn inherited() -> Option<TraceContext> {
    let parent = std::env::var(TRACEPARENT).ok()?;
    match parent.parse::<TraceContext>() {
        Ok(context) => Some(match std::env::var(TRACESTATE) {
            Ok(state) => context.with_state(&state),
            Err(_) => context,
        }),
        Err(error) => {
            tracing::debug!(%error, "ignored {TRACEPARENT}");
            None
        }
    }
}

/// Records in the current span how an intent ended.
pub(super) fn record_end(object: &Value) {
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
