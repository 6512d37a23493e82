//! Spans that have ended and wait for their export.

use crate::trace_context::TraceContext;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// The maximum number of spans that wait: the default of OpenTelemetry's batch processor.
pub const MAX_SPANS: usize = 2048;

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSpan {
    pub(crate) context: TraceContext,
    /// The span above, in this process or in that of the caller.
    pub(crate) parent: Option<u64>,
    pub(crate) name: String,
    /// True if the span begins where a request was received.
    pub(crate) is_request: bool,
    pub(crate) started: SystemTime,
    pub(crate) ended: SystemTime,
    pub(crate) attributes: Vec<(&'static str, String)>,
}

/// A bounded queue of ended spans. A full queue refuses further spans: nothing waits for a collector.
#[derive(Debug)]
pub struct SpanQueue {
    limit: usize,
    spans: Mutex<VecDeque<EndedSpan>>,
}

impl Default for SpanQueue {
    fn default() -> Self {
        Self::with_limit(MAX_SPANS)
    }
}

impl SpanQueue {
    /// Returns an empty queue for at most `limit` spans.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, spans: Mutex::default() }
    }

    /// Adds a span. Returns false if the queue is full.
    pub(crate) fn push(&self, span: EndedSpan) -> bool {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = spans.len() < self.limit;
        if has_room {
            spans.push_back(span);
        }
        has_room
    }

    /// Removes and returns all spans.
    pub fn take(&self) -> Vec<EndedSpan> {
        std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}
