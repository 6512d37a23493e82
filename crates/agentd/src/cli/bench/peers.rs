//! Other sandbox programs, measured if they are installed. As far as possible, each program shows the same paths and has the same
//! namespaces as a sandbox of agentd.

use serde_json::{Value, json};
use std::{fs, io, path::Path};

/// Directories of the system that every peer gets as bind mounts, and private directories.
const SYSTEM: [&str; 3] = ["/usr", "/etc", "/opt"];
const PRIVATE: [&str; 3] = ["/tmp", "/var/tmp", "/home"];
/// Directories that language runtimes read to size their thread pools.
const PROCESSORS: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];
/// Entries of `/proc` that reveal the host's state and that every user can read.
const COVERED: [&str; 5] = ["/proc/keys", "/proc/key-users", "/proc/kallsyms", "/proc/cmdline", "/proc/modules"];
/// Symbolic links of systems that have all programs in `/usr`.
const LINKS: [(&str, &str); 4] = [("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")];

/// A peer: its name in the table, and the command that runs `program` in it.
pub(super) struct Peer {
    pub name: &'static str,
    pub line: Vec<String>,
}

/// Returns the installed peers. Their files are created below `dir`, which must outlive them.
pub(super) fn installed(dir: &Path, program: &str) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    if is_installed("bwrap") {
        peers.push(Peer { name: "bwrap, everything unshared", line: bwrap(program) });
        peers.push(Peer { name: "bwrap, /usr, /proc, /dev and /tmp only", line: plain_bwrap(program) });
    }
    // For runc, every user but root is rootless; runc detects this itself only in some cases.
    let rootless = if rustix::process::geteuid().is_root() { "--rootless=false" } else { "--rootless=true" };
    for (name, runtime, options) in [
        ("crun, the same as an OCI bundle", "crun", &["--cgroup-manager=disabled"][..]),
        // runc has no option that prevents the creation of a cgroup. As an ordinary user, it creates none.
        ("runc, the same as an OCI bundle", "runc", &[rootless][..]),
        ("runsc, the same as an OCI bundle", "runsc", &["--network=none", "--ignore-cgroups"][..]),
    ] {
        if is_installed(runtime) {
            let bundle = bundle(&dir.join(runtime), program)?;
            let root = dir.join(format!("{runtime}-state")).display().to_string();
            let mut line = vec![runtime.to_owned(), "--root".to_owned(), root];
            line.extend(options.iter().map(|o| (*o).to_owned()));
            line.extend(["run".to_owned(), "--bundle".to_owned(), bundle, format!("agentd-bench-{}", std::process::id())]);
            peers.push(Peer { name, line });
        }
    }
    if is_installed("unshare") {
        let line = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--net", "--ipc", "--uts", "--cgroup"];
        let line = line.into_iter().chain(["--mount-proc", program]).map(str::to_owned).collect();
        peers.push(Peer { name: "unshare, namespaces and /proc only", line });
    }
    Ok(peers)
}

/// Returns those of `paths` that exist on this host.
fn existing(paths: &[&'static str]) -> impl Iterator<Item = &'static str> {
    paths.iter().copied().filter(|path| Path::new(path).exists())
}

pub(super) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn bwrap(program: &str) -> Vec<String> {
    let options = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"];
    let mut line: Vec<&str> = options.to_vec();
    line.extend(["--hostname", "agentd", "--proc", "/proc", "--dev", "/dev"]);
    for dir in SYSTEM.into_iter().chain(existing(&PROCESSORS)) {
        line.extend(["--ro-bind", dir, dir]);
    }
    for entry in existing(&COVERED) {
        line.extend(["--ro-bind", "/dev/null", entry]);
    }
    for (target, link) in LINKS {
        line.extend(["--symlink", target, link]);
    }
    for dir in PRIVATE {
        line.extend(["--tmpfs", dir]);
    }
    line.push(program);
    line.into_iter().map(str::to_owned).collect()
}

/// Returns the usual minimal command of bubblewrap, which shows and hides less than a sandbox of agentd.
fn plain_bwrap(program: &str) -> Vec<String> {
    let mut line = vec!["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"];
    line.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    for (target, link) in LINKS {
        line.extend(["--symlink", target, link]);
    }
    line.push(program);
    line.into_iter().map(str::to_owned).collect()
}

/// Creates a bundle of the OCI runtime specification below `dir`; returns its path.
fn bundle(dir: &Path, program: &str) -> io::Result<String> {
    let root = dir.join("rootfs");
    for place in SYSTEM.iter().chain(&PRIVATE).chain(&["/proc", "/dev"]) {
        fs::create_dir_all(root.join(place.trim_start_matches('/')))?;
    }
    for (target, link) in LINKS {
        std::os::unix::fs::symlink(target, root.join(link.trim_start_matches('/')))?;
    }
    fs::write(dir.join("config.json"), config(program).to_string())?;
    Ok(dir.display().to_string())
}

fn config(program: &str) -> Value {
    let tmpfs = |place: &str| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"] });
    let bind =
        |place: &str| json!({ "destination": place, "type": "bind", "source": place, "options": ["rbind", "ro", "nosuid"] });
    let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" }), tmpfs("/dev")];
    mounts.push(
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] }),
    );
    mounts.extend(SYSTEM.into_iter().chain(existing(&PROCESSORS)).map(bind));
    mounts.extend(PRIVATE.into_iter().map(tmpfs));
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"].into_iter().map(|kind| json!({ "type": kind })).collect();
    let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": [program],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "agentd",
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "uidMappings": map(rustix::process::geteuid().as_raw()),
            "gidMappings": map(rustix::process::getegid().as_raw()),
            "maskedPaths": COVERED,
        },
    })
}
