//! A3, A7, A9: files outside the grants.

use crate::{
    check::{BUG, Check, Facts, Verdict, broken_if, first},
    sys,
};
use agentd_core::Claim::Filesystem;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{PermissionsExt, symlink},
};

const LANDLOCK: &str = "boot a kernel ≥ 5.13 with landlock in the lsm= list";

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a3_create_outside_the_grants", claim: Filesystem, remedy: LANDLOCK, run: create_outside },
    Check { name: "a3_find_a_writable_system_directory", claim: Filesystem, remedy: BUG, run: writable_system },
    Check { name: "a3_write_or_truncate_a_host_file", claim: Filesystem, remedy: LANDLOCK, run: write_host_file },
    Check { name: "a3_change_a_read_only_grant", claim: Filesystem, remedy: LANDLOCK, run: change_read_only },
    Check { name: "a3_follow_a_link_out_of_the_workspace", claim: Filesystem, remedy: LANDLOCK, run: follow_link },
    Check { name: "a7_read_a_secret_outside_the_grants", claim: Filesystem, remedy: LANDLOCK, run: read_secret },
    Check { name: "a7_list_files_next_to_a_grant", claim: Filesystem, remedy: LANDLOCK, run: list_neighbours },
    Check { name: "a7_read_accounts_and_homes", claim: Filesystem, remedy: LANDLOCK, run: read_accounts },
    Check { name: "a7_read_a_secret_of_etc_after_changing_it", claim: Filesystem, remedy: BUG, run: own_secret },
    // A bug, whatever the kernel: process 1 and the supervisor are not dumpable, and the program lies in no writable grant.
    Check { name: "a9_open_the_host_binary", claim: Filesystem, remedy: BUG, run: host_binary },
];

fn create_outside(facts: &Facts) -> Verdict {
    // In a machine, `/usr` and `/opt` belong to the sandbox, and `/sys` is an empty directory.
    let shared: &[&str] = if facts.has_own_machine() { &[] } else { &["/usr", "/usr/local/bin", "/opt", "/sys"] };
    // If the sandbox has its own root, these directories belong to the sandbox. The probe, which runs on the host, checks that
    // files created in them do not appear on the host.
    let own: &[&str] = if facts.has_own_root() { &[] } else { &["/", "/etc", "/var", "/run"] };
    first(["/proc"].iter().chain(shared).chain(own).map(|dir| {
        let path = format!("{}/agentd-attack-{}", dir.trim_end_matches('/'), std::process::id());
        let made = [
            ("a file", File::create(&path).is_ok()),
            ("a directory", fs::create_dir(format!("{path}.d")).is_ok()),
            ("a symbolic link", symlink("/", format!("{path}.l")).is_ok()),
            ("a FIFO", sys::mknod(&format!("{path}.p"), libc::S_IFIFO, 0)),
            ("a socket", std::os::unix::net::UnixListener::bind(format!("{path}.s")).is_ok()),
            ("a hard link", fs::hard_link("/etc/passwd", format!("{path}.h")).is_ok()),
            // Major 1, minor 3 is /dev/null.
            ("a device", sys::mknod(&format!("{path}.c"), libc::S_IFCHR, 0x103)),
        ];
        // Cleaning up changes no verdict.
        for end in ["", ".l", ".p", ".s", ".h", ".c"] {
            fs::remove_file(format!("{path}{end}")).ok();
        }
        fs::remove_dir(format!("{path}.d")).ok();
        first(made.map(|(what, possible)| broken_if(possible, || format!("created {what} in {dir}"))))
    }))
}

/// Checks that system directories are mounted read-only. Landlock does not restrict changes of modes, times and attributes, so
/// only a read-only mount protects them from the owner of the files.
fn writable_system(facts: &Facts) -> Verdict {
    let etc = if facts.has_own_root() { None } else { Some("/etc") };
    first(["/usr", "/opt"].into_iter().chain(etc).map(|path| match sys::is_read_only(path) {
        Some(read_only) => broken_if(!read_only, || format!("{path} is mounted read-write")),
        // A missing directory cannot be changed.
        None => Verdict::Held,
    }))
}

/// Returns alternative names of a path that a sandbox might fail to cover.
fn ways(path: &str) -> [String; 4] {
    [path.to_owned(), format!("/proc/self/root{path}"), format!("/proc/1/root{path}"), format!("/proc/1/cwd{path}")]
}

fn write_host_file(facts: &Facts) -> Verdict {
    let path = match facts.get("host_file") {
        Ok(path) => path,
        Err(verdict) => return verdict,
    };
    first(ways(path).map(|way| {
        let opened = OpenOptions::new().write(true).open(&way).is_ok() || OpenOptions::new().append(true).open(&way).is_ok();
        broken_if(opened, || format!("opened {way} for writing"))
    }))
}

fn read_secret(facts: &Facts) -> Verdict {
    match facts.get("secret_path") {
        Ok(path) => first(ways(path).map(|way| broken_if(fs::read(&way).is_ok(), || format!("read {way}")))),
        Err(verdict) => verdict,
    }
}

