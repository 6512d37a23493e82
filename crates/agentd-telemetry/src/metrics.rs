//! The metrics of agentd. Their names are stable; `docs/telemetry.md` lists them.

use crate::label::{KnownWords, label};
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};

/// The end reasons and refusals that mean that a limit was reached, each with the name of the limit.
const LIMITS: [(&str, &str); 7] = [
    ("wall-deadline", "wall"),
    ("cpu-limit", "cpu"),
    ("out-of-memory", "memory"),
    ("process-limit", "processes"),
    ("file-size-limit", "file-size"),
    ("output-limit", "output"),
    ("quota-exceeded", "quota"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: String,
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    verdict: String,
}

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    stages: Family<StageLabels, Histogram, fn() -> Histogram>,
    queued: Gauge,
    outcomes: Family<ReasonLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    pool: Family<ResultLabels, Counter>,
    swept: Family<KindLabels, Counter>,
    egress: Family<VerdictLabels, Counter>,
    spans_dropped: Counter,
    reasons: KnownWords,
    backends: KnownWords,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("agentd"),
            stages: Family::new_with_constructor(durations),
            queued: Gauge::default(),
            outcomes: Family::default(),
            limits: Family::default(),
            pool: Family::default(),
            swept: Family::default(),
            egress: Family::default(),
            spans_dropped: Counter::default(),
            reasons: KnownWords::default(),
            backends: KnownWords::default(),
        };
        metrics.registered()
    }
}

/// Returns a histogram with buckets from 10 µs to three minutes.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(10e-6, 4.0, 13))
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let help = "Time that a stage of an intent took";
        registry.register_with_unit("stage_duration", help, Unit::Seconds, self.stages.clone());
        registry.register(
            "intents_queued",
            "Intents that wait for an approval, for a duplicate or for a turn",
            self.queued.clone(),
        );
        registry.register("intents", "Intents that have ended, by the reason", self.outcomes.clone());
        registry.register("limits_hit", "Intents that a limit ended or refused", self.limits.clone());
        registry.register("pool_takes", "Sandboxes that were taken from a pool: created in advance or not", self.pool.clone());
        registry.register("leaks_swept", "Remains of killed processes that were removed", self.swept.clone());
        registry.register(
            "egress_verdicts",
            "Connections and lookups of sandboxes, by the gateway's verdict",
            self.egress.clone(),
        );
        registry.register(
            "spans_dropped",
            "Spans that were not exported, because the queue was full",
            self.spans_dropped.clone(),
        );
        // A counter that exists from the start shows its first increase.
        for result in ["hit", "miss"] {
            self.pool.get_or_create(&ResultLabels { result: result.to_owned() }).inc_by(0);
        }
        for kind in ["cgroup", "directory"] {
            self.swept.get_or_create(&KindLabels { kind: kind.to_owned() }).inc_by(0);
        }
        for verdict in ["allowed", "refused"] {
            self.egress.get_or_create(&VerdictLabels { verdict: verdict.to_owned() }).inc_by(0);
        }
        for (_, limit) in LIMITS {
            self.limits.get_or_create(&LimitLabels { limit: limit.to_owned() }).inc_by(0);
        }
        self
    }

    /// Returns all metrics in the text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        prometheus_text::encode(&mut text, &self.registry).ok();
        text
    }

    pub(crate) fn stage(&self, stage: &str, backend: &str, took: Duration) {
        let labels = StageLabels { stage: label(stage).to_owned(), backend: self.backends.bounded(backend) };
        self.stages.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn queued(&self, more: bool) {
        self.queued.inc_by(if more { 1 } else { -1 });
    }

    pub(crate) fn span_dropped(&self) {
        self.spans_dropped.inc();
    }

    /// Counts what an event of [`agentd_log::measure::CountedFact`] reports.
    pub(crate) fn count(&self, counted: &str, word: &str, number: u64) {
        let word = label(word).to_owned();
        match counted {
            "outcome" => {
                if let Some((_, limit)) = LIMITS.iter().find(|(reason, _)| *reason == word) {
                    self.limits.get_or_create(&LimitLabels { limit: (*limit).to_owned() }).inc_by(number);
                }
                self.outcomes.get_or_create(&ReasonLabels { reason: self.reasons.bounded(&word) }).inc_by(number);
            }
            "pool" => {
                self.pool.get_or_create(&ResultLabels { result: word }).inc_by(number);
            }
            "swept" => {
                self.swept.get_or_create(&KindLabels { kind: word }).inc_by(number);
            }
            "egress" => {
                self.egress.get_or_create(&VerdictLabels { verdict: word }).inc_by(number);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::MAX_WORDS;

    #[test]
    fn number_of_label_sets_is_bounded() {
        let metrics = Metrics::default();
        for number in 0..1000 {
            metrics.count("outcome", &format!("reason-{number}"), 1);
            metrics.stage("exec", &format!("backend-{number}"), Duration::from_millis(1));
        }
        let text = metrics.text();
        assert!(text.lines().filter(|line| line.starts_with("agentd_intents_total{")).count() == MAX_WORDS + 1, "{text}");
        assert!(text.contains(&format!("agentd_intents_total{{reason=\"other\"}} {}\n", 1000 - MAX_WORDS)), "{text}");
        let counts = text.lines().filter(|line| line.starts_with("agentd_stage_duration_seconds_count{")).count();
        assert_eq!(counts, MAX_WORDS + 1);
    }
}
