//! Host name, user account, name resolution, and the files of `/etc` in a sandbox.

use crate::{support::*, table};
use agentd::isolation::{Outcome, Root, Sandbox, SandboxSpec};
use libtest_mimic::Trial;
use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    match backend {
        "host-direct" => Vec::new(),
        "linux-native" => table!(
            backend,
            own_name_and_localhost_resolve,
            payload_has_account_with_visible_home,
            lookup_without_network_fails_at_once,
            generated_etc_files_cannot_be_changed_by_command,
        ),
        "container" => table!(
            backend,
            own_name_and_localhost_resolve,
            payload_has_account_with_visible_home,
            lookup_without_network_fails_at_once,
            etc_has_same_content_as_in_linux_native,
            changes_of_etc_stay_inside_sandbox,
            hostile_image_files_are_not_followed_or_read,
        ),
        crate::support::layers::NAME => table!(
            backend,
            own_name_and_localhost_resolve,
            payload_has_account_with_visible_home,
            etc_has_same_content_as_in_linux_native
        ),
        _ => table!(
            backend,
            own_name_and_localhost_resolve,
            payload_has_account_with_visible_home,
            lookup_without_network_fails_at_once
        ),
    }
}

/// Returns the output of a script that must succeed.
#[track_caller]
fn done(outcome: &Outcome) -> String {
    assert_eq!(outcome.exit_code, Some(0), "{outcome:?}");
    out(outcome)
}

async fn own_name_and_localhost_resolve(name: &str) {
    let sandbox = bare(name).await;
    let own = "import socket; print(socket.gethostbyname(socket.gethostname()), socket.gethostbyname('localhost'))";
    assert_eq!(done(&sandbox.exec(command(&["/usr/bin/python3", "-c", own])).await.unwrap()), "127.0.0.1 127.0.0.1\n");
    assert_eq!(done(&sh(&sandbox, "getent hosts $(hostname)").await).split_whitespace().next(), Some("127.0.0.1"));
    sandbox.destroy().await.unwrap();
}

async fn payload_has_account_with_visible_home(name: &str) {
    let home = if name == "linux-native" { "/home/agent" } else { "/root" };
    let sandbox = bare(name).await;
    let text = format!("test -d {home} && test -w {home} && getent passwd $(id -u) | cut -d: -f6; getent group $(id -g) | wc -l");
    assert_eq!(done(&sh(&sandbox, &text).await), format!("{home}\n1\n"));
    sandbox.destroy().await.unwrap();
}

async fn lookup_without_network_fails_at_once(name: &str) {
    let sandbox = bare(name).await;
    // The lookup must return "no such host". After "try again later", package managers would retry for a minute.
    let look = "import socket\ntry: socket.getaddrinfo('example.com', 80)\n\
        except socket.gaierror as e: print(e.errno == socket.EAI_NONAME)";
    assert_eq!(done(&sandbox.exec(command(&["/usr/bin/python3", "-c", look])).await.unwrap()), "True\n");
    // A C library without `nsswitch.conf` queries name servers directly, so none may be configured.
    assert_eq!(done(&sh(&sandbox, "grep -c ^nameserver /etc/resolv.conf || true").await), "0\n");
    sandbox.destroy().await.unwrap();
}

async fn generated_etc_files_cannot_be_changed_by_command(name: &str) {
    let sandbox = bare(name).await;
    let files = "passwd group hosts nsswitch.conf";
    let before = done(&sh(&sandbox, &format!("cd /etc; cat {files}; stat -c '%a %Y' {files}")).await);
    let change = format!(
        "cd /etc; for f in {files}; do echo x >>$f || chmod 000 $f || touch -d 2000-01-01 $f || mv $f /tmp || rm -f $f || \
         ln -f $f /tmp/link || echo kept; done"
    );
    assert_eq!(out(&sh(&sandbox, &change).await), "kept\n".repeat(4));
    assert_eq!(done(&sh(&sandbox, &format!("cd /etc; cat {files}; stat -c '%a %Y' {files}")).await), before);
    sandbox.destroy().await.unwrap();
}

/// Returns digests of all world-readable files in `/etc`, except those that contain the sandbox's names.
async fn configuration(sandbox: &Arc<dyn Sandbox>) -> String {
    let text = "cd /etc; find . -type d ! -perm -005 -prune -o -type f -perm -004 -readable ! -name passwd ! -name group \
        ! -name hosts ! -name hostname ! -name '*.conf' -exec sha256sum {} + | sort -k 2; \
                find . -type d ! -perm -005 -prune -o -type l -printf '%p %l\\n' | sort";
    done(&sh(sandbox, text).await)
}

async fn etc_has_same_content_as_in_linux_native(name: &str) {
    let (sandbox, native) = (bare(name).await, bare("linux-native").await);
    let shown = configuration(&native).await;
    assert!(shown.lines().count() > 50, "{shown}");
    assert_eq!(configuration(&sandbox).await, shown);
    sandbox.destroy().await.unwrap();
    native.destroy().await.unwrap();
}

async fn changes_of_etc_stay_inside_sandbox(name: &str) {
    let before = fs::read("/etc/passwd").unwrap();
    let sandbox = bare(name).await;
    let change = "set -e; echo x >/etc/made; mkdir /etc/directory; rm /etc/passwd; echo y >/etc/passwd; \
        mv /etc/hosts /etc/moved; rm /etc/localtime; cat /etc/made /etc/passwd";
    assert_eq!(done(&sh(&sandbox, change).await), "x\ny\n");
    assert_eq!(done(&sh(&sandbox, "cat /etc/passwd; test ! -e /etc/hosts; test -s /etc/moved").await), "y\n");
    sandbox.destroy().await.unwrap();
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!Path::new("/etc/made").exists() && !Path::new("/etc/directory").exists() && !Path::new("/etc/moved").exists());
}

async fn hostile_image_files_are_not_followed_or_read(name: &str) {
    let (image, outside) = (directory(), directory());
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let etc = image.path().join("etc");
    fs::create_dir(&etc).unwrap();
    // A link out of the image, a FIFO, a file that is too large, and a directory.
    symlink(&secret, etc.join("passwd")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, etc.join("group"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    fs::File::create(etc.join("hosts")).unwrap().set_len(1 << 33).unwrap();
    fs::create_dir(etc.join("hostname")).unwrap();
    symlink("../../../../../../etc/shadow", etc.join("resolv.conf")).unwrap();
    fs::create_dir(image.path().join("bin")).unwrap();
    fs::copy("/usr/bin/busybox", image.path().join("bin/sh")).unwrap();
    let linked = directory();
    symlink(outside.path(), linked.path().join("etc")).unwrap();
    fs::create_dir(linked.path().join("bin")).unwrap();
    fs::copy("/usr/bin/busybox", linked.path().join("bin/sh")).unwrap();
    for (layer, script, expected) in [
        (
            image.path(),
            "test -L /etc/passwd && test -p /etc/group && test -d /etc/hostname && cat /etc/resolv.conf",
            "lookups fail",
        ),
        (linked.path(), "test -L /etc && echo started", "started"),
    ] {
        fs::set_permissions(layer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let spec = SandboxSpec { root: Root::Layers(vec![layer.into()]), ..SandboxSpec::default() };
        let sandbox = with(name, spec).await;
        assert!(done(&sh(&sandbox, script).await).contains(expected), "{script}");
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(etc.join("resolv.conf").is_symlink());
}
