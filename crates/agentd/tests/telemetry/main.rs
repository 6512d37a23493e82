//! Metrics, traces and logs of `agentd call`, as a user configures them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod collector;
mod place;
mod secrecy;

use collector::Collector;
use place::{Place, object};
use serde_json::{Value, json};
use std::{
    net::TcpListener,
    os::unix::fs::symlink,
    process::{Output, Stdio},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Returns the numbers of a traceparent: trace and span.
fn parts(object: &Value) -> (String, String) {
    let parts: Vec<_> = object["traceparent"].as_str().unwrap().split('-').map(str::to_owned).collect();
    (parts[1].clone(), parts[2].clone())
}

#[test]
fn call_continues_the_trace_of_its_caller_and_exports_its_stages() {
    let (place, collector) = (Place::new(), Collector::answering("200 OK"));
    let mut command = place.shell("exit 3", &[]);
    command.env("TRACEPARENT", CALLER).env("TRACESTATE", "vendor=1").env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint);
    let output = command.output().unwrap();
    let object = object(&output);
    assert_eq!((output.status.code(), &object["tracestate"]), (Some(3), &json!("vendor=1")), "{output:?}");
    let (trace, own) = parts(&object);
    assert_eq!(trace, TRACE);
    let spans = collector.spans();
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    let [intent] = named("intent")[..] else { panic!("{spans:#?}") };
    let ids = ["traceId", "spanId", "parentSpanId", "traceState"].map(|id| intent[id].as_str().unwrap());
    assert_eq!(ids, [TRACE, &own, "00f067aa0ba902b7", "vendor=1"]);
    for (name, number) in [("validate", 1), ("policy", 1), ("admit", 1), ("sandbox", 1), ("exec", 1), ("record", 2)] {
        assert_eq!(named(name).len(), number, "{name}: {spans:#?}");
        assert!(named(name).iter().all(|span| span["traceId"] == TRACE && span["parentSpanId"] == own.as_str()), "{spans:#?}");
    }
    let attributes = intent["attributes"].as_array().unwrap();
    for (key, value) in [("agentd.capability", "shell.exec.v1"), ("agentd.reason", "exited"), ("agentd.status", "finished")] {
        assert!(attributes.contains(&json!({ "key": key, "value": { "stringValue": value } })), "{attributes:#?}");
    }
}

#[test]
fn trace_begins_here_without_a_valid_caller_and_the_option_has_precedence() {
    let place = Place::new();
    let run = |options: &[&str], parent: &str| place.shell("true", options).env("TRACEPARENT", parent).output().unwrap();
    let started = object(&run(&[], &CALLER.to_uppercase()));
    assert!(parts(&started).0 != TRACE && started["tracestate"].is_null(), "{started:#}");
    let other = CALLER.replace("4bf9", "5bf9");
    assert_eq!(parts(&object(&run(&["--traceparent", CALLER], &other))).0, TRACE);
    let output = run(&["--traceparent", "00-x"], CALLER);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a W3C trace context — use"), "{output:?}");
}

#[test]
fn unsampled_trace_is_continued_and_not_exported() {
    let place = Place::new();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", refusing.local_addr().unwrap());
    let mut command = place.shell("true", &["--traceparent", &CALLER.replace("-01", "-00")]);
    let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).output().unwrap();
    assert!(object(&output)["traceparent"].as_str().unwrap().ends_with("-00"), "{output:?}");
    refusing.set_nonblocking(true).unwrap();
    assert!(refusing.accept().is_err(), "no connection was made");
}

#[test]
fn failing_collector_changes_neither_outcome_nor_exit_code() {
    let place = Place::new();
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    // Connections are established, and nobody ever answers: the call ends nevertheless.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = Collector::answering("503 Service Unavailable");
    let endpoints = [closed, format!("http://{}", silent.local_addr().unwrap()), refusing.endpoint, "no URL".to_owned()];
    for endpoint in endpoints {
        let mut command = place.shell("echo out; exit 3", &["--receipt", "../receipt"]);
        let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).output().unwrap();
        let object = object(&output);
        let found = (output.status.code(), &object["status"], &object["result"]["stdout"]["text"]);
        assert_eq!(found, (Some(3), &json!("finished"), &json!("out\n")), "{endpoint}: {output:?}");
        assert!(place.path("receipt").exists());
        std::fs::remove_file(place.path("receipt")).unwrap();
    }
}

/// Runs a call with `--metrics`. Returns its output and the lines of the metrics.
fn measured(place: &Place, script: &str, options: &[&str]) -> (Output, Vec<String>) {
    let output = place.shell(script, &[&["--metrics", "../metrics"], options].concat()).output().unwrap();
    let text = std::fs::read_to_string(place.path("metrics")).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, text.lines().map(str::to_owned).collect())
}

