//! Packages of Debian, from where this machine gets its own, downloaded and not installed.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use agentd_vm::first_dependency;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The first package that `package` depends on: what a package without contents stands for at present.
pub fn stands_for(package: &str) -> Result<String, LabError> {
    let shown = tool::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    first_dependency(&String::from_utf8_lossy(&shown)).ok_or_else(|| format_error(package, "it depends on nothing"))
}

/// Downloads `package` to `folder`; the file.
pub fn download(package: &str, folder: &Path) -> Result<PathBuf, LabError> {
    // Not as the user _apt, to whom the folder is closed.
    let mut download = Command::new("apt-get");
    tool::output(download.args(["-q", "-o", "APT::Sandbox::User=", "download", package]).current_dir(folder))?;
    let file = fs::read_dir(folder).on("list", folder)?.flatten().map(|entry| entry.path()).next();
    file.ok_or_else(|| format_error(package, "apt-get downloaded nothing"))
}

/// The archive of this machine's own packages, and the release: what debootstrap wants.
pub fn mirror() -> Result<(String, String), LabError> {
    let mut targets = Command::new("apt-get");
    let lines = tool::output(targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]))?;
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().next().and_then(|line| line.split_once(' '));
    first.map(|(mirror, release)| (mirror.to_owned(), release.to_owned())).ok_or_else(|| format_error("apt", "it has no sources"))
}
