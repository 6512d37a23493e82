//! Access to grants, and attacks through them. `host-direct` has no grants.

use crate::{support::*, table};
use agentd::isolation::{Access, Grant, IsolationError, SandboxSpec};
use libtest_mimic::Trial;
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    if backend == "host-direct" {
        return Vec::new();
    }
    table!(
        backend,
        grant_shows_granted_directory_and_no_sibling,
        read_only_grant_in_writable_grant_cannot_be_replaced,
        protected_path_is_read_only_through_overlapping_grant,
        set_id_files_cannot_be_created_in_grant,
        copy_on_write_grant_does_not_change_host,
        grant_path_may_contain_any_bytes,
        home_is_created_at_requested_path,
    )
}

async fn granted(backend: &str, grants: Vec<Grant>) -> std::sync::Arc<dyn agentd::isolation::Sandbox> {
    with(backend, SandboxSpec { grants, ..SandboxSpec::default() }).await
}

async fn grant_shows_granted_directory_and_no_sibling(backend: &str) {
    let root = directory();
    fs::create_dir_all(root.path().join("a/b/c")).unwrap();
    fs::write(root.path().join("a/beside"), "x").unwrap();
    fs::write(root.path().join("a/b/c/inside"), "y").unwrap();
    let sandbox = granted(backend, vec![grant(&root.path().join("a/b/c"), Access::ReadWrite)]).await;
    let text =
        format!("cd {}/a/b/c && cat inside && echo z > new && test ! -e ../../beside && echo hidden", root.path().display());
    assert_eq!(out(&sh(&sandbox, &text).await), "yhidden\n");
    assert_eq!(fs::read_to_string(root.path().join("a/b/c/new")).unwrap(), "z\n");
    sandbox.destroy().await.unwrap();
}

async fn read_only_grant_in_writable_grant_cannot_be_replaced(backend: &str) {
    let root = directory();
    let inner = root.path().join("a/deep/ro");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("file"), "good").unwrap();
    let sandbox = granted(backend, vec![grant(root.path(), Access::ReadWrite), grant(&inner, Access::ReadOnly)]).await;
    for text in [
        "echo bad > a/deep/ro/file",
        "mv a a2 && mkdir -p a/deep/ro && echo bad > a/deep/ro/file",
        "mv a/deep a/d2",
        "rm -rf a/deep/ro",
    ] {
        let outcome = sh(&sandbox, &format!("cd {} && {text}", root.path().display())).await;
        assert_ne!(outcome.exit_code, Some(0), "{text}");
    }
    assert_eq!(fs::read_to_string(inner.join("file")).unwrap(), "good");
    sandbox.destroy().await.unwrap();
}

async fn copy_on_write_grant_does_not_change_host(backend: &str) {
    let root = directory();
    // Characters that have a meaning in the options of overlayfs.
    let cache = root.path().join("a,b:c\\d");
    fs::create_dir_all(cache.join("deep")).unwrap();
    fs::write(cache.join("deep/file"), "host").unwrap();
    let spec = SandboxSpec { grants: vec![grant(&cache, Access::CopyOnWrite)], ..SandboxSpec::default() };
    if backend == "gondolin" || backend == "firecracker" {
        let Err(refused) = agentd_isolation::IsolationBackend::create_sandbox(&*crate::support::backend(backend), spec).await
        else {
            panic!("a machine created a copy-on-write grant");
        };
        assert!(refused.to_string().contains("copy-on-write"), "{refused}");
        return;
    }
    let sandbox = with(backend, spec).await;
    // Before Linux 6.6, tmpfs cannot mark a directory as opaque, so a directory of the host cannot be removed.
    let text = "cat deep/file; echo x > deep/file; rm deep/file; ls -A deep; mkdir new; ls -A";
    let outcome = sh(&sandbox, &format!("cd '{}' && {{ {text}; }}", cache.display())).await;
    assert_eq!(out(&outcome), "hostdeep\nnew\n");
    sandbox.destroy().await.unwrap();
    assert_eq!(fs::read_to_string(cache.join("deep/file")).unwrap(), "host");
    assert!(!cache.join("new").exists());
}

