//! Metrics and traces of agentd.
//!
//! The other crates only emit the spans and events of [`agentd_log::measure`]. A program that wants metrics or traces installs
//! the [`measured_layer`], which turns them into
//!
//! - [`Metrics`]: counters and histograms in the text format of Prometheus;
//! - ended spans in a bounded [`SpanQueue`], which a [`SpanExporter`] sends to a collector by OTLP/HTTP.
//!
//! A [`TraceContext`] connects the spans with those of the caller (W3C Trace Context).
//!
//! No failure of this crate reaches an intent: a full queue drops spans, and a failed export is only reported.

mod exporter;
mod intent_trace;
mod label;
mod layer;
mod metrics;
mod otlp;
mod settings;
mod span_queue;
mod trace_context;

pub use exporter::{ExportError, SpanExporter};
pub use intent_trace::{IntentTrace, record_end};
pub use layer::measured_layer;
pub use metrics::Metrics;
pub use settings::{ExportSettings, InvalidVariable};
pub use span_queue::{EndedSpan, MAX_SPANS, SpanQueue};
pub use trace_context::{InvalidTraceParent, TraceContext};
