//! An ordinary user whom `/etc/subuid` gives ids, and root whose sandboxes get those that it gives to `agentd`; and what can be wrong with
//! that. Root tries it, in mount namespaces in which these files are others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::{Command, Output},
};
use tempfile::TempDir;

/// An ordinary user.
const USER: u32 = 54_321;

struct Place(TempDir);

impl Place {
    /// With the program where the user can execute it.
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root can show another /etc/subuid");
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_agentd"), place.path().join("agentd")).unwrap();
        fs::create_dir(place.path().join("home")).unwrap();
        chown(place.path().join("home"), Some(USER), Some(USER)).unwrap();
        Self(place)
    }

    /// What `agentd run --backend container` with these arguments says to the user, likewise.
    fn run(&self, count: u32, first: &str, arguments: &[&str]) -> Output {
        self.agentd(count, first, &[&["run", "--backend", "container", "--workspace", "none"], arguments].concat())
    }

    /// What `agentd` says to the user, where `/etc/subuid` and `/etc/subgid` give `count` ids and root has done `first`.
    fn agentd(&self, count: u32, first: &str, arguments: &[&str]) -> Output {
        let at = self.0.path().display();
        fs::write(self.0.path().join("ids"), format!("tester:{}:{count}\n", 0x6000_0000)).unwrap();
        // Without a name, newuidmap does nothing.
        fs::write(self.0.path().join("passwd"), format!("root:x:0:0::/root:/bin/sh\ntester:x:{USER}:{USER}::/:/bin/sh\n"))
            .unwrap();
        let setup = format!(
            "set -e; cd {at}/home; mount --bind {at}/ids /etc/subuid; mount --bind {at}/ids /etc/subgid; mount --bind {at}/passwd /etc/passwd; {first}\n\
             exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &setup, "sh"]).arg(self.0.path().join("agentd"));
        command.args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.0.path().join("home"));
        command.output().unwrap()
    }
}

