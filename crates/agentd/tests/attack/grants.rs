//! Attacks on grants, through the library. A payload prepares the tree on the host, or the tree that is copied back, and a later
//! step of the host must not follow its links. Backends mount the grant, share it over FUSE, or copy it into a guest and back.

use crate::{
    exchange::{Exchange, MAX_ATTEMPTS},
    support::{self, backend, grant, out, script},
};
use agentd::isolation::{Access, Grant, IsolationError, Sandbox, SandboxSpec, grants::pin};
use libtest_mimic::Trial;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// The content of the secret.
const KEY: &str = "the key to all";

/// The minimum number of sandboxes requested while the grant is exchanged with a link. The number for machines is smaller,
/// although most requests fail before a machine starts.
const REQUESTS: u32 = 150;
const REQUESTS_OF_MACHINE: u32 = 12;

/// Returns the attacks for each backend with a boundary.
pub fn trials(backends: &[&'static str]) -> Vec<Trial> {
    let of = |name: &'static str| {
        [
            support::trial(format!("{name}::grant_exchanged_with_link_shows_no_secret"), move || exchanged(name)),
            support::trial(format!("{name}::grant_relinked_by_payload_is_refused_at_next_start"), move || relinked(name)),
            support::trial(format!("{name}::grant_relinked_by_a_payload_is_not_followed_by_restore_and_fork"), move || {
                restored(name)
            }),
            support::trial(format!("{name}::read_only_grant_in_writable_grant_is_read_only_by_both_names"), move || nested(name)),
        ]
    };
    backends.iter().flat_map(|name| of(name)).collect()
}

/// A secret, and next to it a project that payloads may write to.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(support::directory());
        fs::create_dir_all(host.path("project/docs")).unwrap();
        fs::write(host.path("project/docs/file"), "no key").unwrap();
        fs::create_dir(host.path("secret")).unwrap();
        for name in ["secret/key", "secret/file"] {
            fs::write(host.path(name), KEY).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn assert_secret_is_whole(&self) {
        let mut names: Vec<_> = fs::read_dir(self.path("secret")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "key"]);
        for name in ["secret/key", "secret/file"] {
            assert_eq!(fs::read_to_string(self.path(name)).unwrap(), KEY);
        }
    }
}

fn spec(grants: Vec<Grant>) -> SandboxSpec {
    SandboxSpec { grants, ..SandboxSpec::default() }
}

async fn create(name: &str, grants: Vec<Grant>) -> Result<Arc<dyn Sandbox>, IsolationError> {
    backend(name).create_sandbox(spec(grants)).await
}

/// Runs a script. An error is allowed, because copying back may be refused; the test checks the files on the host.
async fn try_sh(sandbox: &Arc<dyn Sandbox>, text: &str) -> String {
    let outcome = sandbox.exec(script(text)).await;
    let printed = outcome.as_ref().map(out).unwrap_or_default();
    assert!(!printed.contains(KEY), "{text}: {outcome:?}");
    printed
}

/// Another thread exchanges the grant with a link to the secret while the grant is resolved, copied in, used and copied back.
async fn exchanged(name: &'static str) {
    let host = Host::new();
    let (docs, link) = (host.path("project/docs"), host.path("project/link"));
    symlink(host.path("secret"), &link).unwrap();
    fs::write(docs.join("mark"), "granted").unwrap();
    let text =
        format!("cd {0}; cat * 2>/dev/null; echo x >planted; echo x >file; cat {0}/key {0}/../link/key; true", docs.display());
    // Undisturbed, the grant is shown: a version that refuses everything does not pass.
    let sandbox = create(name, vec![grant(&docs, Access::ReadWrite)]).await.unwrap();
    assert!(try_sh(&sandbox, &text).await.contains("granted"));
    sandbox.destroy().await.unwrap();
    let exchange = Exchange::begin(&docs, &link);
    let (mut created, mut shown, mut refused) = (0, 0, 0);
    for request in 0.. {
        // One machine suffices, because it starts slowly.
        let enough =
            if is_machine(name) { created > 0 || request >= REQUESTS_OF_MACHINE } else { shown > 0 && request >= REQUESTS };
        if enough && refused > 0 {
            break;
        }
        assert!(request < MAX_ATTEMPTS, "{created} sandboxes were created, {shown} showed the grant, {refused} were refused");
        let Ok(sandbox) = create(name, vec![grant(&docs, Access::ReadWrite)]).await else {
            refused += 1;
            continue;
        };
        created += 1;
        shown += u32::from(try_sh(&sandbox, &text).await.contains("granted"));
        sandbox.destroy().await.ok();
    }
    drop(exchange);
    host.assert_secret_is_whole();
}

