//! The attack suite: every attack is tried inside each backend with a boundary and must fail, and is tried without a boundary, where it must
//! succeed. One that fails there too would prove nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use agentd_isolation::{Evidence, EvidenceResult, HostDirectBackend};
use libtest_mimic::{Arguments, Failed, Trial};

/// Attacks on what `host-direct` does keep: its commands get no descriptors, environment, terminal, privileges or core dumps of the
/// caller's either.
const KEPT_WITHOUT_A_BOUNDARY: [&str; 5] = [
    "a8_work_in_a_directory_outside",
    "a8_inherit_a_descriptor",
    "a8_inherit_the_environment",
    "a8_reach_the_hosts_terminal",
    "a15_dump_core_or_crash_into_the_host",
];

fn main() {
    agentd_isolation::take_role();
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let root = std::env::temp_dir();
    let (fenced, open) = runtime.block_on(async {
        let mut fenced = Vec::new();
        let left_out = [HostDirectBackend::NAME, support::machine::NAME, support::layers::NAME];
        for name in support::backends().into_iter().filter(|name| !left_out.contains(name)) {
            let backend = support::backend(name);
            let proven = backend.probe().await.unwrap();
            assert_eq!(proven.snapshots, name != "linux-native", "{:?}", proven.platform_features);
            fenced.extend(proven.evidence.into_iter().map(|evidence| (proven.name.clone(), evidence)));
        }
        (fenced, HostDirectBackend::new(&root).attack().await.unwrap())
    });
    let privileged = rustix::process::geteuid().is_root();
    let held = fenced.into_iter().map(|(backend, evidence)| {
        Trial::test(format!("{backend}::{}", evidence.check), move || match evidence.result {
            EvidenceResult::Held => Ok(()),
            // Only an ordinary user without a delegated cgroup may be without these, and is told.
            EvidenceResult::NotTried(why) if !privileged && evidence.check.starts_with("a4_") && !evidence.remedy.is_empty() => {
                assert!(why.contains("cgroup"), "{why}");
                Ok(())
            }
            other => Err(Failed::from(format!("{other:?}"))),
        })
    });
    // What only root can do without a boundary shows nothing to an ordinary user.
    let succeed = open.into_iter().filter(|e| privileged && !KEPT_WITHOUT_A_BOUNDARY.contains(&e.check.as_str())).map(succeeds);
    libtest_mimic::run(&arguments, held.chain(succeed).collect()).exit();
}

fn succeeds(evidence: Evidence) -> Trial {
    Trial::test(format!("no-boundary::{}", evidence.check), move || match evidence.result {
        EvidenceResult::Broken(_) => Ok(()),
        other => Err(Failed::from(format!("the attack proves nothing: {other:?}"))),
    })
}
