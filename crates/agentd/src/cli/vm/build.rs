//! `agentd vm build`: builds the assets of a machine from an image.

use crate::cli::{
    args::VmBuildArgs,
    failure::{self, Failure},
    image,
};
use agentd_disk::Scratch;
use agentd_image::{Reference, Store};
use agentd_vm::{Assets, Builder};
use std::path::{Path, PathBuf};

/// Temporary reference of an imported directory during the build.
const IMPORTED: &str = "local/imported:latest";

/// Builds the assets from a pulled image, or from a local root file system.
pub(super) fn build(args: &VmBuildArgs, output: &Path) -> Result<Assets, Failure> {
    let builder = |layers: Vec<PathBuf>, source| Builder { layers, source, kernel: args.kernel.clone() };
    let local = Path::new(&args.image);
    if !local.exists() {
        let (image, _hold) = image::hold(&args.image.parse::<Reference>()?)?;
        return Ok(builder(image.layers, format!("{} {}", image.reference, image.digest)).build(output)?);
    }
    // Import the tree first: the imported files belong to the caller, and special files are left out.
    let parent = output.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| failure::of_file("create a directory", parent, &error))?;
    let unpack = |error: agentd_disk::DiskError| {
        format!("import the root file system: {error} — check the permissions of the directory, or name another one with -o")
    };
    let scratch = Scratch::make(parent, ".agentd-vm-import").map_err(unpack)?;
    let image = Store::open(&scratch.path().join("store"))?.import(local, &IMPORTED.parse()?)?;
    Ok(builder(image.layers, local.display().to_string()).build(output)?)
}
