//! What is brought into a machine: a disk of its own, made for that run.

use crate::{
    error::{Calling, LabError, format_error},
    root, tool,
};
use std::{path::Path, process::Command};

/// A disk that has each of `paths` by its own name.
pub fn make<'a>(paths: impl Iterator<Item = &'a Path>, scratch: &Path, image: &Path) -> Result<(), LabError> {
    let folder = scratch.join("share");
    std::fs::create_dir(&folder).on("mkdir", &folder)?;
    for path in paths {
        let name = path.file_name().ok_or_else(|| format_error(path.display(), "it has no name"))?;
        tool::output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(path).arg(folder.join(name)))?;
    }
    let kib = tool::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(&folder))?;
    let kib = String::from_utf8_lossy(&kib).split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    // What a file system needs beside its files.
    let size = format!("{}k", kib + kib / 8 + 8192);
    root::format(&folder, image, &size, Command::new("/sbin/mke2fs"))
}