async fn protected_path_is_read_only_through_overlapping_grant(backend: &str) {
    let root = directory();
    fs::create_dir_all(root.path().join(".git/hooks")).unwrap();
    fs::write(root.path().join(".git/hooks/pre-commit"), "mine").unwrap();
    let outer = Grant { protect: vec![".git/hooks".into()], ..grant(root.path(), Access::ReadWrite) };
    let sandbox = granted(backend, vec![outer, grant(&root.path().join(".git"), Access::ReadWrite)]).await;
    let outcome = sh(&sandbox, &format!("echo evil > {}/.git/hooks/pre-commit", root.path().display())).await;
    assert_ne!(outcome.exit_code, Some(0));
    assert_eq!(fs::read_to_string(root.path().join(".git/hooks/pre-commit")).unwrap(), "mine");
    sandbox.destroy().await.unwrap();
}

async fn set_id_files_cannot_be_created_in_grant(backend: &str) {
    let root = directory();
    let sandbox = granted(backend, vec![grant(root.path(), Access::ReadWrite)]).await;
    let bits = "import os, sys\n\
                def made(name, call):\n  try: call()\n  except OSError: return\n  print(name)\n\
                os.chdir(sys.argv[1]); open('f', 'w'); os.mkdir('d')\n\
                made('chmod', lambda: os.chmod('f', 0o4755)); made('fchmod', lambda: os.chmod(os.open('f', 0), 0o2755))\n\
                made('open', lambda: os.open('g', os.O_CREAT, 0o4755)); \
                made('unnamed', lambda: os.open('.', os.O_TMPFILE | 1, 0o4755))\n\
                made('mknod', lambda: os.mknod('h', 0o104755)); made('directory', lambda: os.chmod('d', 0o4777))\n\
                os.chmod('d', 0o2777); open('d/made', 'w'); os.rename('d/made', 'made')\n";
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", bits, root.path().to_str().unwrap()])).await.unwrap();
    for entry in fs::read_dir(root.path()).unwrap() {
        let (name, mode) = entry.map(|entry| (entry.file_name(), entry.metadata().unwrap().permissions().mode())).unwrap();
        // On a directory, set-group-id only determines the group of new files.
        // Gondolin's file server drops it.
        let harmless = if name == "d" && backend != "gondolin" { 0o2000 } else { 0 };
        assert_eq!(mode & 0o6000, harmless, "{name:?} in {}: {outcome:?}", root.path().display());
    }
    assert_eq!((out(&outcome).as_str(), outcome.exit_code), ("", Some(0)), "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

async fn grant_path_may_contain_any_bytes(backend: &str) {
    let root = directory();
    let odd = root.path().join(std::ffi::OsStr::from_bytes(b"odd \xff\n name"));
    fs::create_dir(&odd).unwrap();
    let before = bare(backend).await;
    let sandbox = granted(backend, vec![grant(&odd, Access::ReadWrite)]).await;
    assert_ne!(before.id(), sandbox.id());
    sandbox.write_file(&odd.join("file"), b"made").await.unwrap();
    assert_eq!(fs::read(odd.join("file")).unwrap(), b"made");
    for sandbox in [before, sandbox] {
        assert!(sandbox.read_file(Path::new("/etc/passwd"), 1 << 20).await.is_ok());
        sandbox.destroy().await.unwrap();
    }
}

async fn home_is_created_at_requested_path(name: &str) {
    let home = format!("/home/agentd-test-{}", std::process::id());
    let sandbox = with(name, SandboxSpec { home: Some(home.clone().into()), ..SandboxSpec::default() }).await;
    assert_eq!(out(&sh(&sandbox, &format!("cd {home} && touch made && ls -A")).await), "made\n");
    assert!(!Path::new(&home).exists());
    sandbox.destroy().await.unwrap();
    for bad in ["relative", "/home/../etc", "/", "/proc"] {
        let spec = SandboxSpec { home: Some(bad.into()), ..SandboxSpec::default() };
        assert!(matches!(backend(name).create_sandbox(spec).await, Err(IsolationError::Invalid { .. })), "{bad}");
    }
}
