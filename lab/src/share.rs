//! Creates the disk with the files that are brought into a machine, for a single run.

use crate::{
    error::{Calling, LabError, format_error},
    root, tool,
};
use std::{path::Path, process::Command};

/// Creates a disk that contains each of `paths` under its own name.
pub fn make<'a>(paths: impl Iterator<Item = &'a Path>, scratch: &Path, image: &Path) -> Result<(), LabError> {
    let folder = scratch.join("share");
    std::fs::create_dir(&folder).on("mkdir", &folder)?;
    for path in paths {
        let name = path.file_name().ok_or_else(|| format_error(path.display(), "the path has no file name"))?;
        tool::output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(path).arg(folder.join(name)))?;
    }
    let kib = tool::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(&folder))?;
    let kib = String::from_utf8_lossy(&kib).split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    // Add room for the file system's metadata.
    let size = format!("{}k", kib + kib / 8 + 8192);
    root::format(&folder, image, &size, Command::new("/sbin/mke2fs"))
}
