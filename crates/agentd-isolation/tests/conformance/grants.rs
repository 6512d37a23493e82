//! What is granted, and what that must not open. `host-direct` has no grants.

use crate::{support::*, table};
use agentd_isolation::{Access, Grant, IsolationError, SandboxSpec};
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
        a_grant_shows_what_it_names_and_nothing_beside_it,
        a_read_only_grant_in_a_writable_one_cannot_be_replaced,
        a_protected_path_stays_as_it_is_though_another_grant_shows_it,
        nobody_becomes_the_caller_by_what_is_left_in_a_grant,
        any_bytes_are_a_path,
        a_home_is_where_it_is_asked_for,
    )
}

async fn granted(backend: &str, grants: Vec<Grant>) -> std::sync::Arc<dyn agentd_isolation::Sandbox> {
    with(backend, SandboxSpec { grants, ..SandboxSpec::default() }).await
}

async fn a_grant_shows_what_it_names_and_nothing_beside_it(backend: &str) {
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

async fn a_read_only_grant_in_a_writable_one_cannot_be_replaced(backend: &str) {
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

async fn a_protected_path_stays_as_it_is_though_another_grant_shows_it(backend: &str) {
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

async fn nobody_becomes_the_caller_by_what_is_left_in_a_grant(backend: &str) {
    let root = directory();
    let sandbox = granted(backend, vec![grant(root.path(), Access::ReadWrite)]).await;
    let bits = "import os, sys\n\
                def made(name, call):\n  try: call()\n  except OSError: return\n  print(name)\n\
                os.chdir(sys.argv[1]); open('f', 'w'); os.mkdir('d')\n\
                made('chmod', lambda: os.chmod('f', 0o4755)); made('fchmod', lambda: os.chmod(os.open('f', 0), 0o2755))\n\
                made('open', lambda: os.open('g', os.O_CREAT, 0o4755)); made('unnamed', lambda: os.open('.', os.O_TMPFILE | 1, 0o4755))\n\
                made('group', lambda: os.chmod('d', 0o2777)); made('mknod', lambda: os.mknod('h', 0o104755))\n";
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", bits, root.path().to_str().unwrap()])).await.unwrap();
    for entry in fs::read_dir(root.path()).unwrap() {
        let (name, mode) = entry.map(|entry| (entry.file_name(), entry.metadata().unwrap().permissions().mode())).unwrap();
        assert_eq!(mode & 0o6000, 0, "{name:?} in {}: {outcome:?}", root.path().display());
    }
    assert_eq!((out(&outcome).as_str(), outcome.exit_code), ("", Some(0)), "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

async fn any_bytes_are_a_path(backend: &str) {
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

async fn a_home_is_where_it_is_asked_for(name: &str) {
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
