//! Tests of quotas.

use super::*;
use agentd_policy::PrincipalKind;
use agentd_state::Rate;
use proptest::prelude::*;
use std::num::NonZeroU32;

fn principal(kind: PrincipalKind, name: &str, groups: &[&str]) -> PolicyPrincipal {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    PolicyPrincipal { kind, name: name.to_owned(), groups, acts_for: None }
}

fn of(text: &str, name: &str, groups: &[&str]) -> PrincipalQuota {
    QuotaSet::parse(text).unwrap().of(&principal(PrincipalKind::Agent, name, groups)).unwrap()
}

const TEAM: &str = r#"
[total]
concurrency = 32

[default]
rate = "20/s"
burst = 40
wait = "30s"

[principal."agent:ci"]
rate = "100/m"
concurrency = 4
cpu-per-day = "2h"
cpu-per-intent = "10m"
waiting = 16
priority = "high"

[group."builders"]
concurrency = 8
cpu-per-day = "1h"
cpu-per-intent = "5m"
priority = "low"
"#;

fn rate(intents: u32, millis: u64) -> Option<Rate> {
    Some(Rate { intents: NonZeroU32::new(intents).unwrap(), interval: Duration::from_millis(millis) })
}

#[test]
fn limits_are_those_of_the_principal_then_the_default_then_the_usual_ones() {
    let ci = of(TEAM, "ci", &[]);
    assert_eq!((ci.quota.rate, ci.quota.concurrency), (rate(100, 60_000), Some(4)));
    assert_eq!(ci.queueing, Queueing { priority: Priority::High, most: 16, wait: Duration::from_secs(30) });
    assert_eq!(ci.cpu_per_intent, Some(Duration::from_secs(600)));
    let other = of(TEAM, "docs", &[]);
    assert_eq!((other.quota.rate, other.quota.concurrency), (rate(40, 2000), Some(CONCURRENCY)));
    assert_eq!((other.cpu_per_intent, other.queueing.most), (None, WAITING));
    assert_eq!(other.shared.len(), 1, "the total");
}

#[test]
fn group_is_an_account_of_all_members_and_the_shortest_time_of_an_intent_holds() {
    let ci = of(TEAM, "ci", &["builders", "unknown", "builders"]);
    let names: Vec<_> = ci.shared.iter().map(|shared| shared.account.to_string()).collect();
    assert_eq!(names, ["group:builders", "total"]);
    assert_eq!(ci.shared[0].quota.concurrency, Some(8));
    assert_eq!((ci.cpu_per_intent, ci.queueing.priority), (Some(Duration::from_secs(300)), Priority::High));
    assert_eq!(of(TEAM, "docs", &["builders"]).queueing.priority, Priority::Low);
    assert_eq!(of(TEAM, "docs", &["builders"]).cpu_per_intent, Some(Duration::from_secs(300)));
}

#[test]
fn usual_values_set_no_rate_and_no_processor_time() {
    let quota = QuotaSet::default().of(&principal(PrincipalKind::User, "uid:1000", &["gid:1000"])).unwrap();
    assert_eq!(quota.quota, Quota { concurrency: Some(CONCURRENCY), ..Quota::default() });
    assert_eq!((quota.shared, quota.cpu_per_intent), (Vec::new(), None));
    assert_eq!(QuotaSet::default().digest(), None);
}

