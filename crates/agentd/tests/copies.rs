//! Copied grants: files are copied into a machine, and changes are copied back. The conformance suite tests the behaviour that
//! all grants share, including copied grants.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[macro_use]
#[path = "support/on_test_machine.rs"]
mod on_test_machine;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{Access, Command, Grant, IsolationError, Sandbox, SandboxSpec, StdinSource, guest::GuestSandbox};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use support::{
    directory, grant,
    machine::{MAX_COPIED, Machines, Process, open_with_copies},
    out, script,
};

on_test_machine! {
    changes_are_copied_back_when_command_ends,
    files_not_changed_inside_keep_content_of_host,
    times_and_modes_are_copied_in_and_back,
    single_file_can_be_granted,
    copy_uses_rights_of_owner_of_grant,
    grant_above_copy_limit_fails_with_remedy,
    changes_of_running_command_are_copied_back_at_destroy,
    grant_replaced_by_link_is_copied_back_to_original_directory,
    snapshot_and_fork_with_read_write_grant_fail,
}

async fn open(grants: Vec<Grant>) -> Result<Arc<GuestSandbox>, IsolationError> {
    let (machine, socket) = Process::listening(&Machines::new());
    open_with_copies(Machines::new().id(), &machine, &socket, SandboxSpec { grants, ..SandboxSpec::default() }).await
}

async fn sh(sandbox: &GuestSandbox, place: &Path, text: &str) -> String {
    let outcome = sandbox.exec(Command { cwd: Some(place.to_path_buf()), ..script(text) }).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0), "{text}: {outcome:?}");
    out(&outcome)
}

/// Lists the names and the file contents below a directory.
fn contents(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let name = path.file_name().unwrap().display().to_string();
        match () {
            () if kind.is_symlink() => found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display())),
            () if kind.is_dir() => {
                found.push(format!("{name}/"));
                found.extend(contents(&path).into_iter().map(|below| format!("{name}/{below}")));
            }
            () => found.push(format!("{name} = {}", fs::read_to_string(&path).unwrap())),
        }
    }
    found.sort();
    found
}

async fn changes_are_copied_back_when_command_ends() {
    let root = directory();
    let place = root.path();
    fs::create_dir_all(place.join("tree/deep")).unwrap();
    fs::write(place.join("tree/deep/file"), "1").unwrap();
    fs::write(place.join("removed"), "2").unwrap();
    fs::write(place.join("becomes-directory"), "3").unwrap();
    let sandbox = open(vec![grant(place, Access::ReadWrite)]).await.unwrap();
    sh(&sandbox, place, "printf new >new; rm removed; mv tree moved; ln -s new link; mkdir empty; mkfifo pipe").await;
    let wanted = ["becomes-directory = 3", "empty/", "link -> new", "moved/", "moved/deep/", "moved/deep/file = 1", "new = new"];
    assert_eq!(contents(place), wanted);
    sh(&sandbox, place, "rm becomes-directory; mkdir becomes-directory; printf x >becomes-directory/x; rm -r moved empty").await;
    sh(&sandbox, place, "rm link; mkdir link; printf more >>new").await;
    assert_eq!(contents(place), ["becomes-directory/", "becomes-directory/x = x", "link/", "new = newmore"]);
    // A change that keeps the length, shortly after another one, by a streamed command.
    let mut streamed =
        sandbox.exec_streaming(Command { cwd: Some(place.into()), ..script("printf again__ >new") }).await.unwrap();
    streamed.wait().await.unwrap();
    assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "again__");
    sandbox.write_file(&place.join("written"), b"by us").await.unwrap();
    assert_eq!(fs::read_to_string(place.join("written")).unwrap(), "by us");
    sandbox.destroy().await.unwrap();
}

async fn files_not_changed_inside_keep_content_of_host() {
    let root = directory();
    let place = root.path();
    for name in ["both", "host", "doomed/known"] {
        fs::create_dir_all(place.join("doomed")).unwrap();
        fs::write(place.join(name), "before").unwrap();
    }
    let sandbox = open(vec![grant(place, Access::ReadWrite)]).await.unwrap();
    for (name, text) in [("both", "host's"), ("host", "host's"), ("doomed/new", "host's"), ("new", "host's")] {
        fs::write(place.join(name), text).unwrap();
    }
    assert_eq!(sh(&sandbox, place, "cat host; test ! -e new; printf guest >both; rm -r doomed").await, "before");
    // The last writer of a file wins, and files that the sandbox never had are not removed.
    assert_eq!(contents(place), ["both = guest", "doomed/", "doomed/new = host's", "host = host's", "new = host's"]);
    sandbox.destroy().await.unwrap();
}

async fn times_and_modes_are_copied_in_and_back() {
    let root = directory();
    let place = root.path();
    fs::write(place.join("old"), "").unwrap();
    fs::File::options()
        .write(true)
        .open(place.join("old"))
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_007))
        .unwrap();
    fs::set_permissions(place.join("old"), fs::Permissions::from_mode(0o751)).unwrap();
    let sandbox = open(vec![grant(place, Access::ReadWrite)]).await.unwrap();
    let text =
        "stat -c '%a %Y' old; cp -p old copy; chmod 640 old; touch -d @1000000009 old; umask 0; mkdir -m 1777 shared; : >open";
    assert_eq!(sh(&sandbox, place, text).await, "751 1000000007\n");
    let metadata = |name: &str| fs::metadata(place.join(name)).map(|meta| (meta.mode() & 0o7777, meta.mtime())).unwrap();
    assert_eq!((metadata("old"), metadata("copy")), ((0o640, 1_000_000_009), (0o751, 1_000_000_007)));
    assert_eq!((metadata("shared").0, metadata("open").0), (0o1777, 0o666));
    sandbox.destroy().await.unwrap();
}

