//! Turns the spans and events of [`agentd_log::measure`] into metrics and ended spans.

use crate::{
    label::label,
    metrics::Metrics,
    span_queue::{EndedSpan, SpanQueue},
    trace_context::TraceContext,
};
use agentd_log::measure::{MEASURED, STAGE, Stage};
use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};
use tracing::{
    Event, Level, Metadata, Span, Subscriber,
    field::{Empty, Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

/// The name of the span of an intent.
const INTENT: &str = "intent";

/// The fields that identify a span, and are no attributes.
const CONTEXT: &str = "traceparent";
const STATE: &str = "tracestate";
const PARENT: &str = "parent";

/// Returns the span of an intent, from its request to its end. `own` is the span's identity, `caller` that of the caller's span.
/// The caller records the fields `capability`, `backend`, `intent`, `status` and `reason` as they become known.
pub(crate) fn intent_span(own: &TraceContext, caller: Option<&TraceContext>) -> Span {
    tracing::info_span!(
        target: MEASURED,
        INTENT,
        traceparent = %own,
        tracestate = own.state(),
        parent = caller.map(|caller| caller.span),
        capability = Empty,
        backend = Empty,
        intent = Empty,
        status = Empty,
        reason = Empty,
    )
}

/// Returns the layer that turns spans and events into metrics, and into the spans of a queue if there is one. The layer receives
/// only what is measured, whatever other layers of the subscriber receive.
pub fn measured_layer<S>(metrics: Arc<Metrics>, spans: Option<Arc<SpanQueue>>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    MeasuredLayer { metrics, spans }.with_filter(Targets::new().with_target(MEASURED, Level::DEBUG)).boxed()
}

struct MeasuredLayer {
    metrics: Arc<Metrics>,
    spans: Option<Arc<SpanQueue>>,
}

impl MeasuredLayer {
    fn close<S: for<'s> LookupSpan<'s>>(&self, span: &SpanRef<'_, S>, open: OpenSpan) {
        let stage = (span.name() == STAGE).then(|| open.fields.get(STAGE).unwrap_or_default().to_owned());
        if let Some(stage) = &stage {
            self.metrics.stage(stage, open.fields.get("backend").unwrap_or_default(), open.began.elapsed());
            if stage == Stage::Queue.name() {
                self.metrics.queued(false);
            }
        }
        let Some(spans) = self.spans.as_ref().filter(|_| open.context.sampled) else { return };
        let name = stage.unwrap_or_else(|| span.name().to_owned());
        let ended = open.started.checked_add(open.began.elapsed()).unwrap_or(open.started);
        let attributes = open.fields.attributes();
        let OpenSpan { context, parent, started, .. } = open;
        let span = EndedSpan { context, parent, is_request: name == INTENT, name, started, ended, attributes };
        if !spans.push(span) {
            self.metrics.span_dropped();
        }
    }
}

/// A span that has not ended.
struct OpenSpan {
    context: TraceContext,
    parent: Option<u64>,
    started: SystemTime,
    began: Instant,
    fields: MeasuredFields,
}

impl OpenSpan {
    fn new(fields: MeasuredFields, above: Option<&TraceContext>) -> Self {
        let stated = fields.get(CONTEXT).and_then(|text| text.parse::<TraceContext>().ok());
        let (context, parent) = match (stated, above) {
            (Some(own), _) => (own, fields.get(PARENT).and_then(|parent| parent.parse().ok())),
            (None, Some(above)) => (above.child(), Some(above.span)),
            (None, None) => (TraceContext::new_trace(), None),
        };
        let context = fields.get(STATE).map_or_else(|| context.clone(), |state| context.clone().with_state(state));
        Self { context, parent, started: SystemTime::now(), began: Instant::now(), fields }
    }
}

impl<S> Layer<S> for MeasuredLayer
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = MeasuredFields::default();
        attributes.record(&mut fields);
        if is_stage(attributes.metadata(), &fields, Stage::Queue) {
            self.metrics.queued(true);
        }
        let above = span.parent().and_then(|above| above.extensions().get::<OpenSpan>().map(|open| open.context.clone()));
        span.extensions_mut().insert(OpenSpan::new(fields, above.as_ref()));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<OpenSpan>() {
            values.record(&mut open.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = MeasuredFields::default();
        event.record(&mut fields);
        if let (Some(counted), Some(word)) = (fields.get("counted"), fields.get("label")) {
            self.metrics.count(counted, word, fields.get("number").and_then(|number| number.parse().ok()).unwrap_or(1));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<OpenSpan>();
        if let Some(open) = open {
            self.close(&span, open);
        }
    }
}

fn is_stage(metadata: &Metadata<'_>, fields: &MeasuredFields, stage: Stage) -> bool {
    metadata.name() == STAGE && fields.get(STAGE) == Some(stage.name())
}

/// The maximum number of fields that are kept of a span.
const MAX_FIELDS: usize = 16;

/// The fields of a span or an event, as text.
#[derive(Default)]
struct MeasuredFields(Vec<(&'static str, String)>);

impl MeasuredFields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, field: &Field, value: String) {
        if let Some((_, old)) = self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            *old = value;
        } else if self.0.len() < MAX_FIELDS {
            self.0.push((field.name(), value));
        }
    }

    /// Returns the attributes of a span. Texts that are no words of agentd are left out.
    fn attributes(&self) -> Vec<(&'static str, String)> {
        let is_attribute = |name: &str| ![CONTEXT, STATE, PARENT, STAGE].contains(&name);
        self.0.iter().filter(|(name, _)| is_attribute(name)).map(|(name, value)| (*name, label(value).to_owned())).collect()
    }
}

impl Visit for MeasuredFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
