//! Trust stores: the files with the certificates that programs of a sandbox trust, if its gateway inspects TLS.
//!
//! Environment variables name the files to most programs. For programs that read no variable, the bundle is also mounted over the
//! bundle of the system, if the root has one. All these mounts are read-only, and the host's files do not change.

use super::{place::Places, scratch::Scratch, tree};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::OpenOptions,
    io::Write as _,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The bundle of certificates in PEM form.
pub const BUNDLE: &str = "/dev/agentd/ca-certificates.crt";

/// The same certificates as a Java key store.
pub const KEY_STORE: &str = "/dev/agentd/ca-certificates.jks";

/// The directory of both files, in the sandbox's own `/dev`. Every sandbox has its `/dev` in memory, so no kept root contains the
/// files.
const DIRECTORY: &str = "agentd";

/// The bundles of the system: of Debian, Alpine and Arch; of Fedora; of SUSE; and the default path of OpenSSL.
const SYSTEM: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// The maximum size of each file, in bytes. Both files must fit into the message with the plan.
pub const MAX_FILE: usize = 3 << 19;

/// The content of the trust stores of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustPlan {
    /// The content of [`BUNDLE`].
    pub bundle: Vec<u8>,
    /// The content of [`KEY_STORE`].
    pub key_store: Vec<u8>,
}

impl TrustPlan {
    /// Creates the files in a separate directory, and shows that directory below `dev`, the sandbox's `/dev`. Returns the
    /// path of the bundle.
    fn create(&self, scratch: &Scratch, dev: &Path) -> Result<PathBuf, ControlError> {
        let own = scratch.directory("trust", 0o755)?;
        for (place, content) in [(BUNDLE, &self.bundle), (KEY_STORE, &self.key_store)] {
            let path = own.join(Path::new(place).file_name().unwrap_or_default());
            let mut file = OpenOptions::new();
            let made = file.write(true).create_new(true).mode(0o444).open(path);
            made.and_then(|mut file| file.write_all(content)).during(Control::Mounts, || format!("write {place}"))?;
        }
        tree::show(&own, &own)?;
        // A bind mount inherits the attributes of its source mount (`mount(2)`, `MS_BIND`).
        tree::restrict_one(&own, tree::READ_ONLY)?;
        scratch.directory(&format!("dev/{DIRECTORY}"), 0o755)?;
        tree::show(&own, &dev.join(DIRECTORY))?;
        Ok(own.join(Path::new(BUNDLE).file_name().unwrap_or_default()))
    }
}

/// Shows the files in a view of the host's tree, whose `/dev` is in place already.
pub(super) fn show(plan: &TrustPlan, scratch: &Scratch) -> Result<(), ControlError> {
    let bundle = plan.create(scratch, Path::new("/dev"))?;
    for place in SYSTEM {
        match rustix::mount::mount_bind(&bundle, place) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            shown => shown.during(Control::Mounts, || format!("mount the sandbox's certificates on {place}"))?,
        }
    }
    Ok(())
}

/// Shows the files in the root at `path`, whose `dev` and `etc` are in place already. A bundle behind a symbolic link is not
/// covered, because a link in an image must not be followed.
pub(super) fn show_in(plan: &TrustPlan, scratch: &Scratch, (path, root): (&Path, &OwnedFd)) -> Result<(), ControlError> {
    let bundle = plan.create(scratch, &path.join("dev"))?;
    for place in SYSTEM {
        let present = tree::open_beneath(root, Path::new(place.trim_start_matches('/')), OFlags::PATH);
        let is_file = |file: &OwnedFd| rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        if present.is_ok_and(|file| is_file(&file)) {
            Places::Filled(root).attach(&tree::clone_own(&bundle)?, Path::new(place), tree::READ_ONLY)?;
        }
    }
    Ok(())
}
