//! Files, read and written by the supervisor from inside the boundary.

use crate::{support::*, table};
use agentd_isolation::{Access, DiskLayers, Grant, IsolationError, Root, SandboxSpec, Writable};
use libtest_mimic::Trial;
use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        bytes_come_back_as_they_were_written,
        what_is_not_a_file_is_an_error,
        a_limit_on_reading_holds,
        a_file_is_carried_between_descriptors_in_pieces,
        what_hinders_a_file_from_being_carried_is_an_error,
        what_belongs_into_another_root_is_not_shown_the_hosts,
        changes_on_disk_are_kept_and_stacked,
    )
}

/// A directory that takes the changes of a root.
fn top() -> tempfile::TempDir {
    let top = directory();
    for name in ["tree", "work"] {
        std::fs::create_dir(top.path().join(name)).unwrap();
    }
    top
}

async fn changes_on_disk_are_kept_and_stacked(name: &str) {
    let tops = [top(), top(), top()];
    let spec = |sealed, top: std::path::PathBuf| SandboxSpec {
        writable: Writable::Disk(DiskLayers { sealed, top }),
        ..SandboxSpec::default()
    };
    if !name.starts_with("container") {
        let refused = backend(name).create_sandbox(spec(Vec::new(), tops[0].path().into())).await.err();
        assert!(matches!(refused, Some(IsolationError::Invalid { .. })), "{refused:?}");
        return;
    }
    let steps = [
        (0, "echo one >/kept; mkdir -p /etc/dir; echo two >/etc/dir/file; echo own >/etc/hostname"),
        (1, "test $(cat /kept /etc/dir/file /etc/hostname | tr -d '\\n') = onetwoown; rm /kept; rm -r /etc/dir; mkdir /etc/dir"),
        (2, "! test -e /kept; test -z \"$(ls /etc/dir)\"; test $(cat /etc/hostname) = own"),
    ];
    for (below, script) in steps {
        let sealed = tops[..below].iter().map(|top| top.path().join("tree")).collect();
        let sandbox = backend(name).create_sandbox(spec(sealed, tops[below].path().into())).await.unwrap();
        let outcome = sh(&sandbox, &format!("set -e; {script}")).await;
        assert_eq!(outcome.exit_code, Some(0), "{script}: {outcome:?}");
        sandbox.destroy().await.unwrap();
    }
    // What was below is as it was, and its files belong to who made the sandbox.
    let kept = tops[0].path().join("tree/kept");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "one\n");
    assert_eq!(std::fs::metadata(kept).unwrap().uid(), rustix::process::geteuid().as_raw());
}

async fn what_belongs_into_another_root_is_not_shown_the_hosts(name: &str) {
    let layer = directory();
    let moved = Grant { target: Some("/elsewhere".into()), ..grant(layer.path(), Access::ReadOnly) };
    let layers = SandboxSpec { root: Root::Layers(vec![layer.path().into()]), ..SandboxSpec::default() };
    let grants = SandboxSpec { grants: vec![moved], ..SandboxSpec::default() };
    // Those with a root of their own show a grant elsewhere; what a machine is made of is not its agent's matter.
    for (spec, able) in [
        (layers, &["container", layers::NAME][..]),
        (grants, &["container", layers::NAME, "gondolin", "firecracker", machine::NAME]),
    ] {
        match backend(name).create_sandbox(spec).await {
            Ok(sandbox) => {
                assert!(able.contains(&name));
                sandbox.destroy().await.unwrap();
            }
            Err(error) => assert!(!able.contains(&name) && matches!(error, IsolationError::Invalid { .. }), "{error}"),
        }
    }
}

async fn bytes_come_back_as_they_were_written(backend: &str) {
    let sandbox = bare(backend).await;
    let path = format!("/tmp/agentd-test-{}-{backend}", std::process::id());
    let path = Path::new(&path);
    let content: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    sandbox.write_file(path, &content).await.unwrap();
    assert_eq!(sandbox.read_file(path, 1 << 20).await.unwrap(), content);
    sandbox.write_file(path, b"").await.unwrap();
    assert_eq!(sandbox.read_file(path, 1 << 20).await.unwrap(), b"");
    sh(&sandbox, &format!("rm {}", path.display())).await;
    sandbox.destroy().await.unwrap();
}