/// What `agentd run --backend container` says to root, where `/etc/subuid` and `/etc/subgid` say that.
fn as_root(uids: impl AsRef<[u8]>, gids: impl AsRef<[u8]>) -> Output {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().display();
    fs::write(place.path().join("uids"), uids).unwrap();
    fs::write(place.path().join("gids"), gids).unwrap();
    let setup = format!("set -e; mount --bind {at}/uids /etc/subuid; mount --bind {at}/gids /etc/subgid; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &setup, "sh", env!("CARGO_BIN_EXE_agentd")]);
    command.args([
        "run",
        "--backend",
        "container",
        "--workspace",
        "none",
        "--",
        "cat",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
    ]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", place.path());
    command.output().unwrap()
}

#[test]
fn roots_sandboxes_get_the_ids_that_are_set_apart() {
    let first = |map: &str| map.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
    let usual = map(&as_root("ann:100000:65536\n", ""));
    assert!(usual.len() == 2 && usual.iter().all(|map| first(map) >= 0x7040_0000 && map.ends_with(" 65536")), "{usual:?}");
    // Above all that others of these tests use.
    let given = map(&as_root("agentd:1612709888:65536\n", "agentd:1613709888:131072\n"));
    assert_eq!(given, ["0 1612709888 65536", "0 1613709888 65536"]);
    // Whatever else there is.
    let given = map(&as_root(b"\xff:1:2\nagentd:1612709888:65536\n", b"agentd:1613709888:131072\n# \xfe\n"));
    assert_eq!(given, ["0 1612709888 65536", "0 1613709888 65536"]);
    // What is set apart and too little is no reason to take what is not.
    for (uids, gids, why) in [
        ("agentd:1612709888:65535\n", "agentd:1612709888:65536\n", "/etc/subuid"),
        ("agentd:1612709888:65536\n", "", "/etc/subgid"),
    ] {
        let refused = as_root(uids, gids);
        assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        assert!(said(&refused).contains(&format!("read what {why} gives to agentd")), "{refused:?}");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const MAP: [&str; 3] = ["--", "cat", "/proc/self/uid_map"];

/// A map, without its blanks.
fn map(output: &Output) -> Vec<String> {
    said(output).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_ids_that_are_given_are_there() {
    let place = Place::new();
    assert_eq!(map(&place.run(65536, "", &MAP)), ["0 54321 1", "1 1610612736 65535"]);
    assert_eq!(map(&place.run(100, "", &MAP)), ["0 54321 1", "1 1610612736 100"]);
    assert_eq!(map(&place.run(0, "", &MAP)), ["0 54321 1"]);
}

#[test]
fn what_was_proven_without_them_is_not_believed_with_them() {
    let place = Place::new();
    let image = place.0.path().join("home/image");
    fs::create_dir_all(image.join("bin")).unwrap();
    fs::copy("/bin/busybox", image.join("bin/true")).unwrap();
    let imported = place.agentd(0, "", &["image", "import", image.to_str().unwrap(), "small"]);
    assert!(imported.status.success(), "{imported:?}");
    // Whose backend is not named, so that one is asked for that is proven.
    let proven = |count| {
        let ran = place.agentd(count, "", &["run", "--image", "small", "--workspace", "none", "--", "/bin/true"]);
        assert!(ran.status.success(), "{ran:?}");
        let kept = fs::read_to_string(place.0.path().join("home/.cache/agentd/probe-container.json")).unwrap();
        kept.contains("subordinate_ids_a6_be_root_of_the_host")
    };
    assert_eq!([proven(0), proven(65536), proven(0)], [false, true, false]);
}

#[test]
fn what_the_caller_could_not_remove_is_not_made() {
    let place = Place::new();
    let work = place.0.path().join("home/work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(USER), Some(USER)).unwrap();
    let granted = |access| [&[access, work.to_str().unwrap()][..], &MAP].concat();
    assert_eq!(map(&place.run(65536, "", &granted("--rw"))), ["0 54321 1"]);
    assert_eq!(map(&place.run(65536, "", &granted("--ro"))), ["0 54321 1", "1 1610612736 65535"]);
}

#[test]
fn ids_that_are_given_and_cannot_be_used_are_an_error_or_named() {
    let place = Place::new();
    let broken = "mount --bind /bin/false /usr/bin/newuidmap;";
    let refused = place.run(65536, broken, &MAP);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    for part in ["idmap: /usr/bin/newuidmap 0 54321 1 1 1610612736 65535: exit status: 1", "--allow-degraded"] {
        assert!(said(&refused).contains(part), "{refused:?}");
    }
    let degraded = place.run(65536, broken, &[&["--allow-degraded"][..], &MAP].concat());
    let (stdout, stderr) = (String::from_utf8_lossy(&degraded.stdout), String::from_utf8_lossy(&degraded.stderr));
    assert_eq!(stdout.split_whitespace().collect::<Vec<_>>(), ["0", "54321", "1"], "{degraded:?}");
    assert!(stderr.contains("newuidmap"), "{degraded:?}");
    // Half a map is no map.
    let half = place.run(65536, "mount --bind /bin/false /usr/bin/newgidmap;", &[&["--allow-degraded"][..], &MAP].concat());
    assert_eq!((half.status.code(), &half.stdout[..]), (Some(125), &b""[..]), "{half:?}");
}

#[test]
fn ids_that_cannot_be_mapped_by_anybody_are_none() {
    let place = Place::new();
    for (first, why) in [
        ("mount --bind /dev/null /etc/subgid;", "/etc/subgid gives you none"),
        ("set -- setpriv --no-new-privs \"$@\";", "no program can gain privileges here"),
    ] {
        let json = said(&place.run(65536, first, &["--json", "--", "cat", "/proc/self/uid_map"]));
        assert!(json.contains(&format!("there is no other: {why}")), "{json}");
    }
}
