//! What Gondolin runs in a guest: its package has the sources, in Zig.

use crate::{
    downloads::{Downloads, REQUIREMENTS},
    error::SetupError,
    installation::GONDOLIN,
    part::part,
    programs::{PACKAGE_LOCK, unpack_wheel},
    tool,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Their names.
pub(crate) const DAEMONS: [&str; 4] = ["sandboxd", "sandboxfs", "sandboxssh", "sandboxingress"];

/// Builds them; the part's directory, in which is `bin`.
pub(crate) fn daemons(home: &Path, downloads: &Downloads, package: &Path) -> Result<PathBuf, SetupError> {
    part(home, "daemons", &[PACKAGE_LOCK, REQUIREMENTS], |dir| {
        let scratch =
            tempfile::tempdir_in(home).map_err(|source| SetupError::Io { context: "make a directory".to_owned(), source })?;
        unpack_wheel(downloads, "ziglang", scratch.path())?;
        let caches = scratch.path().join("cache");
        let mut zig = Command::new(scratch.path().join("ziglang/zig"));
        zig.args(["build", "-Doptimize=ReleaseSmall", "-Dtarget=x86_64-linux-musl", "--cache-dir"])
            .arg(&caches)
            .arg("--global-cache-dir")
            .arg(&caches)
            .arg("--prefix")
            .arg(dir)
            .current_dir(package.join(GONDOLIN).join("dist/guest"));
        tool::run(&mut zig, "").map(drop)
    })
}
