//! The first process of the next sandbox, which the launcher starts before the sandbox is planned.

use super::{
    launcher,
    support::{self, backend, bare, inventory::limits, sh},
};
use agentd::isolation::{Access, Grant, GuardRule, Limits, Network, NetworkMode, Profile, SandboxSpec};
use agentd_isolation::shared_kernel::prepare;
use std::{fs, path::Path};

fn children(launcher: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Counts the children of the launcher: a sandbox that the prepared process suits adds none.
pub async fn prepared() {
    bare("linux-native").await.destroy().await.unwrap();
    let launcher = launcher();
    let children = || children(launcher);
    assert!(children().is_empty());
    prepare(NetworkMode::Off, Profile::Default, &Limits::default(), false);
    while children().is_empty() {
        std::thread::yield_now();
    }
    let prepared = children();
    // Only one process is prepared.
    prepare(NetworkMode::Off, Profile::Default, &Limits::default(), false);
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
            prepare(NetworkMode::Off, Profile::Strict, &Limits::default(), false);
        }
        let sandbox = bare(name).await;
        assert_eq!(children().len(), 1, "{name}");
        assert_eq!(name == "container", children() == prepared);
        assert_eq!(support::out(&sh(&sandbox, "echo $PPID").await).trim(), "1", "{name}");
        sandbox.destroy().await.unwrap();
        assert!(children().is_empty());
    }
}

/// Prints what a command sees of its confinement. The host's ids and the groups of mounts differ between any two sandboxes.
const SEEN: &str = r"{ id; umask; pwd; hostname; ls /proc/self/fd
    grep -E '^(Cap|NoNewPrivs|Seccomp|Groups)' /proc/self/status
    cut -d' ' -f4- /proc/self/mountinfo | sort; cat /proc/self/uid_map /proc/self/gid_map; grep . /proc/sys/user/max_inotify_*
    stat -c '%A %U %G %n' / /* /dev/* /tmp /var/tmp /etc/passwd; touch /usr/x /etc/x; } 2>&1 |
    sed 's/18[78][0-9]\{7\}/ID/g; s/shared:[0-9]*//; s/master:[0-9]*//'";

/// A process that was prepared for a view serves only a sandbox with a view. Commands in that sandbox see the same confinement as
/// in any other.
pub async fn view() {
    bare("linux-native").await.destroy().await.unwrap();
    let launcher = launcher();
    let place = support::directory();
    fs::write(place.path().join("file"), "content").unwrap();
    let granted = || SandboxSpec { grants: vec![support::grant(place.path(), Access::ReadWrite)], ..SandboxSpec::default() };
    let degraded = SandboxSpec { allow_degraded: true, ..SandboxSpec::default() };
    for spec in [SandboxSpec::default(), granted()] {
        let mut seen = Vec::new();
        for is_prepared in [false, true] {
            if is_prepared {
                prepare(NetworkMode::Off, Profile::Default, &Limits::default(), true);
                while children(launcher).is_empty() {
                    std::thread::yield_now();
                }
                for (name, other) in [("container", SandboxSpec::default()), ("linux-native", degraded.clone())] {
                    let other = support::with(name, other).await;
                    assert_eq!(children(launcher).len(), 2, "{name}");
                    other.destroy().await.unwrap();
                }
            }
            let sandbox = support::with("linux-native", spec.clone()).await;
            assert_eq!(children(launcher).len(), 1);
            let lines = support::out(&sh(&sandbox, SEEN).await);
            assert!(lines.lines().count() > 50, "{lines}");
            let controls: Vec<_> = sandbox.controls().iter().map(|report| (report.control, report.detail.clone())).collect();
            let in_grant = sh(&sandbox, &format!("cat {0}/file; echo more > {0}/new; echo $?", place.path().display())).await;
            seen.push((lines, controls, support::out(&in_grant)));
            sandbox.destroy().await.unwrap();
        }
        assert_eq!(seen[0], seen[1]);
    }
    assert_eq!(fs::read_to_string(place.path().join("new")).unwrap(), "more\n");
}

/// A grant is compared with agentd's own folders after the launcher was ordered to create the sandbox.
pub async fn refused() {
    for name in ["linux-native", "container"] {
        bare(name).await.destroy().await.unwrap();
        let launcher = launcher();
        // agentd reserves `/etc/agentd`. Without the waiver, the guard would refuse the grant earlier.
        let grant = Grant { guard: GuardRule::Waive, ..support::grant(Path::new("/etc"), Access::ReadWrite) };
        for _ in 0..20 {
            let spec = SandboxSpec { grants: vec![grant.clone()], ..SandboxSpec::default() };
            let error = backend(name).create_sandbox(spec).await.err().unwrap();
            assert!(error.to_string().contains("the grant contains /etc/agentd"), "{error}");
            assert_eq!(children(launcher), [0; 0], "{name}");
        }
    }
}
