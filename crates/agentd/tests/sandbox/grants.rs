//! Grants of named sandboxes whose processes start again, and grants that a client requests from the daemon without the command
//! line.

use crate::place::{SandboxDir, kill, program, until};
use agentd_core::{Access, Grant, GuardRule, SandboxSpec};
use agentd_daemon::Client;
use agentd_kernel::object;
use agentd_sandboxes::{Name, SandboxSettings};
use std::{fs, os::fd::AsFd, os::unix::fs::symlink, path::Path};

/// Two sandboxes with a grant each, and a secret next to the grants.
fn two_granted() -> SandboxDir {
    let place = SandboxDir::new();
    for (directory, file) in [("work/docs", "no key"), ("work/other", "no key"), ("secret", "THE KEY")] {
        fs::create_dir_all(place.path(directory)).unwrap();
        fs::write(place.path(directory).join("file"), file).unwrap();
    }
    for (name, directory) in [("relinked", "work/docs"), ("unchanged", "work/other")] {
        place.agentd(&["create", name, "--rw", &format!("{}:/granted", place.path(directory).display())]);
    }
    place
}

/// Replaces a grant by a link to the secret while no process of its sandbox runs.
fn relink_and_use(place: &SandboxDir) {
    fs::rename(place.path("work/docs"), place.path("work/moved")).unwrap();
    symlink(place.path("secret"), place.path("work/docs")).unwrap();
    let refused = place.refused(&["exec", "relinked", "--", "sh", "-c", "cat /granted/file; echo x >/granted/planted"]);
    assert!(refused.contains("the path is now a symbolic link") && refused.contains("regrant relinked"), "{refused}");
    assert_eq!(place.sh("unchanged", "cat /granted/file"), "no key");
    assert_eq!(fs::read_dir(place.path("secret")).unwrap().count(), 1);
    // The same object at the same path is granted again.
    fs::remove_file(place.path("work/docs")).unwrap();
    fs::rename(place.path("work/moved"), place.path("work/docs")).unwrap();
    assert_eq!(place.sh("relinked", "cat /granted/file"), "no key");
}

#[test]
fn relinked_grant_is_refused_after_idle_time() {
    let place = two_granted();
    // No sandbox has processes after its creation.
    until("the daemon ends", || place.daemon().is_none());
    relink_and_use(&place);
}

#[test]
fn relinked_grant_is_refused_after_daemon_was_killed() {
    let place = two_granted();
    for name in ["relinked", "unchanged"] {
        assert_eq!(place.sh(name, "cat /granted/file"), "no key");
    }
    kill(place.daemon().unwrap());
    relink_and_use(&place);
}

#[test]
fn daemon_refuses_grants_of_secrets_that_command_line_would_refuse() {
    let place = SandboxDir::new();
    let home = place.path("home").display().to_string();
    for directory in ["home/.ssh", "home/project"] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    fs::write(place.path("home/.git-credentials"), "key").unwrap();
    symlink(place.path("home/.ssh"), place.path("home/project/link")).unwrap();
    // The daemon takes the home directory of the client that starts it.
    let created = place.command(&["create", "base"]).env("HOME", &home).output().unwrap();
    assert!(created.status.success(), "{created:?}");
    for path in ["home/.ssh", "home/.git-credentials", "home/project/link", "data", "data/sandboxes/keeper"] {
        let path = place.path(path).display().to_string();
        let output = place.command(&["create", "attack", "--ro", &path]).env("HOME", &home).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{path}: {output:?}");
    }

    let sandboxes = place.path("data/sandboxes").canonicalize().unwrap();
    let daemon = [program().into(), "daemon".into(), "serve".into(), sandboxes.clone().into_os_string()];
    let client = Client::new(&sandboxes, daemon.to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let create = |name: &str, grant: Grant| {
        let spec = SandboxSpec { grants: vec![grant], ..SandboxSpec::default() };
        let about = SandboxSettings { spec, cwd: "/".into(), ..SandboxSettings::default() };
        runtime.block_on(client.create(&name.parse::<Name>().unwrap(), about, true)).map(drop)
    };
    let real = |name: &str| place.path(name).canonicalize().unwrap();
    let resolved = |path: &Path| {
        let object = object::id(object::open(path).unwrap().as_fd()).unwrap();
        Grant { object: Some(object), target: Some("/granted".into()), ..Grant::new(path, Access::ReadWrite) }
    };
    let (ssh, project) = (real("home/.ssh"), real("home/project"));
    let attacks = [
        (Grant::new(&ssh, Access::ReadOnly), "private keys"),
        (Grant::new(real("home/.git-credentials"), Access::ReadOnly), "credentials of Git servers"),
        (Grant::new(real("home"), Access::ReadWrite), "more than one project"),
        (Grant::new(project.join("link"), Access::ReadOnly), "--follow-links"),
        (resolved(&ssh), "private keys"),
        (resolved(&project.join("../.ssh")), "contains '..'"),
        (Grant { guard: GuardRule::Waive, ..Grant::new(&ssh, Access::ReadOnly) }, "waives the guard"),
        (Grant { guard: GuardRule::Waive, ..resolved(&ssh) }, "waives the guard"),
        (Grant::new(real("data"), Access::ReadOnly), "AGENTD_DATA_DIR"),
        (Grant::new(real("data/sandboxes/keeper"), Access::ReadOnly), "AGENTD_DATA_DIR"),
        (resolved(&real("data")), "AGENTD_DATA_DIR"),
    ];
    let base = "base".parse::<Name>().unwrap();
    for (grant, reason) in attacks {
        let path = grant.path.clone();
        // `create` resolves grants in the client, and `regrant` sends them to the daemon as they are.
        let unresolved = grant.object.is_none() && grant.guard == GuardRule::Apply;
        let regranted = runtime.block_on(client.regrant(&base, vec![grant.clone()]));
        let refused = create("attack", grant).unwrap_err().to_string();
        assert!(refused.contains(reason), "{}: {refused}", path.display());
        // A grant of agentd's own folder is refused at the next start.
        let regranted =
            regranted.and_then(|_| runtime.block_on(client.exec(&base, agentd_core::Command::default(), true)).map(drop));
        let refused = regranted.unwrap_err().to_string();
        let reason = if unresolved { "has not resolved the path" } else { reason };
        assert!(refused.contains(reason), "regrant of {}: {refused}", path.display());
    }
    assert_eq!(place.agentd(&["ls"]).lines().count(), 1);
    create("allowed", Grant::new(&project, Access::ReadOnly)).unwrap();
    assert_eq!(place.sh("allowed", &format!("cd {} && echo shown", project.display())), "shown\n");
}