#[test]
fn every_problem_of_a_file_is_found() {
    for (text, cause) in [
        ("[default]\nburst = 3", "state rate"),
        ("[default]\ncpu-per-day = \"1h\"", "state both keys"),
        ("[default]\ncpu-per-intent = \"1h\"", "state both keys"),
        ("[group.a]\ncpu-per-day = \"1h\"\ncpu-per-intent = \"2h\"", "no intent could begin"),
        ("[group.a]\nwaiting = 1", "[group.\"a\"]: waiting and wait"),
        ("[total]\nwait = \"1s\"", "[total]: waiting and wait"),
        ("[total]\npriority = \"low\"", "[total]: priority"),
        ("[principal.ci]\nconcurrency = 1", "[principal.\"ci\"]: not a principal"),
        ("[principal.\"group:ci\"]\nconcurrency = 1", "not a principal"),
        ("[group.\"\"]\nconcurrency = 1", "the name is empty"),
        ("[default]\nrate = \"fast\"", "'fast' is not a rate"),
        ("[default]\nrate = \"0/s\"", "is not a rate"),
        ("[default]\nrate = \"+1/s\"", "is not a rate"),
        ("[default]\nrate = \"1/d\"", "is not a rate"),
        ("[default]\nconcurrency = 0", "invalid value"),
        ("[default]\nwait = \"soon\"", "is not a duration"),
        ("[default]\npriority = \"urgent\"", "unknown variant"),
        ("[default]\ncpu = \"1h\"", "unknown field `cpu`"),
        ("[defaults]", "unknown field `defaults`"),
        ("[default", "TOML"),
    ] {
        let refused = QuotaSet::parse(text).unwrap_err().to_string();
        assert!(refused.contains(cause), "{text}: {refused}");
    }
    let Err(QuotaError::Refused(all)) = QuotaSet::parse("[default]\nburst = 1\n[total]\nburst = 1\nwaiting = 1") else {
        panic!("three problems")
    };
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn account_names_are_those_of_the_file() {
    let set = QuotaSet::parse(TEAM).unwrap();
    assert_eq!(set.accounts().collect::<Vec<_>>(), ["agent:ci", "group:builders", "total"]);
    let limits = |name: &str| set.of_account(&name.try_into().unwrap());
    assert_eq!(limits("agent:ci").0.concurrency, Some(4));
    assert_eq!((limits("group:builders").0.concurrency, limits("group:builders").2), (Some(8), true));
    assert_eq!((limits("total").0.concurrency, limits("total").2), (Some(32), true));
    assert_eq!((limits("user:uid:1").0.concurrency, limits("user:uid:1").2), (Some(CONCURRENCY), false));
}

#[test]
fn broken_or_foreign_file_keeps_the_quotas_in_use() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("quotas.toml");
    let live = LiveQuotas::open(&file).unwrap();
    assert_eq!(*live.current(), QuotaSet::default());
    fs::write(&file, TEAM).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let set = live.reload().unwrap();
    let kept = |cause: &str| {
        let refused = live.reload().unwrap_err().to_string();
        assert!(refused.contains(cause) && *live.current() == *set, "{refused}");
    };
    fs::write(&file, "[default]\nrate = 1").unwrap();
    kept("quotas are refused");
    fs::write(&file, TEAM).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
    kept("chmod go-w");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("other", &file).unwrap();
    kept("symbolic link");
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        QuotaSet::parse(&text).ok();
    }

    /// Whatever a rate says: its bucket admits at least one intent, and refills at that rate.
    #[test]
    fn bucket_has_the_rate_that_the_file_states(intents in 1u32..1000, burst in 1u32..1000) {
        let quota = of(&format!("[default]\nrate = \"{intents}/m\"\nburst = {burst}"), "a", &[]).quota;
        let Rate { intents: size, interval } = quota.rate.unwrap();
        prop_assert_eq!(size.get(), burst);
        let per_minute = f64::from(burst) / interval.as_secs_f64() * 60.0;
        prop_assert!((per_minute - f64::from(intents)).abs() < 0.01 * f64::from(intents));
    }
}

#[test]
fn wait_above_half_an_hour_is_refused_in_every_table_that_has_one() {
    for table in ["default", "principal.\"agent:ci\""] {
        for (wait, is_accepted) in [("30m", true), ("1800s", true), ("1801s", false), ("1h", false)] {
            let parsed = QuotaSet::parse(&format!("[{table}]\nwait = \"{wait}\""));
            assert_eq!(parsed.is_ok(), is_accepted, "{table} {wait}");
            if let Err(error) = parsed {
                assert!(error.to_string().contains(&format!("[{table}]: wait: longer than 30 minutes")), "{error}");
            }
        }
    }
}
