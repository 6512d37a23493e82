//! What runs a machine's processors: KVM where that was tried and works, else QEMU's own emulation, TCG.
//!
//! A `/dev/kvm` that can be opened may still boot nothing, in an outer machine above all: QEMU ends or stands still there. So one machine is
//! started with it, once, for a bounded time, and the answer is kept beside the installation for as long as this boot lasts.

use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a machine may take to start by KVM before it counts as one that does not. By KVM that is a second or two; nested in an emulated
/// machine, half a minute.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The host's, as it is named everywhere.
const KVM: &str = "/dev/kvm";

/// What runs the processors of a machine, by the name that QEMU has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// As QEMU has it, with its options: `translations`, in MiB, bounds what emulating keeps.
    pub(super) fn option(self, translations: u64) -> String {
        match self {
            Self::Kvm => "kvm".to_owned(),
            Self::Tcg => format!("tcg,tb-size={translations}"),
        }
    }

    /// The device that it needs.
    pub(super) fn device(self) -> Option<&'static Path> {
        (self == Self::Kvm).then_some(Path::new(KVM))
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG, which emulates it,",
        })
    }
}

/// What is used, and why not KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub accelerator: Accelerator,
    /// Why KVM is not used; empty where it is.
    pub without_kvm: String,
}

impl Verdict {
    pub(super) fn kvm() -> Self {
        Self { accelerator: Accelerator::Kvm, without_kvm: String::new() }
    }

    pub(super) fn tcg(why: impl fmt::Display) -> Self {
        Self { accelerator: Accelerator::Tcg, without_kvm: why.to_string() }
    }
}

/// Why this user cannot so much as try KVM, if that is so.
pub(super) fn closed() -> Option<String> {
    let opened = fs::File::options().read(true).write(true).open(KVM);
    opened.err().map(|error| format!("{KVM} cannot be opened: {error}"))
}

/// Where a verdict is kept.
pub(super) struct Kept {
    file: PathBuf,
    /// What it depends on; none where the kernel does not tell.
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    verdict: Verdict,
}

impl Kept {
    /// This user's, for an installation and a guest, with this boot's kernel and the QEMU that is there now.
    pub(super) fn of(installation: &Path, guest: &Path, qemu: &Path) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let key = || {
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let program = fs::metadata(qemu).ok()?;
            let times = (program.mtime(), program.ctime());
            let guest = guest.file_name()?.to_string_lossy().into_owned();
            Some(format!("{} {} {guest} {} {times:?}", env!("CARGO_PKG_VERSION"), boot.trim(), program.size()))
        };
        Self { file: installation.join(format!("accelerator-{user}.json")), key: key() }
    }

    pub(super) fn read(&self) -> Option<Verdict> {
        let entry: Entry = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (Some(entry.key) == self.key).then_some(entry.verdict)
    }

    /// Where it cannot be written, the next process tries again.
    pub(super) fn write(&self, verdict: &Verdict) {
        let Some(key) = self.key.clone() else { return };
        let Ok(json) = serde_json::to_vec(&Entry { key, verdict: verdict.clone() }) else { return };
        let fresh = self.file.with_extension(std::process::id().to_string());
        let written = fs::File::create_new(&fresh).and_then(|mut file| file.write_all(&json));
        if written.and_then(|()| fs::rename(&fresh, &self.file)).is_err() {
            fs::remove_file(&fresh).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_kept_for_what_it_was_found_with() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        fs::write(&qemu, "one").unwrap();
        let kept = |guest: &str| Kept::of(dir.path(), Path::new(guest), &qemu);
        assert_eq!(kept("/guest-1").read(), None);
        let verdict = Verdict::tcg("it hangs");
        kept("/guest-1").write(&verdict);
        kept("/guest-1").write(&verdict);
        assert_eq!(kept("/guest-1").read(), Some(verdict));
        assert_eq!(kept("/guest-2").read(), None);
        fs::write(&qemu, "another").unwrap();
        assert_eq!(kept("/guest-1").read(), None);
    }

    #[test]
    fn what_was_kept_by_half_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), Path::new("/guest"), Path::new("/proc/self/exe"));
        kept.write(&Verdict::kvm());
        assert_eq!(kept.read(), Some(Verdict::kvm()));
        let whole = fs::read(&kept.file).unwrap();
        fs::write(&kept.file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(kept.read(), None);
    }
}
