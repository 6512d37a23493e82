//! Tests of admission.

use super::*;
use crate::{
    capability::{CapabilityRegistry, WorkspaceAccess},
    engine::vocabulary,
    intent::{Intent, RequestedWorkspace, tests::intent},
};
use agentd_core::{Bytes, Network, Profile};
use agentd_policy::{PolicyFile, PolicySet};
use agentd_state::{Quota, QuotaExceeded, QuotaLimit, QuotaRefusal, Rate};
use proptest::prelude::*;
use serde_json::json;

/// The processor time that the quota of the principal allows for an intent.
const MOST_CPU: Duration = Duration::from_secs(20);

fn isolated() -> BTreeSet<String> {
    ["container", "linux-native"].map(str::to_owned).into()
}

fn policies(registry: &CapabilityRegistry, text: &str) -> PolicySet {
    let vocabulary = vocabulary(registry, [("container", true), ("linux-native", true), ("host-direct", false)]).unwrap();
    let file = PolicyFile { name: "test".to_owned(), text: text.to_owned() };
    PolicySet::parse(&[file], &vocabulary).unwrap()
}

fn decide(policy: &str, earlier: Option<Begun>, change: impl FnOnce(&mut Intent)) -> AdmissionDecision {
    let mut intent = intent("shell.exec.v1", json!({ "command": "make" }));
    change(&mut intent);
    decide_intent(policy, earlier, intent)
}

fn decide_intent(policy: &str, earlier: Option<Begun>, intent: Intent) -> AdmissionDecision {
    let registry = CapabilityRegistry::built_in().unwrap();
    let valid = ValidIntent::new(intent, &registry).ok().unwrap();
    let decision = policies(&registry, policy).decide(&valid.policy_request());
    admit(&valid, earlier, &decision, AdmissionBounds { isolated: &isolated(), cpu_time: Some(MOST_CPU) })
}

const TEAM: &str = r#"@id("team") @profile("strict") @timeout("30s") @memory("256M") @egress("pypi.example")
    permit (principal, action == Action::"shell.exec.v1", resource);"#;

fn terms(decision: AdmissionDecision) -> Terms {
    match decision {
        AdmissionDecision::Execute(terms) => *terms,
        other => panic!("{other:?}"),
    }
}

