//! Builds the daemons that Gondolin runs in a guest, from the Zig sources in its package.

use super::{
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

/// The names of the daemons.
pub(crate) const DAEMONS: [&str; 4] = ["sandboxd", "sandboxfs", "sandboxssh", "sandboxingress"];

/// Builds the daemons. Returns the directory of the part, with the programs in `bin`.
pub(crate) fn daemons(home: &Path, downloads: &Downloads, package: &Path) -> Result<PathBuf, SetupError> {
    part(home, "daemons", &[PACKAGE_LOCK, REQUIREMENTS], |dir| {
        let scratch = tempfile::tempdir_in(home)
            .map_err(|source| SetupError::Io { context: "create a temporary directory".to_owned(), source })?;
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
        tool::run(&mut zig, "run `agentd gondolin setup` again").map(drop)
    })
}
