//! Grants of secrets and of agentd's own folder, through the library without the command line. The guard reads `HOME`, so each
//! backend is tried by this program in a process with a separate home directory.

use crate::support::{self, backend, grant, out, script};
use agentd::isolation::{Access, Grant, IsolationError, SandboxSpec};
use agentd_kernel::object;
use libtest_mimic::Trial;
use std::{
    fs,
    os::{fd::AsFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Makes this executable try the backend in the variable's value instead of running the tests.
const BACKEND: &str = "AGENTD_TEST_GUARD_OF";

/// The variable with the data directory of agentd.
const DATA: &str = "AGENTD_DATA_DIR";

/// Tries the grants if this process was started for that.
pub fn take_role() {
    let Ok(name) = std::env::var(BACKEND) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(try_grants(&name, &std::env::var_os("HOME").map(PathBuf::from).unwrap()));
    std::process::exit(0);
}

/// Returns the test for each backend with a boundary.
pub fn trials(backends: &[&'static str]) -> Vec<Trial> {
    let of = |name: &'static str| {
        Trial::test(format!("{name}::grant_of_secret_or_own_folder_is_refused_by_the_library"), move || {
            in_a_home_of_its_own(name);
            Ok(())
        })
    };
    backends.iter().map(|name| of(name)).collect()
}

fn in_a_home_of_its_own(name: &str) {
    let root = support::directory();
    let home = root.path().canonicalize().unwrap().join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::create_dir(home.join("project")).unwrap();
    for (file, content) in [(".ssh/id_rsa", "key"), (".git-credentials", "key"), ("project/file", "no key")] {
        fs::write(home.join(file), content).unwrap();
    }
    for (link, target) in
        [("link", ".ssh"), ("to-credentials", ".git-credentials"), ("project/link", ".ssh"), ("project/data", "agentd-data")]
    {
        symlink(home.join(target), home.join(link)).unwrap();
    }
    // The backend firecracker finds its files in the data directory.
    let data = std::env::var_os(DATA).map_or_else(|| home.join("agentd-data"), PathBuf::from);
    fs::create_dir_all(&data).unwrap();
    let mut own = Command::new("/proc/self/exe");
    let output = own.env(BACKEND, name).env("HOME", &home).env(DATA, &data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn try_grants(name: &str, home: &Path) {
    let data = std::env::var_os(DATA).map(PathBuf::from).unwrap();
    let secrets = [
        (home.to_path_buf(), "more than one project"),
        (home.join(".ssh"), "private keys"),
        (home.join(".ssh/id_rsa"), "private keys"),
        (home.join(".git-credentials"), "credentials of Git servers"),
        // A payload cannot create these two links, so they are followed.
        (home.join("link"), "private keys"),
        (home.join("to-credentials"), "credentials of Git servers"),
        (home.join("project/link"), "--follow-links"),
        (home.join("project/data"), "--follow-links"),
        (home.join("project/../.ssh"), "private keys"),
        (data.clone(), ""),
        (data.join("nested"), ""),
    ];
    fs::create_dir_all(data.join("nested")).unwrap();
    for (path, reason) in secrets {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            // A target without `..` hides the spelling of the path from the check of targets.
            let target = (name != "linux-native").then(|| PathBuf::from("/granted"));
            refused(name, Grant { target: target.clone(), ..grant(&path, access) }, reason).await;
            // A grant that was resolved before, as a record or a client may claim.
            let Ok(opened) = object::open(&path) else { continue };
            let object = Some(object::id(opened.as_fd()).unwrap());
            let reason = if path.ends_with("project/../.ssh") { "contains '..'" } else { reason };
            refused(name, Grant { object, target, ..grant(&path, access) }, reason).await;
        }
    }
    fs::remove_dir(data.join("nested")).unwrap();
    // A path that is not a secret is granted. A version that refuses everything does not pass.
    let spec = SandboxSpec { grants: vec![grant(&home.join("project"), Access::ReadOnly)], ..SandboxSpec::default() };
    let sandbox = backend(name).create_sandbox(spec).await.unwrap();
    let read = format!("cat {0}/project/file {0}/project/link/id_rsa {0}/.ssh/id_rsa; true", home.display());
    assert_eq!(out(&sandbox.exec(script(&read)).await.unwrap()), "no key");
    sandbox.destroy().await.unwrap();
}

async fn refused(name: &str, grant: Grant, reason: &str) {
    let spec = SandboxSpec { grants: vec![grant.clone()], ..SandboxSpec::default() };
    let error = backend(name).create_sandbox(spec).await.map(drop).unwrap_err();
    assert!(matches!(error, IsolationError::Invalid { .. }), "{grant:?}: {error:?}");
    assert!(error.to_string().contains(reason), "{grant:?}: {error}");
}
