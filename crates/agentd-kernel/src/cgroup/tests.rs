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