/// Returns whether the backend starts so slowly that one sandbox must suffice.
fn is_machine(name: &str) -> bool {
    !["linux-native", "container", support::layers::NAME].contains(&name)
}

/// A payload replaces a directory in its grant by links and other objects. No later start may follow a link, and copying the tree
/// back may not write through one.
async fn relinked(name: &'static str) {
    let host = Host::new();
    let (project, docs, secret) = (host.path("project"), host.path("project/docs"), host.path("secret"));
    let mut pinned = spec(vec![grant(&docs, Access::ReadWrite)]);
    pin(&mut pinned).unwrap();
    let sandbox = create(name, vec![grant(&project, Access::ReadWrite)]).await.unwrap();
    prepare_tree(&sandbox, &project, &secret).await;
    host.assert_secret_is_whole();
    assert_no_special_files(&project);
    for path in ["docs/key", "docs/file", "deep/up/secret/key"] {
        let read = sandbox.read_file(&project.join(path), 1024).await.unwrap_or_default();
        assert_ne!(read, KEY.as_bytes(), "{path}");
        sandbox.write_file(&project.join(path), b"planted").await.ok();
    }
    host.assert_secret_is_whole();
    relink_on_the_host(&sandbox, &project, &secret).await;
    sandbox.destroy().await.ok();
    host.assert_secret_is_whole();
    assert!(docs.symlink_metadata().unwrap().is_symlink());
    let refused = create(name, pinned.grants.clone()).await.map(drop);
    assert!(matches!(refused, Err(IsolationError::GrantChanged(_))), "{refused:?}");
    let refused = create(name, vec![grant(&docs, Access::ReadOnly)]).await.map(drop);
    assert!(matches!(refused, Err(IsolationError::Invalid { .. })), "{refused:?}");
    // If the directory with the links is granted, the links do not lead to host files.
    let sandbox = create(name, vec![grant(&project, Access::ReadWrite)]).await.unwrap();
    let place = project.display();
    try_sh(&sandbox, &format!("cd {place}; cat docs/key docs/file deep/up/secret/key one/file; echo x >docs/planted; true"))
        .await;
    sandbox.destroy().await.ok();
    host.assert_secret_is_whole();
}

/// Saves a sandbox, whose grant the payload of another sandbox then replaces. Saves the sandbox again, restores it and forks it.
/// Each of these operations either fails, or shows only granted objects.
async fn restored(name: &'static str) {
    let host = Host::new();
    let (project, docs, secret) = (host.path("project"), host.path("project/docs"), host.path("secret"));
    // A machine with a writable grant cannot be saved, because the grant's files could not be taken back.
    let access = if is_machine(name) { Access::ReadOnly } else { Access::ReadWrite };
    let sandbox = create(name, vec![grant(&docs, access)]).await.unwrap();
    let saved = sandbox.snapshot("before").await;
    // `container` saves only sandboxes with layers, which `support::layers` has.
    assert_eq!(saved.is_ok(), !["linux-native", "container", support::machine::NAME].contains(&name), "{saved:?}");
    let payload = create(name, vec![grant(&project, Access::ReadWrite)]).await.unwrap();
    try_sh(&payload, &format!("cd {}; mv docs d2; ln -s {} docs", project.display(), secret.display())).await;
    payload.destroy().await.ok();
    assert!(docs.symlink_metadata().unwrap().is_symlink());
    sandbox.snapshot("after").await.ok();
    for state in ["before", "after"] {
        sandbox.restore(state).await.ok();
        use_grant(&sandbox, &docs).await;
        host.assert_secret_is_whole();
        match sandbox.fork().await {
            Ok(copy) => {
                use_grant(&copy, &docs).await;
                copy.destroy().await.ok();
            }
            Err(error) => {
                // Gondolin's restore has failed for the same reason before, and has ended the machine.
                let expected = matches!(
                    error,
                    IsolationError::GrantChanged(_) | IsolationError::Unsupported { .. } | IsolationError::SandboxGone(_)
                );
                assert!(expected, "{error:?}");
            }
        }
        host.assert_secret_is_whole();
    }
    sandbox.destroy().await.ok();
    host.assert_secret_is_whole();
}