fn word(decision: AdmissionDecision) -> &'static str {
    match decision {
        AdmissionDecision::Refuse(refusal) => refusal.word(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn obligations_of_policies_hold_for_a_caller_who_requests_nothing() {
    let terms = terms(decide(TEAM, None, |_| {}));
    assert_eq!(terms.effective.profile, Profile::Strict);
    assert_eq!(terms.effective.limits.wall, Some(Duration::from_secs(30)));
    assert_eq!(terms.effective.limits.memory, Some(Bytes(256 << 20)));
    assert_eq!(terms.effective.network, Network::Egress(vec!["pypi.example:443".to_owned()]));
    assert_eq!(terms.policies, ["team"]);
    assert_eq!(terms.effective.limits.cpu_time, Some(MOST_CPU), "what the quota reserves is a limit");
}

#[test]
fn caller_may_request_less_and_never_more() {
    let less: fn(&mut Intent) = |intent| {
        intent.confinement.limits.wall = Some(Duration::from_secs(5));
        intent.confinement.network = Some(Network::Off);
    };
    let terms = terms(decide(TEAM, None, less));
    assert_eq!((terms.effective.limits.wall, terms.effective.network), (Some(Duration::from_secs(5)), Network::Off));
    let more: [fn(&mut Intent); 8] = [
        |intent| intent.confinement.limits.cpu_time = Some(MOST_CPU + Duration::from_secs(1)),
        |intent| intent.confinement.profile = Some(Profile::Default),
        |intent| intent.confinement.limits.wall = Some(Duration::from_secs(31)),
        |intent| drop(intent.parameters.insert("timeout_ms".to_owned(), 30_001.into())),
        |intent| intent.confinement.limits.memory = Some(Bytes(1 << 30)),
        |intent| intent.confinement.network = Some(Network::Host),
        |intent| intent.confinement.network = Some(Network::Egress(vec!["other.example".to_owned()])),
        |intent| intent.confinement.backend = Some("host-direct".to_owned()),
    ];
    for request in more {
        assert_eq!(word(decide(TEAM, None, request)), "exceeds-policy");
    }
}

#[test]
fn policy_that_names_no_boundary_and_the_hosts_network_gives_neither_to_a_capability() {
    let open = r#"@id("open") @backend("host-direct") @egress("host-network") permit (principal, action, resource);"#;
    assert_eq!(word(decide(open, None, |_| {})), "exceeds-policy");
    let open = r#"@id("open") @profile("permissive") @egress("host-network") permit (principal, action, resource);"#;
    let host: fn(&mut Intent) = |intent| intent.confinement.network = Some(Network::Host);
    assert_eq!(word(decide(open, None, host)), "exceeds-policy");
    assert_eq!(terms(decide(open, None, |_| {})).effective.profile, Profile::Default);
}

#[test]
fn sandbox_that_differs_from_the_terms_is_found() {
    let terms = terms(decide(TEAM, None, |_| {}));
    let Effective { profile, limits, network, .. } = terms.effective.clone();
    let limits = Limits { grace: Some(Duration::ZERO), ..limits };
    let spec = SandboxSpec { profile, limits, network, ..SandboxSpec::default() };
    let unmet = |spec: &SandboxSpec, backend| terms.unmet(spec, &Command::default(), backend);
    assert_eq!(unmet(&spec, "container"), None);
    assert!(unmet(&spec, "host-direct").is_some());
    let changes: [fn(&mut SandboxSpec); 6] = [
        |spec| spec.profile = Profile::Default,
        |spec| spec.limits.wall = None,
        |spec| spec.limits.grace = Some(Duration::from_secs(1)),
        |spec| spec.network = Network::Host,
        |spec| spec.allow_degraded = true,
        |spec| spec.secrets.push(agentd_core::NetworkSecret::new("A@a.example", "b".to_owned())),
    ];
    for change in changes {
        let mut other = spec.clone();
        change(&mut other);
        assert!(unmet(&other, "container").is_some());
    }
    let secret = agentd_core::NetworkSecret::new("A@a.example", "b".to_owned());
    let secrets = vec!["A@a.example".to_owned()];
    let (with, granted) = (SandboxSpec { secrets: vec![secret], ..spec.clone() }, Terms { secrets, ..terms.clone() });
    assert_eq!(granted.unmet(&with, &Command::default(), "container"), None);
    assert!(granted.unmet(&spec, &Command::default(), "container").is_some(), "the secret is missing");
    let command = Command { limits: Limits { memory: Some(Bytes(1)), ..Limits::default() }, ..Command::default() };
    assert!(terms.unmet(&spec, &command, "container").is_some());
}

#[test]
fn request_that_no_policy_permits_is_denied() {
    let other = r#"@id("read") permit (principal, action == Action::"fs.read.v1", resource);"#;
    assert_eq!(word(decide(other, None, |_| {})), "denied");
}

#[test]
fn earlier_request_decides_before_the_policies() {
    let id: IntentId = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let denied = r#"@id("none") forbid (principal, action, resource);"#;
    let decided = |earlier| decide(denied, Some(earlier), |_| {});
    assert_eq!(word(decided(Begun::Conflict(id))), "key-conflict");
    assert!(matches!(decided(Begun::InFlight(id)), AdmissionDecision::Wait(found) if found == id));
    for earlier in [Begun::Finished { id, outcome: vec![1] }, Begun::Interrupted { id, outcome: vec![1] }] {
        assert!(matches!(decided(earlier), AdmissionDecision::Replay { outcome, .. } if outcome == [1]));
    }
}

#[test]
fn refusal_by_a_quota_names_account_and_limit() {
    let quota = Quota {
        rate: Some(Rate { intents: 20.try_into().unwrap(), interval: Duration::from_secs(60) }),
        concurrency: Some(4),
        cpu_per_day: Some(Duration::from_secs(7200)),
    };
    for (limit, text) in [
        (QuotaLimit::Rate, "the rate of 20 in 1m is exceeded"),
        (QuotaLimit::Concurrency, "as many requests are executed at the same time as the limit permits, 4"),
        (QuotaLimit::CpuPerDay, "the processor time of a day, 2h, is used up or reserved"),
        (QuotaLimit::Waiting, "as many requests wait as the limit permits, 16"),
        (QuotaLimit::Turn, "other requests that wait begin first"),
    ] {
        let exceeded = QuotaExceeded { limit, retry_after: Duration::from_millis(1500) };
        let account = "group:builders".try_into().unwrap();
        let earlier = Begun::Refused(QuotaRefusal { account, quota, waiting: 16, exceeded });
        let AdmissionDecision::Refuse(refusal) = decide(TEAM, Some(earlier), |_| {}) else { panic!("refused") };
        assert_eq!(refusal.to_json()["retry_after_ms"], 1500);
        let expected = format!("quota: group:builders: {text} — try again in 2 s; `agentd quota show` prints limits and use");
        assert_eq!(refusal.to_string(), expected);
    }
}

fn refused(decision: AdmissionDecision) -> String {
    match decision {
        AdmissionDecision::Refuse(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn excess_is_blamed_on_the_policies_only_if_they_refuse_it() {
    let open = r#"@id("open") @profile("permissive") @timeout("1h") @egress("any") permit (principal, action, resource);"#;
    let asks = |change: fn(&mut RequestedConfinement)| refused(decide(open, None, |intent| change(&mut intent.confinement)));
    let text = asks(|asked| asked.limits.wall = Some(Duration::from_secs(7200)));
    assert!(text.starts_with("request exceeds the policies: timeout 2h, permitted: 1h"), "{text}");
    let text = asks(|asked| asked.limits.cpu_time = Some(Duration::from_secs(60)));
    assert!(text.starts_with("request exceeds the quota: cpu_time 1m, permitted: 20s"), "{text}");
    assert!(text.contains("`agentd quota show`") && !text.contains("policies"), "{text}");
    for (name, change) in [
        ("nosuch", (|asked| asked.backend = Some("nosuch".to_owned())) as fn(&mut RequestedConfinement)),
        ("host-direct", |asked| asked.backend = Some("host-direct".to_owned())),
    ] {
        let text = asks(change);
        let expected = format!("backend {name:?}: it does not exist or has no boundary — use one of container, linux-native");
        assert_eq!(text, expected);
    }
    // An operation on files has no network.
    let workspace = RequestedWorkspace { path: "/srv/ci".to_owned(), access: WorkspaceAccess::ReadWrite };
    let mut reads = Intent { workspace: Some(workspace), ..intent("fs.stat.v1", json!({ "path": "a" })) };
    reads.confinement.network = Some(Network::Egress(vec!["a.example".to_owned()]));
    let text = refused(decide_intent(open, None, reads));
    assert!(text.starts_with("request exceeds the capability: egress a.example, permitted: nothing"), "{text}");
    assert!(text.contains("`agentd capability show fs.stat.v1`") && !text.contains("policies"), "{text}");
}

proptest! {
    // Each case parses the policies.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a caller requests: an intent that is executed stays within capability and policies.
    #[test]
    fn executed_intent_is_within_policies_whatever_is_requested(
        profile in prop::option::of(prop::sample::select(vec![Profile::Strict, Profile::Default, Profile::Permissive])),
        wall in prop::option::of(1u64..100_000),
        timeout in prop::option::of(1u64..100_000),
        memory in prop::option::of(1u64..(1 << 40)),
        processes in prop::option::of(1u32..100_000),
        network in prop::sample::select(vec![None, Some("off"), Some("host"), Some("pypi.example"), Some("*.example"), Some("a.test")]),
        backend in prop::sample::select(vec![None, Some("container"), Some("host-direct"), Some("unknown")]),
    ) {
        let decision = decide(TEAM, None, |intent| {
            intent.parameters.extend(timeout.map(|timeout| ("timeout_ms".to_owned(), timeout.into())));
            intent.confinement.profile = profile;
            intent.confinement.limits.wall = wall.map(Duration::from_millis);
            intent.confinement.limits.memory = memory.map(Bytes);
            intent.confinement.limits.processes = processes;
            intent.confinement.backend = backend.map(str::to_owned);
            intent.confinement.network = network.map(|network| match network {
                "off" => Network::Off,
                "host" => Network::Host,
                host => Network::Egress(vec![host.to_owned()]),
            });
        });
        if let AdmissionDecision::Execute(terms) = decision {
            let effective = terms.effective;
            prop_assert_eq!(effective.profile, Profile::Strict);
            prop_assert!(effective.limits.wall.is_some_and(|wall| wall <= Duration::from_secs(30)));
            prop_assert!(effective.limits.memory.is_some_and(|memory| memory <= Bytes(256 << 20)));
            prop_assert!(wall.is_none_or(|wall| effective.limits.wall <= Some(Duration::from_millis(wall))));
            prop_assert!(timeout.is_none_or(|timeout| effective.limits.wall <= Some(Duration::from_millis(timeout))));
            prop_assert!(effective.backends.is_subset(&isolated()) && !effective.backends.is_empty());
            match effective.network {
                Network::Off => {}
                Network::Egress(hosts) => prop_assert!(hosts.iter().all(|host| host.starts_with("pypi.example"))),
                Network::Host => prop_assert!(false, "the host's network"),
            }
        }
    }
}

#[test]
fn session_may_have_at_most_what_a_later_decision_permits() {
    let mut permitted = terms(decide(TEAM, None, |_| {}));
    permitted.effective.limits = Limits { memory: Some(Bytes(256 << 20)), ..Limits::default() };
    let within = SandboxSpec {
        profile: Profile::Strict,
        limits: Limits { memory: Some(Bytes(256 << 20)), ..Limits::default() },
        network: Network::Egress(vec!["pypi.example:443".to_owned()]),
        ..SandboxSpec::default()
    };
    let exceeds = |change: fn(&mut SandboxSpec), backend: &str| {
        let mut spec = within.clone();
        change(&mut spec);
        permitted.exceeded_by(&spec, backend).is_some()
    };
    assert!(!exceeds(|_| {}, "container"));
    assert!(!exceeds(|spec| spec.network = Network::Off, "container"));
    assert!(!exceeds(|spec| spec.limits.memory = Some(Bytes(1 << 20)), "container"));
    assert!(!exceeds(|spec| spec.limits.processes = Some(5), "container"), "the policies do not limit it");
    assert!(exceeds(|_| {}, "host-direct"));
    let more: [fn(&mut SandboxSpec); 8] = [
        |spec| spec.profile = Profile::Default,
        |spec| spec.limits.memory = None,
        |spec| spec.limits.memory = Some(Bytes(1 << 30)),
        |spec| spec.network = Network::Host,
        |spec| spec.network = Network::Egress(vec!["pypi.example:443".to_owned(), "other.example".to_owned()]),
        |spec| spec.network = Network::Egress(vec!["*.example".to_owned()]),
        |spec| spec.network = Network::Egress(vec!["no grant".to_owned()]),
        |spec| spec.allow_degraded = true,
    ];
    for change in more {
        assert!(exceeds(change, "container"));
    }
}

#[test]
fn limit_of_a_session_is_compared_in_every_field() {
    let limits = Limits {
        cpu_time: Some(Duration::from_secs(1)),
        memory: Some(Bytes(1)),
        processes: Some(1),
        open_files: Some(1),
        file_size: Some(Bytes(1)),
        cpu_quota: Some(agentd_core::CpuQuota(1)),
        cpu_weight: Some(1),
        ..Limits::default()
    };
    let mut permitted = terms(decide(TEAM, None, |_| {}));
    permitted.effective.limits = limits.clone();
    let spec = |limits: Limits| SandboxSpec { profile: Profile::Strict, limits, ..SandboxSpec::default() };
    assert_eq!(permitted.exceeded_by(&spec(limits.clone()), "container"), None);
    let more: [fn(&mut Limits); 7] = [
        |limits| limits.cpu_time = None,
        |limits| limits.memory = None,
        |limits| limits.processes = None,
        |limits| limits.open_files = None,
        |limits| limits.file_size = None,
        |limits| limits.cpu_quota = None,
        |limits| limits.cpu_weight = None,
    ];
    for change in more {
        let mut larger = limits.clone();
        change(&mut larger);
        assert!(permitted.exceeded_by(&spec(larger), "container").is_some());
    }
}
