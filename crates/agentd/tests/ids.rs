//! Subordinate ids of an ordinary user, and of root's sandboxes (`agentd` in `/etc/subuid`), and errors in their configuration.
//! The tests run as root and replace these files in mount namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::{Command, Output},
};
use tempfile::TempDir;

/// The uid of an ordinary user.
const USER: u32 = 54_321;

struct IdsDir(TempDir);

impl IdsDir {
    /// Creates a directory with a copy of the program that the user can execute.
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root can replace /etc/subuid");
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_agentd"), place.path().join("agentd")).unwrap();
        fs::create_dir(place.path().join("home")).unwrap();
        chown(place.path().join("home"), Some(USER), Some(USER)).unwrap();
        Self(place)
    }

    /// Runs `agentd run --backend container` as the user, like [`Self::agentd`].
    fn run(&self, count: u32, first: &str, arguments: &[&str]) -> Output {
        self.agentd(count, first, &[&["run", "--backend", "container", "--workspace", "none"], arguments].concat())
    }

    /// Runs `agentd` as the user, with `count` ids in `/etc/subuid` and `/etc/subgid`, after root has run the script `first`.
    fn agentd(&self, count: u32, first: &str, arguments: &[&str]) -> Output {
        let at = self.0.path().display();
        fs::write(self.0.path().join("ids"), format!("tester:{}:{count}\n", 0x6000_0000)).unwrap();
        // newuidmap needs a name for the user.
        fs::write(self.0.path().join("passwd"), format!("root:x:0:0::/root:/bin/sh\ntester:x:{USER}:{USER}::/:/bin/sh\n"))
            .unwrap();
        let setup = format!(
            "set -e; cd {at}/home; mount --bind {at}/ids /etc/subuid; mount --bind {at}/ids /etc/subgid; \
             mount --bind {at}/passwd /etc/passwd; {first}\n\
             exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &setup, "sh"]).arg(self.0.path().join("agentd"));
        command.args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.0.path().join("home"));
        command.output().unwrap()
    }
}

