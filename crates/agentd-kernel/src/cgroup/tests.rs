use super::{hierarchy::*, stats::counter, *};
use std::path::PathBuf;

#[test]
fn mounts_of_both_versions_are_found() {
    let info = "31 25 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                32 25 0:28 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n\
                33 1 8:1 / / rw - ext4 /dev/sda rw";
    let mounts = parse_mounts(info);
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts[0].version, Version::V1);
    assert_eq!(mounts[0].options, "rw,memory");
    assert_eq!((mounts[1].version, mounts[1].root.as_str()), (Version::V2, "/docker/x"));
    assert_eq!(mounts[1].point, PathBuf::from("/sys/fs/cgroup"));
}

#[test]
fn the_own_group_is_found_by_controller() {
    let text = "9:cpu,cpuacct:/a\n4:memory:/b:c\n0::/user.slice/x.scope\n";
    assert_eq!(parse_place(text, "cpu"), Some("/a"));
    assert_eq!(parse_place(text, "memory"), Some("/b:c"));
    assert_eq!(parse_place(text, ""), Some("/user.slice/x.scope"));
    assert_eq!(parse_place(text, "pids"), None);
}

#[test]
fn counters_are_read_by_their_whole_name() {
    let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    assert_eq!(counter(text, "oom_kill"), 3);
    assert_eq!(counter("max 7\n", "max"), 7);
    assert_eq!(counter("", "max"), 0);
}

#[test]
fn only_groups_of_dead_makers_are_orphaned() {
    assert!(!sweep::is_orphaned(&Hierarchy::name(1)));
    let own = Hierarchy::name(1);
    let namespace = own.split('.').nth(1).unwrap();
    assert!(sweep::is_orphaned(&format!("agentd.{namespace}.1.99999999999.4")));
    // Of another pid namespace nothing is known.
    assert!(!sweep::is_orphaned("agentd.1.1.99999999999.4"));
    for foreign in ["agentd", "agentd.1.2", "system.slice", "agentd.x.1.2.3", "agentd.1.2.3.4.5"] {
        assert!(!sweep::is_orphaned(foreign), "{foreign}");
    }
}

#[test]
fn what_cannot_be_stopped_as_a_whole_goes_on_and_its_group_can_be_removed() {
    let hierarchy = Hierarchy::detect();
    let freezer = match hierarchy.freezer(&Hierarchy::name(9_000), None) {
        Ok(freezer) => freezer,
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            return;
        }
    };
    let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    // There is no such number (EINVAL).
    assert!(freezer.stop(|| vec![pid, -1]).is_err());
    // One that stands would not die.
    child.kill().unwrap();
    child.wait().unwrap();
    freezer.remove().unwrap();
}

/// A directory as a group on version 2: `type` but for the root, and what it lists.
fn group(dir: &std::path::Path, processes: &str, given: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
    std::fs::write(dir.join("cgroup.procs"), processes).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), given).unwrap();
}

#[test]
fn on_version_2_groups_are_made_in_one_place_that_has_no_processes() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("user.slice/app.slice/x.scope");
    group(root.path(), "", "cpu memory pids\n");
    group(&root.path().join("user.slice"), "", "cpu memory pids\n");
    // It would give all as well, but its children could not be entered.
    group(&root.path().join("user.slice/app.slice"), "7\n", "cpu memory pids\n");
    group(&own, "8\n", "pids\n");
    let mount = Mount { point: root.path().into(), root: "/".into(), version: Version::V2, options: "rw".into() };
    let parents = v2_parents(&mount, "0::/user.slice/app.slice/x.scope\n");
    let expected: Vec<_> = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::CpuTime, Controller::Freezer]
        .map(|controller| (controller, root.path().join("user.slice")))
        .into();
    assert_eq!(parents, expected);
}

#[test]
fn on_version_2_the_place_that_gives_most_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let near = root.path().join("a");
    group(root.path(), "1\n", "cpu memory pids\n");
    group(&near, "", "pids\n");
    group(&near.join("b"), "", "");
    group(&near.join("b/own"), "8\n", "");
    let mount = Mount { point: root.path().into(), root: "/".into(), version: Version::V2, options: "rw".into() };
    let parents = v2_parents(&mount, "0::/a/b/own\n");
    let expected: Vec<_> =
        [Controller::Pids, Controller::CpuTime, Controller::Freezer].map(|controller| (controller, near.clone())).into();
    assert_eq!(parents, expected);
}