async fn what_is_not_a_file_is_an_error(backend: &str) {
    let sandbox = bare(backend).await;
    let errno = |result: Result<Vec<u8>, IsolationError>| match result {
        Err(IsolationError::File { errno, .. }) => errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(errno(sandbox.read_file(Path::new("/no/such/file"), 10).await), libc::ENOENT);
    assert_eq!(errno(sandbox.read_file(Path::new("/usr"), 10).await), libc::EISDIR);
    // A device has no end.
    assert_eq!(errno(sandbox.read_file(Path::new("/dev/zero"), 10).await), libc::EISDIR);
    sandbox.destroy().await.unwrap();
}

async fn a_limit_on_reading_holds(backend: &str) {
    let sandbox = bare(backend).await;
    let result = sandbox.read_file(Path::new("/etc/passwd"), 3).await;
    assert!(matches!(result, Err(IsolationError::File { errno: libc::EFBIG, .. })), "{result:?}");
    assert!(!sandbox.read_file(Path::new("/etc/passwd"), u64::MAX).await.unwrap().is_empty());
    sandbox.destroy().await.unwrap();
}

async fn a_file_is_carried_between_descriptors_in_pieces(backend: &str) {
    let sandbox = bare(backend).await;
    let path = format!("/tmp/agentd-carried-{}-{backend}", std::process::id());
    let path = Path::new(&path);
    // More than any pipe, window or buffer has room for.
    let content: Vec<u8> = (0..3u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let length = content.len() as u64;
    let (from, mut to) = std::io::pipe().unwrap();
    let given = content.clone();
    let giver = std::thread::spawn(move || to.write_all(&given).unwrap());
    assert_eq!(sandbox.write_file_from(path, from.into()).await.unwrap(), length);
    giver.join().unwrap();
    let (mut from, to) = std::io::pipe().unwrap();
    let taker = std::thread::spawn(move || {
        let mut taken = Vec::new();
        from.read_to_end(&mut taken).unwrap();
        taken
    });
    assert_eq!(sandbox.read_file_to(path, length, to.into()).await.unwrap(), length);
    assert!(taker.join().unwrap() == content);
    // And between files.
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(sandbox.read_file_to(path, length, file.try_clone().unwrap().into()).await.unwrap(), length);
    file.rewind().unwrap();
    assert_eq!(sandbox.write_file_from(path, file.into()).await.unwrap(), length);
    assert!(sandbox.read_file(path, u64::MAX).await.unwrap() == content);
    sh(&sandbox, &format!("rm {}", path.display())).await;
    sandbox.destroy().await.unwrap();
}

async fn what_hinders_a_file_from_being_carried_is_an_error(backend: &str) {
    let sandbox = bare(backend).await;
    let nowhere = || File::options().write(true).open("/dev/null").unwrap().into();
    for (path, limit, expected) in
        [("/no/such/file", 10, libc::ENOENT), ("/usr", 10, libc::EISDIR), ("/etc/passwd", 3, libc::EFBIG)]
    {
        let error = sandbox.read_file_to(Path::new(path), limit, nowhere()).await;
        assert!(matches!(error, Err(IsolationError::File { errno, .. }) if errno == expected), "{path}: {error:?}");
    }
    let from = File::open("/dev/null").unwrap().into();
    let error = sandbox.write_file_from(Path::new("/no/such/directory/file"), from).await;
    assert!(matches!(error, Err(IsolationError::File { errno: libc::ENOENT, .. })), "{error:?}");
    // The caller's own ends: one that nobody reads, and one that cannot be read.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let error = sandbox.read_file_to(Path::new("/etc/passwd"), u64::MAX, writer.into()).await;
    assert!(matches!(error, Err(IsolationError::Io { .. })), "{error:?}");
    let path = format!("/tmp/agentd-hindered-{}-{backend}", std::process::id());
    let error = sandbox.write_file_from(Path::new(&path), File::open("/").unwrap().into()).await;
    assert!(matches!(error, Err(IsolationError::Io { .. })), "{error:?}");
    sh(&sandbox, &format!("rm -f {path}; :")).await;
    sandbox.destroy().await.unwrap();
}
