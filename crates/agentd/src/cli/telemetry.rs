//! Telemetry of a call: metrics, spans for a collector, and the span of the caller.

use super::{args::CallArgs, logging::SubscriberLayer, output_file::OutputFile, writer};
use agentd_log::LogFailure as _;
use agentd_telemetry::{ExportSettings, IntentTrace, Metrics, SpanExporter, SpanQueue, measured_layer};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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

/// The metrics and spans of the daemon.
pub(super) struct DaemonTelemetry {
    pub metrics: Arc<Metrics>,
    export: Option<(Arc<SpanQueue>, SpanExporter)>,
}

impl DaemonTelemetry {
    /// Returns the telemetry of the daemon. Spans are exported if the environment names a collector.
    pub fn new() -> Self {
        let exporter = ExportSettings::of(|name| std::env::var(name).ok()).unwrap_or_else(|error| {
            writer::message(format_args!("spans are not exported: {error}"));
            None
        });
        let export = exporter.map(|settings| (Arc::default(), SpanExporter::new(settings)));
        Self { metrics: Arc::default(), export }
    }

    /// Returns the layer that measures.
    pub fn layer(&self) -> SubscriberLayer {
        measured_layer(self.metrics.clone(), self.export.as_ref().map(|(spans, _)| spans.clone()))
    }

    /// Starts to export spans, at this interval and at the end.
    pub fn export_every(self, interval: Duration) -> SpanExports {
        let end = CancellationToken::new();
        let ends = end.clone();
        let task = self.export.map(|(spans, exporter)| {
            tokio::spawn(async move {
                while ends.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
                    exporter.export(&spans.take()).await.or_warn("export", "spans");
                }
                exporter.export(&spans.take()).await.or_warn("export", "spans");
            })
        });
        SpanExports { end, task }
    }
}

/// The regular exports of spans.
pub(super) struct SpanExports {
    end: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl SpanExports {
    /// Exports the last spans.
    pub async fn finish(self) {
        self.end.cancel();
        if let Some(task) = self.task {
            task.await.or_warn("wait for", "the export of spans");
        }
    }
}

/// Returns the span of a call: below the span that arguments or environment name, or in a new trace.
pub(super) fn trace_of(args: &CallArgs) -> IntentTrace {
    match &args.traceparent {
        Some(caller) => IntentTrace::below(Some(caller.clone())),
        None => {
            let variable = |name| std::env::var(name).ok();
            IntentTrace::of_headers(variable(TRACEPARENT).as_deref(), variable(TRACESTATE).as_deref())
        }
    }
}

/// Adds the span of a call to the object of its intent, for the caller's further spans.
pub(super) fn add_trace(object: &mut Value, trace: &IntentTrace) {
    object["traceparent"] = trace.own().to_string().into();
    object["tracestate"] = trace.own().state().into();
}
