//! Loads the modules in the initial archive, in the order of their names.

use crate::error::{Calling, LabError, format_error};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

/// Loads the modules that every system needs. Starts a thread that loads the virtualisation modules, because these take as long
/// as all others together; their users wait for the thread.
pub fn modules() -> Result<JoinHandle<Result<(), LabError>>, LabError> {
    let folder = Path::new("/modules");
    let mut files: Vec<_> = fs::read_dir(folder).on("list", folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let processor = fs::read_to_string("/proc/cpuinfo").on("read", Path::new("/proc/cpuinfo"))?;
    let (virtualisation, basic): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(|path| {
        let name = path.to_string_lossy();
        name.contains("kvm") || name.contains("irqbypass")
    });
    // Opened now, because the archive is no longer reachable by a path when they are loaded.
    let absent = if processor.contains(" svm") { "kvm_intel" } else { "kvm_amd" };
    let wanted = virtualisation.into_iter().filter(|path| !path.to_string_lossy().contains(absent));
    let opened = wanted.map(|path| open(&path).map(|file| (path, file))).collect::<Result<Vec<_>, _>>()?;
    let loading = thread::spawn(move || opened.iter().try_for_each(|(path, file)| load(path, file)));
    basic.iter().try_for_each(|path| load(path, &open(path)?))?;
    Ok(loading)
}

/// Waits until the virtualisation modules are loaded.
pub fn finish(loading: JoinHandle<Result<(), LabError>>) -> Result<(), LabError> {
    loading.join().map_err(|_| format_error("load modules", "the thread panicked"))?
}

fn open(path: &Path) -> Result<File, LabError> {
    File::open(path).on("open", path)
}

fn load(path: &Path, file: &File) -> Result<(), LabError> {
    rustix::system::finit_module(file, c"", 0).on("load", path)
}
