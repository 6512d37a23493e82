//! Tests of reloading, of requests in excess of their permission, and of explanations.

use crate::{
    IfMissing, LivePolicies, Obligations, PolicyError, RequestedConfinement, ShadowDifference, explain,
    set_tests::{ALL, request, set, vocabulary},
};
use agentd_core::{Network, Profile};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

fn obligations(text: &str) -> Obligations {
    let decision = set(&format!(r#"@id("x") {text} permit (principal, action, resource);"#)).decide(&request(&json!({})));
    decision.obligations().unwrap().clone()
}

#[test]
fn e8_caller_cannot_choose_a_weaker_confinement() {
    let usual = obligations("");
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let mut requests: Vec<(&str, RequestedConfinement)> = Vec::new();
    let mut ask = |annotation, change: &dyn Fn(&mut RequestedConfinement)| {
        let mut requested = RequestedConfinement::default();
        change(&mut requested);
        requests.push((annotation, requested));
    };
    ask("profile", &|asked| asked.profile = Some(Profile::Permissive));
    ask("egress", &|asked| asked.network = Some(Network::Host));
    ask("egress", &|asked| asked.network = Some(Network::Egress(vec!["a.example".to_owned()])));
    ask("backend", &|asked| asked.backend = Some("host-direct".to_owned()));
    ask("backend", &|asked| asked.backend = Some("none".to_owned()));
    ask("cpu_weight", &|asked| asked.limits.cpu_weight = Some(101));
    for (annotation, requested) in &requests {
        let excess = usual.apply(requested).unwrap_err();
        assert_eq!(excess.0.iter().map(|item| item.annotation).collect::<Vec<_>>(), [*annotation], "{excess}");
    }
    let bounded = obligations(r#"@timeout("30s") @egress("*.example")"#);
    let mut asked = RequestedConfinement::default();
    asked.limits.wall = seconds(29);
    asked.limits.grace = seconds(2);
    asked.network = Some(Network::Egress(vec!["a.example".to_owned(), "*.test".to_owned(), "*".to_owned()]));
    let text = bounded.apply(&asked).unwrap_err().to_string();
    assert!(text.contains("timeout 29s with a grace period of 2s, permitted: 30s"), "{text}");
    assert!(text.contains("egress *.test, permitted: *.example:443; egress *, permitted"), "{text}");
    asked.limits.grace = seconds(1);
    asked.network = Some(Network::Egress(vec!["a.example".to_owned()]));
    assert_eq!(bounded.apply(&asked).unwrap().limits.wall, seconds(29));
    asked.limits.wall = None;
    assert_eq!(bounded.apply(&asked).unwrap().limits.wall, seconds(29), "the grace period is part of the bound");
}

/// Writes a policy into a folder that only this user may change.
fn write(folder: &std::path::Path, text: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("p.cedar"), text).unwrap();
    for path in [folder.parent().unwrap().to_owned(), folder.to_owned(), folder.join("p.cedar")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn e12_reload_keeps_the_set_in_use_after_each_error() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("policy");
    let (enforced, shadow) = (folder.join("enforced"), folder.join("shadow"));
    write(&enforced, ALL);
    let live = LivePolicies::open(&folder, vocabulary(), IfMissing::Fail).unwrap();
    let request = request(&json!({}));
    let old = live.current().enforced.digest().to_owned();
    let still_old =
        |live: &LivePolicies| live.current().enforced.digest() == old && live.current().decide(&request).0.policies == ["all"];
    write(&enforced, "permit (principal, action, resource);");
    assert!(live.reload().is_err() && still_old(&live), "a policy that is not valid");
    write(&enforced, ALL);
    fs::set_permissions(enforced.join("p.cedar"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(live.reload().is_err() && still_old(&live), "a policy that a payload may write");
    fs::remove_dir_all(&enforced).unwrap();
    assert!(live.reload().is_err() && still_old(&live), "a lost set");
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(live.reload(), Err(PolicyError::Lost(_))) && still_old(&live), "a lost folder");
    assert!(LivePolicies::open(&folder, vocabulary(), IfMissing::Fail).is_err(), "a lost folder at a restart");
    write(&enforced, r#"@id("none") forbid (principal, action, resource);"#);
    write(&shadow, ALL);
    let (decision, difference) = live.reload().unwrap().decide(&request);
    assert_eq!(decision.policies, ["none"]);
    let ShadowDifference { enforced, shadow } = difference.unwrap();
    assert!(enforced == decision && shadow.is_permitted(), "the shadow set is compared and not enforced");
}

#[test]
fn policy_for_one_developer_holds_only_without_a_folder() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("policy");
    let live = LivePolicies::open(&folder, vocabulary(), IfMissing::UseDefault).unwrap();
    assert!(live.current().is_default && live.reload().unwrap().is_default);
    fs::create_dir(&folder).unwrap();
    assert!(LivePolicies::open(&folder, vocabulary(), IfMissing::UseDefault).is_err(), "the enforced set is missing");
    write(&folder.join("enforced"), ALL);
    assert!(!live.reload().unwrap().is_default);
}

#[test]
fn explanation_states_what_would_have_to_change() {
    let text = r#"
        @id("ci") @description("CI builds")
        permit (principal == Agent::"ci", action in [Action::"shell"], resource in Path::"/srv/ci")
        when { context.source.transport == "local-socket" && context.time.toTime() > duration("20h") }
        unless { principal in Group::"locked" };
        @id("far") permit (principal is User in Group::"admins", action == Action::"fs.read.v1", resource is Image);"#;
    let explained = |changes: Value| explain(&set(text), &request(&changes), &RequestedConfinement::default());
    let night = explained(json!({}));
    assert_eq!(night.nearest.iter().map(|near| near.policy.as_str()).collect::<Vec<_>>(), ["ci", "far"]);
    assert_eq!(night.nearest[0].unmet.len(), 1, "{night}");
    assert!(night.nearest[0].unmet[0].contains("20h"), "{night}");
    let other = explained(json!({ "principal": { "kind": "user", "name": "bob" }, "resources": [] }));
    assert_eq!(other.nearest[0].unmet, [r#"the principal is Agent::"ci""#, r#"the resource is in Path::"/srv/ci""#]);
    assert_eq!(other.nearest[1].unmet.len(), 3);
    let good = explained(json!({ "time": "2026-01-31T21:00:00.000000Z" }));
    assert!(
        good.is_permitted() && good.to_string().contains("policy ci applies to path /srv/ci/project (to change): CI builds"),
        "{good}"
    );
}

#[test]
fn shadow_policies_without_enforced_ones_are_refused_with_a_remedy() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("policy");
    write(&folder.join("shadow"), r#"@id("x") permit (principal, action, resource);"#);
    let error = LivePolicies::open(&folder, vocabulary(), IfMissing::UseDefault).unwrap_err();
    assert!(matches!(&error, PolicyError::NotEnforced(missing) if *missing == folder.join("enforced")), "{error}");
    assert!(error.to_string().contains("`agentd policy default`"), "{error}");
}
