//! Packages of Debian, from where this machine gets its own, unpacked and not installed.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use std::{fs, path::Path, process::Command};

/// The first package that `package` depends on: what a package without contents stands for at present.
pub fn stands_for(package: &str) -> Result<String, LabError> {
    let shown = tool::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    first_dependency(&String::from_utf8_lossy(&shown)).ok_or_else(|| format_error(package, "it depends on nothing"))
}

fn first_dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([',', '|', ' ', '(']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Downloads `package` and unpacks it to `folder`, which is not there yet.
pub fn unpack(package: &str, folder: &Path) -> Result<(), LabError> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    let staging = tempfile::tempdir_in(parent).on("make a folder in", parent)?;
    // Not as the user _apt, to whom the folder is closed.
    let mut download = Command::new("apt-get");
    tool::output(download.args(["-q", "-o", "APT::Sandbox::User=", "download", package]).current_dir(staging.path()))?;
    let archive = fs::read_dir(staging.path()).on("list", staging.path())?.flatten().map(|entry| entry.path()).next();
    let archive = archive.ok_or_else(|| format_error(package, "apt-get downloaded nothing"))?;
    tool::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder)).map(drop)
}

/// The archive of this machine's own packages, and the release: what debootstrap wants.
pub fn mirror() -> Result<(String, String), LabError> {
    let mut targets = Command::new("apt-get");
    let lines = tool::output(targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]))?;
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().next().and_then(|line| line.split_once(' '));
    first.map(|(mirror, release)| (mirror.to_owned(), release.to_owned())).ok_or_else(|| format_error("apt", "it has no sources"))
}

#[cfg(test)]
mod tests {
    use super::first_dependency;

    #[test]
    fn a_package_without_contents_stands_for_what_it_depends_on() {
        let shown =
            "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), linux-base\nSize: 3\n";
        assert_eq!(first_dependency(shown).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(first_dependency("Package: a\nDepends: b | c\n").as_deref(), Some("b"));
        assert_eq!(first_dependency("Package: a\nPre-Depends: b\n"), None);
    }
}
