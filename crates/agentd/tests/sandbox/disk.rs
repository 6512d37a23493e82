//! `--disk` limits all stored files of a named sandbox, snapshots included. The tests attack the limit from inside, and kill the
//! daemon.

use crate::place::{SandboxDir, kill, until};
use std::{fs, os::unix::fs::MetadataExt};

/// The size of the disk of each sandbox.
const SIZE: u64 = 32 << 20;

/// Creates a sandbox with a disk. For an ordinary user, checks that this fails and creates nothing, and returns `None`.
fn limited() -> Option<SandboxDir> {
    let place = SandboxDir::new();
    if rustix::process::geteuid().is_root() {
        place.agentd(&["create", "dev", "--disk", "32M"]);
        return Some(place);
    }
    assert!(place.refused(&["create", "dev", "--disk", "32M"]).contains("root of the host"));
    assert_eq!(place.agentd(&["ls"]), "");
    assert_eq!(fs::read_dir(place.path("data/sandboxes/layers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("data/sandboxes/volumes")).unwrap().count(), 0);
    None
}

impl SandboxDir {
    /// Returns the disk usage of each volume on the host, in bytes.
    fn used(&self) -> Vec<u64> {
        let volumes = fs::read_dir(self.path("data/sandboxes/volumes")).unwrap();
        volumes.map(|volume| volume.unwrap().path().join("image").metadata().unwrap().blocks() * 512).collect()
    }

    /// Asserts the number of volumes, and that the usage of each is within the limit.
    fn assert_bounded(&self, volumes: usize) {
        let used = self.used();
        // The host's file system may need extra blocks for the extents of a fragmented file.
        assert!(used.len() == volumes && used.iter().all(|used| *used <= SIZE + (64 << 10)), "{used:?}");
    }

    /// Returns the number of loop devices of these volumes, and the number of processes that see mounts of these volumes.
    pub fn attached(&self) -> (usize, usize) {
        let mark = self.path("data/sandboxes/volumes").to_str().unwrap().to_owned();
        let all = |folder: &str, file: &str| {
            let entries = fs::read_dir(folder).unwrap().flatten();
            entries.filter(|entry| fs::read_to_string(entry.path().join(file)).is_ok_and(|text| text.contains(&mark))).count()
        };
        (all("/sys/block", "loop/backing_file"), all("/proc", "mountinfo"))
    }
}

/// Exceeds the size with one file, with many files, and with many directories. Each must fail; the files are removed again.
const EXCEED: &str = "
    ! dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null || exit 1
    test $(stat -c %s /big) -lt 33554432 || exit 2
    rm /big
    mkdir /many && cd /many || exit 3
    ! seq 5000 | xargs touch 2>/dev/null || exit 4
    cd / && rm -r /many && mkdir /deep && cd /deep || exit 5
    ! seq 5000 | xargs mkdir 2>/dev/null || exit 6
    cd / && rm -r /deep || exit 7
    echo fits >/small && rm /small || exit 8";

/// Uses up all inodes, and then all blocks.
const FILL: &str = "cd /; seq 5000 | xargs touch 2>/dev/null; dd if=/dev/zero of=/1 bs=64k 2>/dev/null; \
    dd if=/dev/zero of=/1 oflag=append conv=notrunc bs=4k 2>/dev/null; true";

#[test]
fn disk_of_sandbox_and_snapshots_is_limited() {
    let Some(place) = limited() else { return };
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // Files of a snapshot count, and cannot be removed from inside.
    place.sh("dev", "dd if=/dev/urandom of=/kept bs=1M count=16 2>/dev/null");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", "rm /kept; ! dd if=/dev/urandom of=/more bs=1M count=16 2>/dev/null; rm /more");
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // A hard link to a file of a snapshot copies the file first (copy-up).
    place.agentd(&["restore", "dev", "first"]);
    place.sh("dev", "! ln /kept /link 2>/dev/null && ! test -e /link");
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // Create snapshots with new content until the disk is full.
    let mut made = 0;
    loop {
        let wrote = place.output(&["exec", "dev", "--", "sh", "-c", "dd if=/dev/urandom of=/again bs=1M count=4 2>/dev/null"]);
        let name = format!("again-{made}");
        if !wrote.status.success() || !place.output(&["snapshot", "dev", &name]).status.success() {
            break;
        }
        made += 1;
        assert!(made < 8, "{made} snapshots of 4 MiB");
    }
    assert!(made > 0);
    place.assert_bounded(1);
    place.is_whole();
}

#[test]
fn fork_has_separate_disk_limit() {
    let Some(place) = limited() else { return };
    place.sh("dev", "dd if=/dev/urandom of=/kept bs=1M count=16 2>/dev/null; echo one >/file");
    place.agentd(&["fork", "dev", "a", "b"]);
    // The shared layers do not count: the fork can use the whole size, and no more.
    place.sh("a", "test $(stat -c %s /kept) = 16777216 && dd if=/dev/urandom of=/own bs=1M count=20 2>/dev/null");
    place.sh("a", "rm /own");
    place.sh("a", EXCEED);
    place.sh("b", "rm /kept; echo b >/file");
    place.sh("b", EXCEED);
    place.assert_bounded(3);
    assert_eq!(place.agentd(&["diff", "b"]), "C /file\nD /kept\n");
    assert_eq!(place.sh("dev", "cat /file"), "one\n");
    // The shared layers outlive the sandbox that created them.
    place.agentd(&["rm", "dev"]);
    place.agentd(&["restore", "b", "created"]);
    assert_eq!(place.sh("b", "cat /file; stat -c %s /kept"), "one\n16777216\n");
    place.agentd(&["rm", "b"]);
    place.assert_bounded(2);
    place.agentd(&["rm", "a"]);
    assert_eq!(place.used(), Vec::<u64>::new());
    until("no device remains", || place.attached() == (0, 0));
    place.is_whole();
}

#[test]
fn full_disk_is_reported_and_restore_still_works() {
    let Some(place) = limited() else { return };
    place.sh("dev", "echo kept >/file");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", FILL);
    assert!(place.refused(&["snapshot", "dev", "second"]).contains("disk of sandbox dev is full"));
    assert!(place.refused(&["fork", "dev", "a"]).contains("disk of sandbox dev is full"));
    // The sandbox can still be started, inspected and freed.
    assert_eq!(place.sh("dev", "cat /file"), "kept\n");
    kill(place.daemon().unwrap());
    assert_eq!(place.sh("dev", "cat /file"), "kept\n");
    place.assert_bounded(1);
    place.is_whole();
    for _ in 0..3 {
        place.agentd(&["restore", "dev", "first"]);
        assert_eq!(place.sh("dev", "cat /file; ls /1 2>/dev/null || true"), "kept\n");
        place.sh("dev", FILL);
    }
    place.agentd(&["restore", "dev", "first"]);
    place.sh("dev", EXCEED);
    // Freed blocks are returned to the host.
    until("the volume has shrunk", || place.used()[0] < SIZE / 2);
    place.is_whole();
}

#[test]
fn all_operations_work_with_disk_limit() {
    let Some(place) = limited() else { return };
    let inspected = place.agentd(&["inspect", "dev"]);
    assert!(inspected.contains("\"bytes\": 33554432") && inspected.contains("\"used_bytes\""), "{inspected}");
    assert!(place.agentd(&["ls"]).contains("of 32 MiB"));
    assert_eq!(place.agentd(&["diff", "dev"]), "");
    fs::write(place.path("here"), "copied").unwrap();
    place.agentd(&["cp", "here", "dev:/file"]);
    assert_eq!(place.agentd(&["cp", "dev:/file", "-"]), "copied");
    // A snapshot of a running sandbox is a copy.
    place.agentd(&["exec", "-d", "dev", "--", "sleep", "600"]);
    place.agentd(&["snapshot", "dev", "running"]);
    place.sh("dev", "echo new >/new; rm /file; setfattr -n user.a -v b /new 2>/dev/null; chmod 4755 /new; ln /new /other");
    assert_eq!(place.agentd(&["diff", "dev", "--since", "running"]), "D /file\nA /new\nA /other\n");
    // Enough snapshots for a merge of layers.
    for number in 0..16 {
        place.sh("dev", &format!("echo {number} >/n{number}; rm -f /n$(({number} - 3))"));
        place.agentd(&["snapshot", "dev", &format!("s{number}")]);
    }
    assert_eq!(place.sh("dev", "echo /n[0-9]*; stat -c '%a %h' /new"), "/n13 /n14 /n15\n4755 2\n");
    place.agentd(&["fork", "dev", "fork", "--of", "s7"]);
    assert_eq!(place.sh("fork", "echo /n[0-9]*"), "/n5 /n6 /n7\n");
    place.agentd(&["restore", "dev", "running"]);
    assert_eq!(place.sh("dev", "cat /file; ls /new 2>/dev/null || true"), "copied");
    place.agentd(&["pause", "dev"]);
    place.agentd(&["resume", "dev"]);
    place.is_whole();
    place.agentd(&["rm", "dev", "fork"]);
    for folder in ["layers", "volumes", "staging"] {
        until(folder, || fs::read_dir(place.path("data/sandboxes").join(folder)).unwrap().count() == 0);
    }
}

#[test]
fn disk_volumes_are_private_and_end_with_the_daemon() {
    let Some(place) = limited() else { return };
    place.agentd(&["create", "other", "--disk", "32M"]);
    place.agentd(&["exec", "-d", "dev", "--", "sleep", "600"]);
    // The second sandbox starts while the first volume is mounted, and continues when the first sandbox is removed.
    place.agentd(&["exec", "-d", "other", "--", "sh", "-c", "echo up >/file; sleep 600"]);
    assert_eq!(place.attached().0, 2);
    place.agentd(&["rm", "dev"]);
    until("the first volume is unmounted", || place.attached().0 == 1);
    assert!(place.agentd(&["ls"]).contains("live, 1 command"));
    // The host sees no mount of it; the daemon and its launcher do, and no sandbox.
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!all.contains(place.path("data").to_str().unwrap()), "{all}");
    let inside = place.sh("other", "cat /proc/self/mountinfo");
    assert!(!inside.contains("volumes") && !inside.contains(place.path("data").to_str().unwrap()), "{inside}");

    kill(place.daemon().unwrap());
    until("no mount and no device is left", || place.attached() == (0, 0));
    assert_eq!(place.sh("other", "cat /file"), "up\n");
    place.is_whole();
    // A daemon that ends unmounts its volumes.
    let daemon = place.daemon().unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    until("the daemon has unmounted it", || place.attached() == (0, 0));
}
