//! Control groups as systemd lays them out, with all controllers: a service of the system, and below a user's slice a scope that the
//! user's own service manager would have made (`systemd.resource-control(5)`, "Delegate=").

use crate::error::{Calling, LabError};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";

/// The group of a command of root's.
pub fn of_root() -> Result<PathBuf, LabError> {
    below(Path::new(MOUNT), &["system.slice", "lab.service"])
}

/// The group of a command of the user's. From the user's own service downwards, groups are the user's.
pub fn of_user(uid: u32) -> Result<PathBuf, LabError> {
    let slice = format!("user-{uid}.slice");
    let service = format!("user@{uid}.service");
    let service = below(Path::new(MOUNT), &["user.slice", &slice, &service])?;
    enable(&service)?;
    let scope = below(&service, &["app.slice", "lab.scope"])?;
    for folder in [&service, &service.join("app.slice"), &scope] {
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            let path = folder.join(file);
            chown(&path, Some(uid), Some(uid)).on("chown", &path)?;
        }
    }
    Ok(scope)
}

/// Moves this process to a group.
pub fn enter(group: &Path) -> Result<(), LabError> {
    fs::write(group.join("cgroup.procs"), "0").on("move to", group)
}

/// Moves this process back to where it was.
pub fn leave() -> Result<(), LabError> {
    enter(Path::new(MOUNT))
}

/// Kills all processes that were ever started in a group.
pub fn kill_all() -> Result<(), LabError> {
    for slice in ["system.slice", "user.slice"] {
        let group = Path::new(MOUNT).join(slice);
        if group.exists() {
            fs::write(group.join("cgroup.kill"), "1").on("kill", &group)?;
        }
    }
    Ok(())
}

/// Makes `names`, each in the one before, with the controllers of `folder`.
fn below(folder: &Path, names: &[&str]) -> Result<PathBuf, LabError> {
    let mut group = folder.to_path_buf();
    for name in names {
        enable(&group)?;
        group.push(name);
        fs::create_dir_all(&group).on("mkdir", &group)?;
    }
    Ok(group)
}

/// Gives all controllers that a group has to its children.
fn enable(group: &Path) -> Result<(), LabError> {
    let has = group.join("cgroup.controllers");
    for controller in fs::read_to_string(&has).on("read", &has)?.split_whitespace() {
        let file = group.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}")).on("write", &file)?;
    }
    Ok(())
}
