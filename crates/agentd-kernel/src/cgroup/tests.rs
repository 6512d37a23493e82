use super::{hierarchy::*, stats::counter, *};
use std::path::PathBuf;

#[test]
fn cgroup_mounts_of_both_versions_are_parsed() {
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
fn own_cgroup_is_found_by_controller() {
    let text = "9:cpu,cpuacct:/a\n4:memory:/b:c\n0::/user.slice/x.scope\n";
    assert_eq!(parse_place(text, "cpu"), Some("/a"));
    assert_eq!(parse_place(text, "memory"), Some("/b:c"));
    assert_eq!(parse_place(text, ""), Some("/user.slice/x.scope"));
    assert_eq!(parse_place(text, "pids"), None);
}

#[test]
fn counter_with_longer_name_is_not_matched() {
    let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    assert_eq!(counter(text, "oom_kill"), 3);
    assert_eq!(counter("max 7\n", "max"), 7);
    assert_eq!(counter("", "max"), 0);
}

#[test]
fn only_groups_of_dead_creators_are_orphaned() {
    assert!(!sweep::is_orphaned(&Hierarchy::name(1)));
    let own = Hierarchy::name(1);
    let namespace = own.split('.').nth(1).unwrap();
    assert!(sweep::is_orphaned(&format!("agentd.{namespace}.1.99999999999.4")));
    // A creator in another PID namespace is not known to be dead.
    assert!(!sweep::is_orphaned("agentd.1.1.99999999999.4"));
    for foreign in ["agentd", "agentd.1.2", "system.slice", "agentd.x.1.2.3", "agentd.1.2.3.4.5"] {
        assert!(!sweep::is_orphaned(foreign), "{foreign}");
    }
}

#[test]
fn freezer_whose_attach_failed_freezes_no_process_and_can_be_removed() {
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
    // Process -1 does not exist, so that the write fails (EINVAL).
    assert!(freezer.gather(|| vec![pid, -1]).is_err());
    // A frozen process would not die.
    child.kill().unwrap();
    child.wait().unwrap();
    while let Err(error) = freezer.try_remove() {
        assert_eq!(error.errno, Some(libc::EBUSY), "{error}");
    }
}

/// Creates a directory that looks like a version 2 group: `processes` in `cgroup.procs`, and `given` in `cgroup.subtree_control`.
fn group(dir: &std::path::Path, processes: &str, given: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
    std::fs::write(dir.join("cgroup.procs"), processes).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), given).unwrap();
}

#[test]
fn v2_parent_is_nearest_group_without_processes() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("user.slice/app.slice/x.scope");
    group(root.path(), "", "cpu memory pids\n");
    group(&root.path().join("user.slice"), "", "cpu memory pids\n");
    // This group would also offer all controllers, but has a process, so that its children could not be entered.
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
fn v2_parent_offering_most_controllers_is_used() {
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