/// Returns the value of a metric.
fn value(lines: &[String], metric: &str) -> u64 {
    let value = lines.iter().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {metric} in {lines:#?}")).parse().unwrap()
}

fn stage(lines: &[String], stage: &str, backend: &str) -> u64 {
    value(lines, &format!("agentd_stage_duration_seconds_count{{stage=\"{stage}\",backend=\"{backend}\"}}"))
}

#[test]
fn stages_and_outcome_of_a_call_move_their_metrics() {
    let place = Place::new();
    let (output, lines) = measured(&place, "true", &["--key", "k"]);
    let object = object(&output);
    let backend = object["sandbox"]["backend"].as_str().unwrap();
    for name in ["validate", "policy", "admit"] {
        assert_eq!(stage(&lines, name, ""), 1, "{lines:#?}");
    }
    assert_eq!((stage(&lines, "record", ""), stage(&lines, "sandbox", backend), stage(&lines, "exec", backend)), (2, 1, 1));
    assert_eq!(value(&lines, "agentd_intents_total{reason=\"exited\"}"), 1);
    assert_eq!(value(&lines, "agentd_limits_hit_total{limit=\"wall\"}"), 0);
    let (_, lines) = measured(&place, "true", &["--key", "k"]);
    assert_eq!(value(&lines, "agentd_intents_total{reason=\"duplicate\"}"), 1);
    let (_, lines) = measured(&place, "true", &["--backend", "host-direct"]);
    assert_eq!(value(&lines, "agentd_intents_total{reason=\"exceeds-policy\"}"), 1);
}

#[test]
fn limit_that_ends_a_call_moves_its_metric() {
    let place = Place::new();
    let (_, lines) = measured(&place, "while :; do :; done", &["--timeout", "200ms"]);
    assert_eq!(value(&lines, "agentd_limits_hit_total{limit=\"wall\"}"), 1);
    assert_eq!(value(&lines, "agentd_intents_total{reason=\"wall-deadline\"}"), 1);
    let (_, lines) = measured(&place, "yes", &["--max-output", "1K"]);
    assert_eq!(value(&lines, "agentd_limits_hit_total{limit=\"output\"}"), 1);
}

#[test]
fn verdicts_of_the_gateway_move_their_metric() {
    let place = Place::with_policies(r#"@id("all") @egress("any") permit (principal, action, resource);"#);
    let (output, lines) = measured(&place, "getent hosts refused.invalid", &["--net", "allow=granted.invalid"]);
    assert!(value(&lines, "agentd_egress_verdicts_total{verdict=\"refused\"}") > 0, "{output:?}");
}

#[test]
fn wait_for_an_approval_is_measured_as_time_in_the_queue() {
    let place = Place::with_policies(r#"@id("ask") @approval("ask") permit (principal, action, resource);"#);
    let mut command = place.shell("true", &["--metrics", "../metrics"]);
    let call = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = loop {
        let pending: Value = serde_json::from_slice(&place.run(&["approvals", "--json"]).stdout).unwrap();
        if let Some(id) = pending[0]["id"].as_str() {
            break id.to_owned();
        }
    };
    assert!(place.run(&["deny", &id]).status.success());
    assert_eq!(call.wait_with_output().unwrap().status.code(), Some(77));
    let text = std::fs::read_to_string(place.path("metrics")).unwrap();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!((stage(&lines, "queue", ""), value(&lines, "agentd_intents_queued")), (1, 0));
    assert_eq!(value(&lines, "agentd_intents_total{reason=\"not-approved\"}"), 1);
}

#[test]
fn metrics_are_written_for_a_failed_call_and_never_through_a_link() {
    let place = Place::new();
    std::fs::write(place.path("target"), "keep").unwrap();
    symlink(place.path("target"), place.path("metrics")).unwrap();
    let output = place.shell("touch executed", &["--metrics", "../metrics"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(!place.path("work/executed").exists());
    std::fs::remove_file(place.path("metrics")).unwrap();
    // The command puts a link in the place of the file.
    let script = "ln -s /etc/hostname metrics; exit 3";
    let output = place.shell(script, &["--metrics", "metrics"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(place.path("work/metrics").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_to_string(place.path("target")).unwrap(), "keep");
    let output = place.run(&["call", "no.such.v1", "--metrics", "../metrics"]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(std::fs::read_to_string(place.path("metrics")).unwrap().contains("reason=\"unknown-capability\"} 1"));
}

#[test]
fn log_is_json_if_option_or_variable_requests_it() {
    let place = Place::new();
    let parameters = json!({ "command": "true" }).to_string();
    let call = ["call", "shell.exec.v1", "--json", "--params", &parameters];
    let with_variable = |args: &[&str], format: &str| {
        place.command(args).env("AGENTD_LOG", "debug").env("AGENTD_LOG_FORMAT", format).output().unwrap()
    };
    for output in [with_variable(&[&["--log-format", "json"], &call[..]].concat(), "text"), with_variable(&call, "json")] {
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !text.is_empty(), "{text}");
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(["timestamp", "level", "target"].iter().all(|key| record[key].is_string()), "{line}");
        }
    }
    let text = with_variable(&call, "").stderr;
    assert!(serde_json::from_slice::<Value>(text.split(|byte| *byte == b'\n').next().unwrap()).is_err());
    let refused = with_variable(&call, "xml");
    assert_eq!(refused.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("AGENTD_LOG_FORMAT: xml: not a form of a log — set it"),
        "{refused:?}"
    );
}