/// Reads and writes, from inside and through the backend, paths that would lead to the secret if a link in the grant were
/// followed.
async fn use_grant(sandbox: &Arc<dyn Sandbox>, docs: &Path) {
    try_sh(sandbox, &format!("cd {}; cat key file; echo x >planted; echo x >file; echo x >key; rm -f key; true", docs.display()))
        .await;
    for file in ["key", "file"] {
        let read = sandbox.read_file(&docs.join(file), 1024).await.unwrap_or_default();
        assert_ne!(read, KEY.as_bytes(), "{file}");
        sandbox.write_file(&docs.join(file), b"planted").await.ok();
    }
}

/// Creates links and special files inside that must not be followed when the tree is copied back or shared.
async fn prepare_tree(sandbox: &Arc<dyn Sandbox>, project: &Path, secret: &Path) {
    let (place, secret) = (project.display(), secret.display());
    // Also create the path of the secret inside, so that writing through the links succeeds there.
    let text = format!(
        "cd {place} || exit; mkdir -p {secret}; mv docs d2; ln -s {secret} docs; mkdir -p deep one; ln -s ../.. deep/up
        ln -s {secret}/file one/file; echo x >docs/planted; echo x >one/file; echo x >deep/up/secret/planted
        mkfifo fifo; echo x >set; chmod 6755 set; ln set d2/hard; mknod null c 1 3; python3 -c '
import os, socket
socket.socket(socket.AF_UNIX).bind(\"socket\")'; true"
    );
    try_sh(sandbox, &text).await;
}

/// Replaces directories of the grant by links on the host, as another payload could. Later writes of the sandbox must not reach
/// the secret.
async fn relink_on_the_host(sandbox: &Arc<dyn Sandbox>, project: &Path, secret: &Path) {
    let place = project.display();
    try_sh(sandbox, &format!("cd {place}; mkdir -p a/b; echo 1 >a/file; echo 1 >a/b/file; echo 1 >beside; true")).await;
    fs::remove_file(project.join("beside")).ok();
    symlink(secret.join("file"), project.join("beside")).unwrap();
    if project.join("a").exists() {
        fs::rename(project.join("a"), project.join("moved")).unwrap();
    }
    symlink(secret, project.join("a")).unwrap();
    try_sh(sandbox, &format!("cd {place}; echo 2 >a/file; echo 2 >a/new; rm -f a/key; echo 2 >beside; true")).await;
    sandbox.write_file(&project.join("a/file"), b"planted").await.ok();
}

/// Asserts that no file below `place` on the host is a device or has set-id bits.
fn assert_no_special_files(place: &Path) {
    for entry in fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        assert!(meta.is_dir() || meta.mode() & 0o6000 == 0, "{}: {:o}", path.display(), meta.mode());
        assert_eq!(meta.rdev(), 0, "{}", path.display());
        if meta.is_dir() {
            assert_no_special_files(&path);
        }
    }
}

/// An object that is read-only under one name is read-only under its other name. Uses remapped grants if the backend supports
/// them.
async fn nested(name: &'static str) {
    let host = Host::new();
    let (project, docs) = (host.path("project"), host.path("project/docs"));
    let remaps = name != "linux-native";
    let shown = |path: &Path, access, target: &str| Grant { target: remaps.then(|| target.into()), ..grant(path, access) };
    let grants = vec![shown(&project, Access::ReadWrite, "/w"), shown(&docs, Access::ReadOnly, "/r")];
    let sandbox = create(name, grants).await.unwrap();
    let (outer, inner) = if remaps { ("/w".into(), "/r".into()) } else { (project.clone(), docs.clone()) };
    let text = format!(
        "w={}; r={}; echo x >$w/docs/file; echo x >$r/file; ln $w/docs/file $w/hard && echo x >$w/hard
        mv $w/docs $w/d2 && echo x >$w/d2/file; rm -rf $w/docs; mkdir -p $w/docs; echo x >$w/docs/file; echo x >$w/docs/new
        chmod 777 $w/docs/file; cd $w/docs && echo x >file; echo made >$w/made",
        outer.display(),
        inner.display()
    );
    try_sh(&sandbox, &text).await;
    sandbox.write_file(&outer.join("docs/file"), b"planted").await.ok();
    sandbox.destroy().await.ok();
    assert_eq!(fs::read_to_string(docs.join("file")).unwrap(), "no key");
    assert_eq!(fs::read_dir(&docs).unwrap().count(), 1);
    host.assert_secret_is_whole();
}
