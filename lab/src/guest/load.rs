//! Loading the modules that the initial archive has, in the order of their names.

use crate::error::{Calling, LabError, format_error};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

/// Loads all that a system starts with, and begins to load those of virtualization, which takes as long as all the rest: who needs them
/// waits for the thread.
pub fn modules() -> Result<JoinHandle<Result<(), LabError>>, LabError> {
    let folder = Path::new("/modules");
    let mut files: Vec<_> = fs::read_dir(folder).on("list", folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let processor = fs::read_to_string("/proc/cpuinfo").on("read", Path::new("/proc/cpuinfo"))?;
    let (virtualization, basic): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(|path| {
        let name = path.to_string_lossy();
        name.contains("kvm") || name.contains("irqbypass")
    });
    // Opened now: when they are loaded, the archive has no name any more.
    let absent = if processor.contains(" svm") { "kvm_intel" } else { "kvm_amd" };
    let wanted = virtualization.into_iter().filter(|path| !path.to_string_lossy().contains(absent));
    let opened = wanted.map(|path| open(&path).map(|file| (path, file))).collect::<Result<Vec<_>, _>>()?;
    let loading = thread::spawn(move || opened.iter().try_for_each(|(path, file)| load(path, file)));
    basic.iter().try_for_each(|path| load(path, &open(path)?))?;
    Ok(loading)
}

/// Waits until the others are loaded.
pub fn finish(loading: JoinHandle<Result<(), LabError>>) -> Result<(), LabError> {
    loading.join().map_err(|_| format_error("the thread that loads modules", "it panicked"))?
}

fn open(path: &Path) -> Result<File, LabError> {
    File::open(path).on("open", path)
}

fn load(path: &Path, file: &File) -> Result<(), LabError> {
    rustix::system::finit_module(file, c"", 0).on("load", path)
}
