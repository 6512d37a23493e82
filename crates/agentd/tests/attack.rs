//! The attack suite. Every attack must fail in each backend with a boundary. Every attack must succeed in `host-direct`, because
//! an attack that fails there too proves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/exchange.rs"]
mod exchange;
#[path = "attack/grants.rs"]
mod grants;
#[path = "attack/guard.rs"]
mod guard;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{Evidence, EvidenceResult, HostDirectBackend, LinuxNativeBackend, NetworkMode};
use agentd_isolation::probe::granted_hosts;
use libtest_mimic::{Arguments, Failed, Trial};

/// Attacks that fail even without a boundary: commands of `host-direct` inherit no descriptor, environment, terminal, working
/// directory or core file size limit of the caller.
const KEPT_WITHOUT_A_BOUNDARY: [&str; 5] = [
    "a8_start_in_a_directory_outside",
    "a8_inherit_a_descriptor",
    "a8_inherit_the_environment",
    "a8_reach_the_hosts_terminal",
    "a15_dump_core_or_crash_into_the_host",
];

fn main() {
    support::machine::take_role();
    agentd::isolation::take_role();
    support::machine::register();
    guard::take_role();
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let root = std::env::temp_dir();
    let (bounded, open, around) = runtime.block_on(async {
        let mut bounded = Vec::new();
        let left_out = [HostDirectBackend::NAME, support::machine::NAME, support::layers::NAME];
        for name in support::backends().into_iter().filter(|name| !left_out.contains(name)) {
            let backend = support::backend(name);
            let proven = backend.probe().await.unwrap();
            assert_eq!(proven.snapshots, name != "linux-native", "{:?}", proven.platform_features);
            bounded.extend(proven.evidence.into_iter().map(|evidence| (proven.name.clone(), evidence)));
        }
        let around = match support::backends().contains(&LinuxNativeBackend::NAME) {
            true => granted_hosts(&LinuxNativeBackend::new(&root).unwrap(), NetworkMode::Host).await,
            false => Vec::new(),
        };
        (bounded, HostDirectBackend::new(&root).attack().await.unwrap(), around)
    });
    let privileged = rustix::process::geteuid().is_root();
    let held = bounded.into_iter().map(|(backend, evidence)| {
        Trial::test(format!("{backend}::{}", evidence.check), move || match evidence.result {
            EvidenceResult::Held => Ok(()),
            // The attacks on limits may be untried only for an ordinary user without a delegated cgroup.
            EvidenceResult::NotTried(why) if !privileged && evidence.check.starts_with("a4_") && !evidence.remedy.is_empty() => {
                assert!(why.contains("cgroup"), "{why}");
                Ok(())
            }
            other => Err(Failed::from(format!("{other:?}"))),
        })
    });
    // Some attacks need root to succeed without a boundary, so the check runs only as root.
    let succeed = open.into_iter().filter(|e| privileged && !KEPT_WITHOUT_A_BOUNDARY.contains(&e.check.as_str()));
    let succeed = succeed.map(|evidence| ("no-boundary", evidence));
    // Only the gateway finds an address for the granted name.
    let around = around.into_iter().filter(|evidence| evidence.check != "a12_find_a_name_without_a_grant");
    let succeed = succeed.chain(around.map(|evidence| ("no-gateway", evidence))).map(succeeds);
    let with_boundary: Vec<_> = support::backends().into_iter().filter(|name| *name != HostDirectBackend::NAME).collect();
    let on_grants = grants::trials(&with_boundary).into_iter().chain(guard::trials(&with_boundary));
    libtest_mimic::run(&arguments, held.chain(succeed).chain(on_grants).collect()).exit();
}

fn succeeds((without, evidence): (&str, Evidence)) -> Trial {
    Trial::test(format!("{without}::{}", evidence.check), move || match evidence.result {
        EvidenceResult::Broken(_) => Ok(()),
        other => Err(Failed::from(format!("the attack proves nothing: {other:?}"))),
    })
}
