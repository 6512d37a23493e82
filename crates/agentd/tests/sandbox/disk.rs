//! `--disk`: what a named sandbox keeps, snapshots included, has a limit. Attacked from inside, and by killing the keeper.

use crate::place::{Place, kill, until};
use std::{fs, os::unix::fs::MetadataExt};

/// The limit of the sandboxes here.
const SIZE: u64 = 32 << 20;

/// Where a test's sandboxes are, or nothing for who can have none with a limit: then he is told so, and nothing is there.
fn limited() -> Option<Place> {
    let place = Place::new();
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

impl Place {
    /// What each volume takes of the host's disk, bytes.
    fn taken(&self) -> Vec<u64> {
        let volumes = fs::read_dir(self.path("data/sandboxes/volumes")).unwrap();
        volumes.map(|volume| volume.unwrap().path().join("image").metadata().unwrap().blocks() * 512).collect()
    }

    /// The limit holds for each of so many volumes.
    fn assert_bounded(&self, volumes: usize) {
        let taken = self.taken();
        // The host's file system may note where the parts of a scattered file are beside it.
        assert!(taken.len() == volumes && taken.iter().all(|taken| *taken <= SIZE + (64 << 10)), "{taken:?}");
    }

    /// How many loop devices have files of this place, and processes mounts of them.
    pub fn attached(&self) -> (usize, usize) {
        let mark = self.path("data/sandboxes/volumes").to_str().unwrap().to_owned();
        let all = |folder: &str, file: &str| {
            let entries = fs::read_dir(folder).unwrap().flatten();
            entries.filter(|entry| fs::read_to_string(entry.path().join(file)).is_ok_and(|text| text.contains(&mark))).count()
        };
        (all("/sys/block", "loop/backing_file"), all("/proc", "mountinfo"))
    }
}

/// Writes more than there is room for, in one file, in many, and in names of one file; each must fail, and is removed again.
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

/// Uses up all inodes, and then all room.
const FILL: &str = "cd /; seq 5000 | xargs touch 2>/dev/null; dd if=/dev/zero of=/1 bs=64k 2>/dev/null; dd if=/dev/zero of=/1 oflag=append \
                    conv=notrunc bs=4k 2>/dev/null; true";

#[test]
fn what_a_sandbox_keeps_has_a_limit_from_its_first_write_on() {
    let Some(place) = limited() else { return };
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // What a snapshot has counts, and cannot be removed from inside.
    place.sh("dev", "dd if=/dev/urandom of=/kept bs=1M count=16 2>/dev/null");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", "rm /kept; ! dd if=/dev/urandom of=/more bs=1M count=16 2>/dev/null; rm /more");
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // To link to what a snapshot has copies it first.
    place.agentd(&["restore", "dev", "first"]);
    place.sh("dev", "! ln /kept /link 2>/dev/null && ! test -e /link");
    place.sh("dev", EXCEED);
    place.assert_bounded(1);
    // Snapshot after snapshot, each of something new: at last there is no room.
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
fn a_fork_has_a_limit_of_its_own() {
    let Some(place) = limited() else { return };
    place.sh("dev", "dd if=/dev/urandom of=/kept bs=1M count=16 2>/dev/null; echo one >/file");
    place.agentd(&["fork", "dev", "a", "b"]);
    // What it began with is not its own: it has all the room, and no more.
    place.sh("a", "test $(stat -c %s /kept) = 16777216 && dd if=/dev/urandom of=/own bs=1M count=20 2>/dev/null");
    place.sh("a", "rm /own");
    place.sh("a", EXCEED);
    place.sh("b", "rm /kept; echo b >/file");
    place.sh("b", EXCEED);
    place.assert_bounded(3);
    assert_eq!(place.agentd(&["diff", "b"]), "C /file\nD /kept\n");
    assert_eq!(place.sh("dev", "cat /file"), "one\n");
    // What forks have below them outlives whose it was.
    place.agentd(&["rm", "dev"]);
    place.agentd(&["restore", "b", "created"]);
    assert_eq!(place.sh("b", "cat /file; stat -c %s /kept"), "one\n16777216\n");
    place.agentd(&["rm", "b"]);
    place.assert_bounded(2);
    place.agentd(&["rm", "a"]);
    assert_eq!(place.taken(), []);
    until("no device is left", || place.attached() == (0, 0));
    place.is_whole();
}

#[test]
fn a_full_sandbox_is_told_apart_and_goes_back() {
    let Some(place) = limited() else { return };
    place.sh("dev", "echo kept >/file");
    place.agentd(&["snapshot", "dev", "first"]);
    place.sh("dev", FILL);
    assert!(place.refused(&["snapshot", "dev", "second"]).contains("disk of sandbox dev is full"));
    assert!(place.refused(&["fork", "dev", "a"]).contains("disk of sandbox dev is full"));
    // It can still be started, to be looked at and freed.
    assert_eq!(place.sh("dev", "cat /file"), "kept\n");
    kill(place.keeper().unwrap());
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
    // What was written and is gone again is the host's again.
    until("there is room again", || place.taken()[0] < SIZE / 2);
    place.is_whole();
}

#[test]
fn all_that_a_sandbox_can_it_can_with_a_limit() {
    let Some(place) = limited() else { return };
    let inspected = place.agentd(&["inspect", "dev"]);
    assert!(inspected.contains("\"bytes\": 33554432") && inspected.contains("\"used_bytes\""), "{inspected}");
    assert!(place.agentd(&["ls"]).contains("of 32 MiB"));
    assert_eq!(place.agentd(&["diff", "dev"]), "");
    fs::write(place.path("here"), "copied").unwrap();
    place.agentd(&["cp", "here", "dev:/file"]);
    assert_eq!(place.agentd(&["cp", "dev:/file", "-"]), "copied");
    // A snapshot of what runs is a copy.
    place.agentd(&["exec", "-d", "dev", "--", "sleep", "600"]);
    place.agentd(&["snapshot", "dev", "running"]);
    place.sh("dev", "echo new >/new; rm /file; setfattr -n user.a -v b /new 2>/dev/null; chmod 4755 /new; ln /new /other");
    assert_eq!(place.agentd(&["diff", "dev", "--since", "running"]), "D /file\nA /new\nA /other\n");
    // So many that layers are merged.
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
fn nobody_keeps_the_disk_of_another_and_nothing_outlives_the_keeper() {
    let Some(place) = limited() else { return };
    place.agentd(&["create", "other", "--disk", "32M"]);
    place.agentd(&["exec", "-d", "dev", "--", "sleep", "600"]);
    // It is made while the disk of the first is mounted where it is made, and lives on when that is removed.
    place.agentd(&["exec", "-d", "other", "--", "sh", "-c", "echo up >/file; sleep 600"]);
    assert_eq!(place.attached().0, 2);
    place.agentd(&["rm", "dev"]);
    until("the first one's is gone", || place.attached().0 == 1);
    assert!(place.agentd(&["ls"]).contains("live, 1 running"));
    // The host sees no mount of it; the keeper and its launcher do, and no sandbox.
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!all.contains(place.path("data").to_str().unwrap()), "{all}");
    let inside = place.sh("other", "cat /proc/self/mountinfo");
    assert!(!inside.contains("volumes") && !inside.contains(place.path("data").to_str().unwrap()), "{inside}");

    kill(place.keeper().unwrap());
    until("no mount and no device is left", || place.attached() == (0, 0));
    assert_eq!(place.sh("other", "cat /file"), "up\n");
    place.is_whole();
    // At rest, too, it is unmounted, when nothing has used it for a while.
    let keeper = place.keeper().unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::TERM).unwrap();
    until("the keeper has unmounted it", || place.attached() == (0, 0));
}
