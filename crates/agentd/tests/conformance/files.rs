//! Files that the supervisor reads and writes inside the boundary, and layers.

use crate::{support::*, table};
use agentd::isolation::{Access, DiskLayers, Grant, IsolationError, Root, SandboxSpec, Writable};
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
        written_file_is_read_back_unchanged,
        read_of_missing_file_directory_or_device_fails,
        read_of_file_above_limit_fails,
        large_file_is_copied_between_descriptors,
        copy_between_unusable_descriptors_or_paths_fails,
        layers_and_remapped_grants_fail_without_own_root,
        disk_layers_are_kept_and_stacked,
    )
}

/// Creates an upper layer: directories for the changes and for overlayfs' work directory.
fn upper() -> tempfile::TempDir {
    let upper = directory();
    for name in ["tree", "work"] {
        std::fs::create_dir(upper.path().join(name)).unwrap();
    }
    upper
}

async fn disk_layers_are_kept_and_stacked(name: &str) {
    let uppers = [upper(), upper(), upper()];
    let spec = |lower, upper: std::path::PathBuf| SandboxSpec {
        writable: Writable::KeptLayers(DiskLayers { lower, upper }),
        ..SandboxSpec::default()
    };
    if !name.starts_with("container") {
        let refused = backend(name).create_sandbox(spec(Vec::new(), uppers[0].path().into())).await.err();
        assert!(matches!(refused, Some(IsolationError::Invalid { .. })), "{refused:?}");
        return;
    }
    let steps = [
        (0, "echo one >/kept; mkdir -p /etc/dir; echo two >/etc/dir/file; echo own >/etc/hostname"),
        (1, "test $(cat /kept /etc/dir/file /etc/hostname | tr -d '\\n') = onetwoown; rm /kept; rm -r /etc/dir; mkdir /etc/dir"),
        (2, "! test -e /kept; test -z \"$(ls /etc/dir)\"; test $(cat /etc/hostname) = own"),
    ];
    for (below, script) in steps {
        let lower = uppers[..below].iter().map(|upper| upper.path().join("tree")).collect();
        let sandbox = backend(name).create_sandbox(spec(lower, uppers[below].path().into())).await.unwrap();
        let outcome = sh(&sandbox, &format!("set -e; {script}")).await;
        assert_eq!(outcome.exit_code, Some(0), "{script}: {outcome:?}");
        sandbox.destroy().await.unwrap();
    }
    // The lower layers are unchanged, and their files belong to the caller.
    let kept = uppers[0].path().join("tree/kept");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "one\n");
    assert_eq!(std::fs::metadata(kept).unwrap().uid(), rustix::process::geteuid().as_raw());
}

async fn layers_and_remapped_grants_fail_without_own_root(name: &str) {
    let layer = directory();
    let moved = Grant { target: Some("/elsewhere".into()), ..grant(layer.path(), Access::ReadOnly) };
    let layers = SandboxSpec { root: Root::Layers(vec![layer.path().into()]), ..SandboxSpec::default() };
    let grants = SandboxSpec { grants: vec![moved], ..SandboxSpec::default() };
    // Backends with a private root can remap a grant. Virtual machines reject images.
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

async fn written_file_is_read_back_unchanged(backend: &str) {
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

async fn read_of_missing_file_directory_or_device_fails(backend: &str) {
    let sandbox = bare(backend).await;
    let errno = |result: Result<Vec<u8>, IsolationError>| match result {
        Err(IsolationError::File { errno, .. }) => errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(errno(sandbox.read_file(Path::new("/no/such/file"), 10).await), libc::ENOENT);
    assert_eq!(errno(sandbox.read_file(Path::new("/usr"), 10).await), libc::EISDIR);
    // A device is rejected, because reading it may never end.
    assert_eq!(errno(sandbox.read_file(Path::new("/dev/zero"), 10).await), libc::EISDIR);
    sandbox.destroy().await.unwrap();
}

async fn read_of_file_above_limit_fails(backend: &str) {
    let sandbox = bare(backend).await;
    let result = sandbox.read_file(Path::new("/etc/passwd"), 3).await;
    assert!(matches!(result, Err(IsolationError::File { errno: libc::EFBIG, .. })), "{result:?}");
    assert!(!sandbox.read_file(Path::new("/etc/passwd"), u64::MAX).await.unwrap().is_empty());
    sandbox.destroy().await.unwrap();
}

async fn large_file_is_copied_between_descriptors(backend: &str) {
    let sandbox = bare(backend).await;
    let path = format!("/tmp/agentd-carried-{}-{backend}", std::process::id());
    let path = Path::new(&path);
    // The content is larger than any pipe, flow control window or buffer.
    let content: Vec<u8> = (0..3u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let length = content.len() as u64;
    let (from, mut to) = std::io::pipe().unwrap();
    let given = content.clone();
    let writer_thread = std::thread::spawn(move || to.write_all(&given).unwrap());
    assert_eq!(sandbox.write_file_from(path, from.into()).await.unwrap(), length);
    writer_thread.join().unwrap();
    let (mut from, to) = std::io::pipe().unwrap();
    let reader_thread = std::thread::spawn(move || {
        let mut taken = Vec::new();
        from.read_to_end(&mut taken).unwrap();
        taken
    });
    assert_eq!(sandbox.read_file_to(path, length, to.into()).await.unwrap(), length);
    assert!(reader_thread.join().unwrap() == content);
    // Also copy between regular files.
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(sandbox.read_file_to(path, length, file.try_clone().unwrap().into()).await.unwrap(), length);
    file.rewind().unwrap();
    assert_eq!(sandbox.write_file_from(path, file.into()).await.unwrap(), length);
    assert!(sandbox.read_file(path, u64::MAX).await.unwrap() == content);
    sh(&sandbox, &format!("rm {}", path.display())).await;
    sandbox.destroy().await.unwrap();
}

async fn copy_between_unusable_descriptors_or_paths_fails(backend: &str) {
    let sandbox = bare(backend).await;
    let null = || File::options().write(true).open("/dev/null").unwrap().into();
    for (path, limit, expected) in
        [("/no/such/file", 10, libc::ENOENT), ("/usr", 10, libc::EISDIR), ("/etc/passwd", 3, libc::EFBIG)]
    {
        let error = sandbox.read_file_to(Path::new(path), limit, null()).await;
        assert!(matches!(error, Err(IsolationError::File { errno, .. }) if errno == expected), "{path}: {error:?}");
    }
    let from = File::open("/dev/null").unwrap().into();
    let error = sandbox.write_file_from(Path::new("/no/such/directory/file"), from).await;
    assert!(matches!(error, Err(IsolationError::File { errno: libc::ENOENT, .. })), "{error:?}");
    // Errors of the caller's descriptors: a pipe without a reader, and a directory.
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