async fn single_file_can_be_granted() {
    let root = directory();
    let (file, beside) = (root.path().join("file"), root.path().join("beside"));
    fs::write(&file, "one").unwrap();
    fs::write(&beside, "hidden").unwrap();
    let read_only = root.path().join("read-only");
    fs::write(&read_only, "stays").unwrap();
    let grants = vec![grant(&file, Access::ReadWrite), grant(&read_only, Access::ReadOnly)];
    let sandbox = open(grants).await.unwrap();
    let text = "test ! -e beside; cat file read-only; printf two >file; ! printf x >read-only; ! rm file; printf y >new";
    assert_eq!(sh(&sandbox, root.path(), text).await, "onestays");
    assert_eq!(contents(root.path()), ["beside = hidden", "file = two", "read-only = stays"]);
    sandbox.destroy().await.unwrap();
}

async fn copy_uses_rights_of_owner_of_grant() {
    let root = directory();
    let place = root.path().join("theirs");
    fs::create_dir_all(place.join("closed")).unwrap();
    for name in ["own", "roots", "closed/below"] {
        fs::write(place.join(name), name).unwrap();
    }
    for path in [&place, &place.join("own")] {
        chown(path, Some(4321), Some(4322)).unwrap();
    }
    for (name, mode) in [("own", 0o600), ("roots", 0o600), ("closed", 0o700)] {
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let sandbox = open(vec![grant(&place, Access::ReadWrite)]).await.unwrap();
    assert_eq!(sh(&sandbox, &place, "cat own; test ! -e roots; ls closed; printf x >made; printf y >own").await, "own");
    for name in ["made", "own"] {
        let meta = fs::metadata(place.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (4321, 4322), "{name}");
    }
    // If the owner may not write, nothing is copied back, and the exec reports the error.
    let outcome = sandbox.exec(Command { cwd: Some(place.clone()), ..script("printf z >closed/new") }).await;
    assert!(
        matches!(&outcome, Err(IsolationError::Io { source, .. }) if source.raw_os_error() == Some(libc::EACCES)),
        "{outcome:?}"
    );
    assert_eq!(contents(&place), ["closed/", "closed/below = closed/below", "made = x", "own = y", "roots = roots"]);
    // Copying back is retried after each command while the file exists.
    assert!(sandbox.exec(script("true")).await.is_err());
    sh(&sandbox, &place, "rm closed/new").await;
    sandbox.destroy().await.unwrap();
}

async fn grant_above_copy_limit_fails_with_remedy() {
    let root = directory();
    let place = root.path();
    let large = vec![b'x'; usize::try_from(MAX_COPIED).unwrap() + 1];
    fs::write(place.join("large"), &large).unwrap();
    let refused = open(vec![grant(place, Access::ReadOnly)]).await.err().unwrap();
    assert!(
        matches!(&refused, IsolationError::Invalid { what, reason } if what == "grants" && reason.contains("--disk")),
        "{refused}"
    );
    fs::remove_file(place.join("large")).unwrap();
    let sandbox = open(vec![grant(place, Access::ReadWrite)]).await.unwrap();
    let run = async |text: &str| sandbox.exec(Command { cwd: Some(place.to_path_buf()), ..script(text) }).await;
    let refused = run(&format!("head -c {} /dev/zero >large; printf small >other", large.len())).await;
    assert!(matches!(&refused, Err(IsolationError::Invalid { what, .. }) if what == "grants"), "{refused:?}");
    assert!(!place.join("large").exists());
    // Changes that were not copied back are copied after the next command.
    run("rm large").await.unwrap();
    assert_eq!(contents(place), ["other = small"]);
    sandbox.destroy().await.unwrap();
}

async fn changes_of_running_command_are_copied_back_at_destroy() {
    let root = directory();
    let place = root.path();
    let sandbox = open(vec![grant(place, Access::ReadWrite)]).await.unwrap();
    let command = Command { cwd: Some(place.into()), stdin: StdinSource::Stream, ..script("printf made >made; echo; cat") };
    let mut running = sandbox.exec_streaming(command).await.unwrap();
    let streams = running.take_streams();
    let reader = tokio::task::spawn_blocking(move || {
        let mut byte = [0];
        while rustix::io::read(streams.stdout.as_ref().unwrap(), &mut byte) == Err(rustix::io::Errno::AGAIN) {
            std::thread::yield_now();
        }
        streams
    });
    let _streams = reader.await.unwrap();
    sandbox.destroy().await.unwrap();
    assert_eq!(contents(place), ["made = made"]);
}

async fn grant_replaced_by_link_is_copied_back_to_original_directory() {
    let root = directory();
    let (place, elsewhere) = (root.path().join("place"), root.path().join("elsewhere"));
    fs::create_dir(&place).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let sandbox = open(vec![grant(&place, Access::ReadWrite)]).await.unwrap();
    fs::rename(&place, root.path().join("moved")).unwrap();
    symlink(&elsewhere, &place).unwrap();
    sh(&sandbox, &place, "printf x >made").await;
    assert_eq!(contents(&elsewhere), [""; 0]);
    assert_eq!(contents(&root.path().join("moved")), ["made = x"]);
    sandbox.destroy().await.unwrap();
}

async fn snapshot_and_fork_with_read_write_grant_fail() {
    let root = directory();
    let sandbox = open(vec![grant(root.path(), Access::ReadWrite)]).await.unwrap();
    for refused in [sandbox.snapshot("x").await.err(), sandbox.fork().await.map(drop).err()] {
        assert!(
            matches!(&refused, Some(IsolationError::Unsupported { operation, .. }) if operation.contains("read-write grant")),
            "{refused:?}"
        );
    }
    sandbox.destroy().await.unwrap();
}