/// Checks that no listing shows the secret. Directories may be listed, so that `ls /` works, but must not contain names that are
/// not granted.
fn list_neighbours(facts: &Facts) -> Verdict {
    let secret = match facts.get("secret_path") {
        Ok(path) => std::path::Path::new(path),
        Err(verdict) => return verdict,
    };
    let lists = |above| fs::read_dir(above).is_ok_and(|list| list.flatten().any(|entry| entry.path() == secret));
    broken_if(secret.parent().is_some_and(lists), || format!("listed {} in its directory", secret.display()))
}

fn change_read_only(facts: &Facts) -> Verdict {
    let (dir, workspace) = match (facts.get("readonly"), facts.get("workspace")) {
        (Ok(dir), Ok(workspace)) => (dir, workspace),
        (Err(verdict), _) | (_, Err(verdict)) => return verdict,
    };
    let Some(Ok(entry)) = fs::read_dir(dir).ok().and_then(|mut list| list.next()) else {
        return Verdict::NotTried(format!("{dir} cannot be read, or is empty"));
    };
    let file = entry.path();
    let moved = format!("{workspace}/agentd-attack-moved");
    let rename = fs::rename(&file, &moved).is_ok();
    if rename {
        // Moving the file back changes no verdict.
        fs::rename(&moved, &file).ok();
    }
    first([
        broken_if(OpenOptions::new().write(true).open(&file).is_ok(), || format!("opened {} for writing", file.display())),
        broken_if(File::create(format!("{dir}/agentd-attack-new")).is_ok(), || format!("created a file in {dir}")),
        broken_if(rename, || format!("moved {} away", file.display())),
        broken_if(fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).is_ok(), || {
            format!("changed the mode of {}", file.display())
        }),
    ])
}

fn follow_link(facts: &Facts) -> Verdict {
    let (secret, workspace) = match (facts.get("secret_path"), facts.get("workspace")) {
        (Ok(secret), Ok(workspace)) => (secret, workspace),
        (Err(verdict), _) | (_, Err(verdict)) => return verdict,
    };
    let link = format!("{workspace}/agentd-attack-outside");
    if let Err(error) = symlink("/", &link) {
        return Verdict::NotTried(format!("symlink in the workspace: {error}"));
    }
    let read = fs::read(format!("{link}{secret}")).is_ok();
    // Cleaning up changes no verdict.
    fs::remove_file(&link).ok();
    broken_if(read, || format!("read {secret} through a link in the workspace"))
}

fn read_accounts(_: &Facts) -> Verdict {
    let home = std::env::var("HOME").unwrap_or_default();
    let files = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.bashrc", "/root/.ssh/id_rsa"];
    let secrets = [".ssh", ".aws", ".gnupg", ".netrc", ".config/gcloud"];
    first(files.into_iter().map(|path| broken_if(fs::read(path).is_ok(), || format!("read {path}"))).chain(
        secrets.map(|name| broken_if(fs::symlink_metadata(format!("{home}/{name}")).is_ok(), || format!("found ~/{name}"))),
    ))
}

/// Tries to read secrets of `/etc` after changing them. The sandbox's own root may have the host's `/etc` as a lower layer.
/// Overlayfs copies up a file that is moved, linked or changed. The copy must not be readable if the file was not.
fn own_secret(_: &Facts) -> Verdict {
    let secrets = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/security/opasswd", "/etc/ssh/ssh_host_ed25519_key"];
    first(secrets.into_iter().map(|path| {
        // If the file is readable already, the attack changes nothing.
        if fs::read(path).is_ok_and(|content| !content.is_empty()) {
            return Verdict::Broken(format!("read {path}"));
        }
        let moved = format!("{path}.agentd-attack");
        let readable = |of: &str| fs::read(of).is_ok_and(|content| !content.is_empty());
        let ways = [
            ("changed the mode of", fs::set_permissions(path, PermissionsExt::from_mode(0o644)).is_ok() && readable(path)),
            ("changed the owner of", std::os::unix::fs::chown(path, Some(0), Some(0)).is_ok() && readable(path)),
            ("linked", fs::hard_link(path, &moved).is_ok() && readable(&moved)),
            ("moved", fs::rename(path, &moved).is_ok() && readable(&moved)),
        ];
        first(ways.map(|(how, possible)| broken_if(possible, || format!("{how} {path} and then read it"))))
    }))
}

fn host_binary(_: &Facts) -> Verdict {
    // This process is a child of the attack suite, which the supervisor started.
    let suite = std::os::unix::process::parent_id();
    let status = fs::read_to_string(format!("/proc/{suite}/status")).unwrap_or_default();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or("1").trim();
    let supervisor = format!("/proc/{supervisor}/exe");
    first(
        ["/proc/1/exe", &supervisor]
            .map(|path| broken_if(File::open(path).is_ok(), || format!("opened {path}")))
            .into_iter()
            .chain([broken_if(OpenOptions::new().write(true).open("/proc/self/exe").is_ok(), || {
                "opened /proc/self/exe for writing".to_owned()
            })]),
    )
}
