//! Tests of the layer: every metric moves, and spans form one trace.

use super::*;
use agentd_log::measure::CountedFact;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// Runs `work` with a layer. Returns the metrics and the ended spans.
fn measured(limit: usize, work: impl FnOnce(&Metrics)) -> (String, Vec<EndedSpan>) {
    let (metrics, spans) = (Arc::<Metrics>::default(), Arc::new(SpanQueue::with_limit(limit)));
    let subscriber = tracing_subscriber::registry().with(measured_layer(metrics.clone(), Some(spans.clone())));
    tracing::subscriber::with_default(subscriber, || work(&metrics));
    (metrics.text(), spans.take())
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other == line)
}

#[test]
fn every_counter_moves_with_its_event() {
    let (text, _) = measured(1, |_| {
        CountedFact::Outcome { reason: "wall-deadline" }.emit();
        CountedFact::Outcome { reason: "exited" }.emit();
        CountedFact::PoolTake { idle: true }.emit();
        CountedFact::PoolTake { idle: false }.emit();
        CountedFact::Swept { kind: "cgroup", number: 3 }.emit();
        CountedFact::Egress { allowed: true, number: 2 }.emit();
        CountedFact::Egress { allowed: false, number: 4 }.emit();
        CountedFact::Egress { allowed: false, number: 0 }.emit();
    });
    for line in [
        "agentd_intents_total{reason=\"wall-deadline\"} 1",
        "agentd_intents_total{reason=\"exited\"} 1",
        "agentd_limits_hit_total{limit=\"wall\"} 1",
        "agentd_limits_hit_total{limit=\"memory\"} 0",
        "agentd_pool_takes_total{result=\"hit\"} 1",
        "agentd_pool_takes_total{result=\"miss\"} 1",
        "agentd_leaks_swept_total{kind=\"cgroup\"} 3",
        "agentd_egress_verdicts_total{verdict=\"allowed\"} 2",
        "agentd_egress_verdicts_total{verdict=\"refused\"} 4",
    ] {
        assert!(has(&text, line), "{line}\n{text}");
    }
}

#[test]
fn every_stage_has_a_histogram_with_its_backend() {
    let (text, _) = measured(100, |_| {
        for stage in Stage::ALL {
            let span = stage.span();
            span.record("backend", "container");
            drop(span);
        }
    });
    for stage in Stage::ALL {
        let line = format!("agentd_stage_duration_seconds_count{{stage=\"{}\",backend=\"container\"}} 1", stage.name());
        assert!(has(&text, &line), "{line}\n{text}");
    }
}

#[test]
fn depth_of_the_queue_is_the_number_of_intents_that_wait() {
    measured(100, |metrics| {
        let depth = |metrics: &Metrics| {
            metrics.text().lines().find_map(|line| line.strip_prefix("agentd_intents_queued ").map(str::to_owned))
        };
        let (one, two) = (Stage::Queue.span(), Stage::Queue.span());
        assert_eq!(depth(metrics).as_deref(), Some("2"));
        drop(one);
        assert_eq!(depth(metrics).as_deref(), Some("1"));
        drop(two);
        assert_eq!(depth(metrics).as_deref(), Some("0"));
    });
}

#[test]
fn stages_are_children_of_the_intent_in_the_trace_of_the_caller() {
    let caller: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let caller = caller.with_state("a=b");
    let own = caller.child();
    let (_, spans) = measured(100, |_| {
        let intent = intent_span(&own, Some(&caller));
        intent.record("reason", "exited");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let stages = async {
            Stage::Validate.span().in_scope(|| ());
            async { tokio::task::yield_now().await }.instrument(Stage::Exec.span()).await;
        };
        runtime.block_on(stages.instrument(intent));
    });
    let [validate, exec, intent] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(["validate", "exec", "intent"], [&validate.name, &exec.name, &intent.name].map(String::as_str));
    assert_eq!((&intent.context, intent.parent, intent.is_request), (&own, Some(caller.span), true));
    assert_eq!(intent.attributes, [("reason", "exited".to_owned())]);
    for stage in [validate, exec] {
        assert_eq!((stage.context.trace, stage.parent, stage.is_request), (caller.trace, Some(own.span), false));
        assert_eq!(stage.context.state(), Some("a=b"));
        assert!(stage.ended >= stage.started);
    }
    assert_ne!(validate.context.span, exec.context.span);
}

#[test]
fn span_of_an_unsampled_trace_is_measured_and_not_exported() {
    let caller: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
    let (text, spans) = measured(100, |_| intent_span(&caller.child(), Some(&caller)).in_scope(|| drop(Stage::Exec.span())));
    assert!(spans.is_empty() && text.contains("_count{stage=\"exec\""), "{text}");
}

#[test]
fn full_queue_drops_spans_and_counts_them() {
    let (text, spans) = measured(2, |_| (0..5).for_each(|_| drop(Stage::Exec.span())));
    assert_eq!(spans.len(), 2);
    assert!(has(&text, "agentd_spans_dropped_total 3"), "{text}");
}

#[test]
fn text_of_a_caller_is_neither_attribute_nor_label() {
    let (text, spans) = measured(100, |_| {
        let span = Stage::Exec.span();
        span.record("backend", "My Secret");
        drop(span);
        CountedFact::Outcome { reason: "My Secret" }.emit();
        // Spans and events of other targets are not measured.
        tracing::error!(counted = "outcome", label = "elsewhere", number = 1u64);
        tracing::error_span!("elsewhere").in_scope(|| ());
    });
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].attributes, [("backend", "other".to_owned())]);
    assert!(!text.contains("Secret") && !text.contains("elsewhere"), "{text}");
}

#[test]
fn directory_that_a_killed_process_left_is_swept_and_counted() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("agentd-test-1")).unwrap();
    let (text, _) = measured(1, |_| drop(agentd_disk::Scratch::make(place.path(), "agentd-test").unwrap()));
    assert!(has(&text, "agentd_leaks_swept_total{kind=\"directory\"} 1"), "{text}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
