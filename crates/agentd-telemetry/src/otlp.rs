//! Spans as an `ExportTraceServiceRequest` in the JSON encoding of OTLP
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).

use crate::span_queue::EndedSpan;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The values of `SpanKind`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// Returns the request with these spans of one process.
pub(crate) fn request(resource: &[(String, String)], spans: &[EndedSpan]) -> Value {
    let resource: Vec<_> = resource.iter().map(|(name, value)| attribute(name, value)).collect();
    let spans: Vec<_> = spans.iter().map(span).collect();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": { "name": "agentd", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }],
        }],
    })
}

fn span(span: &EndedSpan) -> Value {
    let attributes = span.attributes.iter().map(|(name, value)| attribute(&format!("agentd.{name}"), value));
    json!({
        "traceId": format!("{:032x}", span.context.trace),
        "spanId": format!("{:016x}", span.context.span),
        "parentSpanId": span.parent.map(|parent| format!("{parent:016x}")).unwrap_or_default(),
        "traceState": span.context.state().unwrap_or_default(),
        "name": span.name,
        "kind": if span.is_request { SERVER } else { INTERNAL },
        "startTimeUnixNano": nanoseconds(span.started),
        "endTimeUnixNano": nanoseconds(span.ended),
        "attributes": attributes.collect::<Vec<_>>(),
        "status": {},
    })
}

fn attribute(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

/// 64-bit numbers are texts in this encoding.
fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_context::TraceContext;
    use std::time::Duration;

    #[test]
    fn request_has_the_form_of_the_specification() {
        let context =
            "00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01".parse::<TraceContext>().unwrap().with_state("a=b");
        let started = UNIX_EPOCH + Duration::from_nanos(1_544_712_660_000_000_001);
        let span = EndedSpan {
            context,
            parent: Some(0xeee1_9b7e_c3c1_b173),
            name: "intent".to_owned(),
            is_request: true,
            started,
            ended: started + Duration::from_secs(1),
            attributes: vec![("reason", "exited".to_owned())],
        };
        let resource = [("service.name".to_owned(), "agentd".to_owned())];
        let expected = json!({ "resourceSpans": [{
            "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "agentd" } }] },
            "scopeSpans": [{
                "scope": { "name": "agentd", "version": env!("CARGO_PKG_VERSION") },
                "spans": [{
                    "traceId": "5b8efff798038103d269b633813fc60c",
                    "spanId": "eee19b7ec3c1b174",
                    "parentSpanId": "eee19b7ec3c1b173",
                    "traceState": "a=b",
                    "name": "intent",
                    "kind": 2,
                    "startTimeUnixNano": "1544712660000000001",
                    "endTimeUnixNano": "1544712661000000001",
                    "attributes": [{ "key": "agentd.reason", "value": { "stringValue": "exited" } }],
                    "status": {},
                }],
            }],
        }] });
        assert_eq!(request(&resource, &[span]), expected);
    }
}
