//! Downloads Debian packages from this host's package archive, without installing them.

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

/// Returns the first package on which `package` depends: the current target of a metapackage.
pub fn current_package(package: &str) -> Result<String, LabError> {
    let shown = tool::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    first_dependency(&String::from_utf8_lossy(&shown)).ok_or_else(|| format_error(package, "the package has no dependency"))
}

/// Downloads `package` to `folder`; returns the file.
pub fn download(package: &str, folder: &Path) -> Result<PathBuf, LabError> {
    // The user `_apt` has no access to the folder, so disable apt's sandbox user.
    let mut download = Command::new("apt-get");
    tool::output(download.args(["-q", "-o", "APT::Sandbox::User=", "download", package]).current_dir(folder))?;
    let mut files = fs::read_dir(folder).on("list", folder)?.flatten().map(|entry| entry.path());
    let package_file = files.find(|file| file.extension().is_some_and(|extension| extension == "deb"));
    package_file.ok_or_else(|| format_error(package, "apt-get downloaded no package"))
}

/// Returns the archive of this host's own packages, and its release: the arguments of debootstrap.
pub fn mirror() -> Result<(String, String), LabError> {
    let mut targets = Command::new("apt-get");
    let lines = tool::output(targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]))?;
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().next().and_then(|line| line.split_once(' '));
    first
        .map(|(mirror, release)| (mirror.to_owned(), release.to_owned()))
        .ok_or_else(|| format_error("apt", "no package sources are configured"))
}
