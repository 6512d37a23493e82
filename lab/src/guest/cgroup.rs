//! Creates cgroups as systemd does, with all controllers: a system service and, below a user's slice, a scope as the user's own
//! service manager would create it (`systemd.resource-control(5)`, "Delegate=").

use crate::error::{Calling, LabError};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";

/// Creates the cgroup for a command of root.
pub fn of_root() -> Result<PathBuf, LabError> {
    make_below(Path::new(MOUNT), &["system.slice", "lab.service"])
}

/// Creates the cgroup for a command of the user. The user owns all cgroups from the user's service downwards.
pub fn of_user(uid: u32) -> Result<PathBuf, LabError> {
    let slice = format!("user-{uid}.slice");
    let service = format!("user@{uid}.service");
    let service = make_below(Path::new(MOUNT), &["user.slice", &slice, &service])?;
    enable(&service)?;
    let scope = make_below(&service, &["app.slice", "lab.scope"])?;
    for folder in [&service, &service.join("app.slice"), &scope] {
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            let path = folder.join(file);
            chown(&path, Some(uid), Some(uid)).on("chown", &path)?;
        }
    }
    Ok(scope)
}

/// Moves this process to a cgroup.
pub fn enter(group: &Path) -> Result<(), LabError> {
    fs::write(group.join("cgroup.procs"), "0").on("move to", group)
}

/// Moves this process back to the root cgroup.
pub fn leave_root() -> Result<(), LabError> {
    enter(Path::new(MOUNT))
}

/// Kills all processes in `system.slice` and `user.slice`, where [`of_root`] and [`of_user`] create their cgroups.
pub fn kill_all() -> Result<(), LabError> {
    for slice in ["system.slice", "user.slice"] {
        let group = Path::new(MOUNT).join(slice);
        if group.exists() {
            fs::write(group.join("cgroup.kill"), "1").on("kill", &group)?;
        }
    }
    Ok(())
}

/// Creates the nested cgroups `names` below `folder`, with all controllers of `folder`.
fn make_below(folder: &Path, names: &[&str]) -> Result<PathBuf, LabError> {
    let mut group = folder.to_path_buf();
    for name in names {
        enable(&group)?;
        group.push(name);
        fs::create_dir_all(&group).on("mkdir", &group)?;
    }
    Ok(group)
}

/// Enables all controllers of a cgroup for its children.
fn enable(group: &Path) -> Result<(), LabError> {
    let has = group.join("cgroup.controllers");
    for controller in fs::read_to_string(&has).on("read", &has)?.split_whitespace() {
        let file = group.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}")).on("write", &file)?;
    }
    Ok(())
}
