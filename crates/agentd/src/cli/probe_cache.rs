//! What the probe proved, kept for this boot, kernel, user and build, so that a second run pays nothing.

use super::terminal::Progress;
use agentd_core::{BackendCapabilities, Bit, IsolationBackend, IsolationError};
use agentd_isolation::{available_backends, create_backend, has_subordinate_ids, require_backend};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a command of `agentd run` must be isolated in.
pub(crate) const REQUIRED: [Bit; 4] = [Bit::Filesystem, Bit::Process, Bit::Network, Bit::Syscalls];

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    backend: String,
    proven: BackendCapabilities,
}

/// The best backend that proves [`REQUIRED`], or `only` this one if it does, from the cache where that is current.
pub(crate) async fn backend(work_root: &Path, only: Option<&str>) -> Result<Arc<dyn IsolationBackend>, IsolationError> {
    let key = key();
    let file = directory().map(|dir| dir.join(format!("probe-{}.json", only.unwrap_or("auto"))));
    if let (Some(file), Some(key)) = (&file, &key) {
        let cached = read(file).filter(|entry| entry.key == *key && REQUIRED.iter().all(|bit| entry.proven.has(*bit)));
        if let Some(entry) = cached.filter(|e| available_backends().contains(&e.backend)) {
            return create_backend(&entry.backend, work_root);
        }
    }
    let progress = Progress::of("attacking the sandbox to prove it on this machine, once per boot");
    let (backend, proven) = match only {
        Some(name) => {
            let backend = create_backend(name, work_root)?;
            let proven = backend.probe().await?;
            let missing: Vec<String> = REQUIRED.iter().filter(|bit| !proven.has(**bit)).map(Bit::to_string).collect();
            if !missing.is_empty() {
                return Err(IsolationError::Requirement { missing: missing.join(", ") });
            }
            (backend, proven)
        }
        None => require_backend(work_root, &REQUIRED).await?,
    };
    drop(progress);
    if let (Some(file), Some(key)) = (file, key) {
        let entry = Entry { key, backend: backend.name().to_owned(), proven };
        // Without a cache the next run proves again.
        write(&file, &entry).ok();
    }
    Ok(backend)
}

/// What a proof depends on; `None` when the kernel does not tell.
fn key() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let kernel = fs::read_to_string("/proc/version").ok()?;
    let settings =
        ["user/max_user_namespaces", "kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns"]
            .map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().trim().to_owned())
            .join(",");
    // The build's own file, by what changes whenever it is written anew; reading all of it would cost as much as a sandbox.
    let exe = fs::metadata("/proc/self/exe").ok()?;
    let build = format!("{}:{}:{}:{}.{}", exe.dev(), exe.ino(), exe.size(), exe.mtime(), exe.mtime_nsec());
    let user = rustix::process::geteuid().as_raw();
    let own_cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let changed = exe.ctime();
    let ids = if has_subordinate_ids() { "subordinate ids" } else { "" };
    Some(
        [boot.trim(), kernel.trim(), &settings, &build, &changed.to_string(), &user.to_string(), own_cgroup.trim(), ids]
            .join("|"),
    )
}

/// The user's cache directory (XDG Base Directory Specification).
fn directory() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("agentd"))
}

/// Only a file that nobody else could have written is believed.
fn read(file: &Path) -> Option<Entry> {
    let me = rustix::process::geteuid().as_raw();
    for path in [file.parent()?, file] {
        let meta = fs::symlink_metadata(path).ok()?;
        if meta.uid() != me || meta.mode() & 0o022 != 0 || meta.file_type().is_symlink() {
            return None;
        }
    }
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn write(file: &Path, entry: &Entry) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let mut open = fs::OpenOptions::new();
    let new = open.write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = serde_json::to_writer(new, entry).map_err(Into::into).and_then(|()| fs::rename(&fresh, file));
    if written.is_err() {
        fs::remove_file(&fresh).ok();
    }
    written
}