/// Runs `agentd run --backend container` as root, with these contents of `/etc/subuid` and `/etc/subgid`.
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
fn root_sandboxes_get_ids_reserved_for_agentd() {
    let first = |map: &str| map.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
    let usual = map(&as_root("ann:100000:65536\n", ""));
    assert!(usual.len() == 2 && usual.iter().all(|map| first(map) >= 0x7040_0000 && map.ends_with(" 65536")), "{usual:?}");
    // Above the ids that other tests use.
    let given = map(&as_root("agentd:1612709888:65536\n", "agentd:1613709888:131072\n"));
    assert_eq!(given, ["0 1612709888 65536", "0 1613709888 65536"]);
    // Lines that are not valid are ignored.
    let given = map(&as_root(b"\xff:1:2\nagentd:1612709888:65536\n", b"agentd:1613709888:131072\n# \xfe\n"));
    assert_eq!(given, ["0 1612709888 65536", "0 1613709888 65536"]);
    // If the reserved ids are too few, agentd fails and does not use other ids.
    for (uids, gids, why) in [
        ("agentd:1612709888:65535\n", "agentd:1612709888:65536\n", "/etc/subuid"),
        ("agentd:1612709888:65536\n", "", "/etc/subgid"),
    ] {
        let refused = as_root(uids, gids);
        assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        assert!(message(&refused).contains(&format!("read the ids of agentd in {why}")), "{refused:?}");
    }
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const MAP: [&str; 3] = ["--", "cat", "/proc/self/uid_map"];

/// Returns the lines of an id map with single blanks.
fn map(output: &Output) -> Vec<String> {
    message(output).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn subordinate_ids_are_mapped() {
    let place = IdsDir::new();
    assert_eq!(map(&place.run(65536, "", &MAP)), ["0 54321 1", "1 1610612736 65535"]);
    assert_eq!(map(&place.run(100, "", &MAP)), ["0 54321 1", "1 1610612736 100"]);
    assert_eq!(map(&place.run(0, "", &MAP)), ["0 54321 1"]);
}

#[test]
fn proof_without_subordinate_ids_does_not_apply_with_them() {
    let place = IdsDir::new();
    let image = place.0.path().join("home/image");
    fs::create_dir_all(image.join("bin")).unwrap();
    fs::copy("/bin/busybox", image.join("bin/true")).unwrap();
    let imported = place.agentd(0, "", &["image", "import", image.to_str().unwrap(), "small"]);
    assert!(imported.status.success(), "{imported:?}");
    // Without --backend, so that agentd needs a proof.
    let proven = |count| {
        let ran = place.agentd(count, "", &["run", "--image", "small", "--workspace", "none", "--", "/bin/true"]);
        assert!(ran.status.success(), "{ran:?}");
        // One file for each state of the host.
        let kept = fs::read_dir(place.0.path().join("home/.local/share/agentd/proofs")).unwrap().map(|file| file.unwrap().path());
        let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("proven-container-"));
        let mut with_ids: Vec<bool> =
            kept.map(|path| fs::read_to_string(path).unwrap().contains("subordinate_ids_a6_run_as_root_of_the_host")).collect();
        with_ids.sort();
        with_ids
    };
    assert_eq!(proven(0), [false]);
    assert_eq!(proven(65536), [false, true]);
    // Each run has new namespaces. Their numbers are part of a proof's key, and are reused only if nothing else on the host took
    // them.
    assert!(matches!(proven(0)[..], [false, true] | [false, false, true]));
}

#[test]
fn sandbox_with_writable_grant_has_only_id_of_caller() {
    let place = IdsDir::new();
    let work = place.0.path().join("home/work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(USER), Some(USER)).unwrap();
    let granted = |access| [&[access, work.to_str().unwrap()][..], &MAP].concat();
    assert_eq!(map(&place.run(65536, "", &granted("--rw"))), ["0 54321 1"]);
    assert_eq!(map(&place.run(65536, "", &granted("--ro"))), ["0 54321 1", "1 1610612736 65535"]);
}

#[test]
fn subordinate_ids_that_cannot_be_mapped_fail_or_are_reported() {
    let place = IdsDir::new();
    let broken = "mount --bind /bin/false /usr/bin/newuidmap;";
    let refused = place.run(65536, broken, &MAP);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    for part in ["idmap: /usr/bin/newuidmap 0 54321 1 1 1610612736 65535: exit status: 1", "--allow-degraded"] {
        assert!(message(&refused).contains(part), "{refused:?}");
    }
    let degraded = place.run(65536, broken, &[&["--allow-degraded"][..], &MAP].concat());
    let (stdout, stderr) = (String::from_utf8_lossy(&degraded.stdout), String::from_utf8_lossy(&degraded.stderr));
    assert_eq!(stdout.split_whitespace().collect::<Vec<_>>(), ["0", "54321", "1"], "{degraded:?}");
    assert!(stderr.contains("newuidmap"), "{degraded:?}");
    // If only one of the two maps can be written, the run fails.
    let half = place.run(65536, "mount --bind /bin/false /usr/bin/newgidmap;", &[&["--allow-degraded"][..], &MAP].concat());
    assert_eq!((half.status.code(), &half.stdout[..]), (Some(125), &b""[..]), "{half:?}");
}

#[test]
fn subordinate_ids_without_subgid_or_newuidmap_are_not_used() {
    let place = IdsDir::new();
    for (first, why) in [
        ("mount --bind /dev/null /etc/subgid;", "/etc/subgid assigns no ids to this user"),
        ("set -- setpriv --no-new-privs \"$@\";", "newuidmap cannot gain privileges"),
    ] {
        let json = message(&place.run(65536, first, &["--json", "--", "cat", "/proc/self/uid_map"]));
        assert!(json.contains(&format!("no other id is mapped: {why}")), "{json}");
    }
}
