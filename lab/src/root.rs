//! Creates the root disk of machines: a Debian system with the programs that the suites run inside sandboxes. No machine changes
//! the disk: its writes go to a temporary file.

use crate::{
    error::{Calling, LabError},
    packages,
    scratch::Scratch,
    tool,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages in addition to Debian's minimum.
const PACKAGES: &str = "python3,git,gcc,libc6-dev,nodejs,busybox-static,e2fsprogs,iproute2,procps,uidmap";

/// Script that turns the tree into a machine's root: a user, a host name, less data.
const FINISH: &str = "
cd \"$1\"
chroot . useradd --create-home --uid 1000 --shell /bin/bash user
echo lab >etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 lab\\n::1 localhost\\n' >etc/hosts
rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* usr/share/doc usr/share/man usr/share/locale
mkdir lab
";

/// Returns the disk; creates it if necessary.
pub fn prepare(cache: &Path) -> Result<PathBuf, LabError> {
    let key = Sha256::digest([PACKAGES, FINISH].concat());
    let image = cache.join(format!("root-{:x}.ext4", u64::from_be_bytes(key[..8].try_into().unwrap_or_default())));
    if image.exists() {
        return Ok(image);
    }
    let (mirror, release) = packages::mirror()?;
    eprintln!("lab: building a Debian root disk with {PACKAGES}");
    let staging = Scratch::new(&cache.join("scratch"), |_| ())?;
    let (tree, new) = (staging.path().join("tree"), staging.path().join("image"));
    make(&tree, &new, &release, &mirror)?;
    fs::rename(&new, &image).on("rename to", &image)?;
    Ok(image)
}

fn make(tree: &Path, image: &Path, release: &str, mirror: &str) -> Result<(), LabError> {
    let include = format!("--include={PACKAGES}");
    let mut debootstrap = tool::as_root("/usr/sbin/debootstrap");
    tool::output(debootstrap.args(["--variant=minbase", &include, release]).arg(tree).arg(mirror))?;
    tool::output(tool::as_root("sh").args(["-euc", FINISH, "sh"]).arg(tree))?;
    format(tree, image, "6G", tool::as_root("/sbin/mke2fs"))?;
    let user = format!("{}", rustix::process::getuid().as_raw());
    tool::output(tool::as_root("chown").arg(user).arg(image))?;
    Ok(())
}

/// Creates a disk with a copy of a folder. The file system has no journal, because no machine keeps its changes.
pub fn format(folder: &Path, image: &Path, size: &str, mut mke2fs: Command) -> Result<(), LabError> {
    let options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "nodiscard", "-d"];
    tool::output(mke2fs.args(options).arg(folder).arg(image).arg(size)).map(drop)
}
