//! The first process of the next sandbox, which the launcher starts before the sandbox is planned.

use super::{
    launcher,
    support::{self, backend, bare, inventory::limits, sh},
};
use agentd::isolation::{Limits, Network, NetworkMode, Profile, SandboxSpec};
use agentd_isolation::shared_kernel::prepare;
use std::fs;

/// Counts the children of the launcher: a sandbox that the prepared process suits adds none.
pub async fn prepared() {
    bare("linux-native").await.destroy().await.unwrap();
    let launcher = launcher();
    let children = || -> Vec<i32> {
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    assert!(children().is_empty());
    prepare(NetworkMode::Off, Profile::Default, &Limits::default());
    while children().is_empty() {
        std::thread::yield_now();
    }
    let prepared = children();
    // Only one process is prepared.
    prepare(NetworkMode::Off, Profile::Default, &Limits::default());
    let with_network = SandboxSpec { network: Network::Host, ..SandboxSpec::default() };
    let limited = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
    // The sandbox of an ordinary user has no limits here.
    let others = if limited.limits == Limits::default() { vec![with_network] } else { vec![with_network, limited] };
    for other in others {
        let other = backend("linux-native").create_sandbox(other).await.unwrap();
        assert_eq!((children()[0], children().len()), (prepared[0], 2));
        other.destroy().await.unwrap();
    }
    // Without a namespace, what a sandbox leaves behind is killed among the launcher's children.
    let open = bare("host-direct").await;
    sh(&open, "setsid sleep 1000 & exit 0").await;
    open.destroy().await.unwrap();
    assert_eq!(children(), prepared);
    for name in ["container", "linux-native"] {
        if name == "linux-native" {
            prepare(NetworkMode::Off, Profile::Strict, &Limits::default());
        }
        let sandbox = bare(name).await;
        assert_eq!(children().len(), 1, "{name}");
        assert_eq!(name == "container", children() == prepared);
        assert_eq!(support::out(&sh(&sandbox, "echo $PPID").await).trim(), "1", "{name}");
        sandbox.destroy().await.unwrap();
        assert!(children().is_empty());
    }
}
