//! Chooses the accelerator of a machine: KVM if a trial was successful, otherwise QEMU's own emulation, TCG.
//!
//! An accessible `/dev/kvm` does not prove that a machine boots, especially with nested virtualisation: QEMU may exit or hang. So
//! one machine is started with KVM once, with a time limit. The verdict is saved in the installation and is valid until the next
//! boot of the host.

use agentd_log::LogFailure as _;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The time limit of a trial with KVM. A start with KVM takes one or two seconds, or half a minute if nested in an emulated
/// machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// The KVM device of the host.
const KVM: &str = "/dev/kvm";

/// The accelerator of a machine, under QEMU's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// Returns the accelerator with its options in QEMU's syntax. `translations` is the maximum size of the cache of translated
    /// code in MiB.
    pub(super) fn option(self, translations: u64) -> String {
        match self {
            Self::Kvm => "kvm".to_owned(),
            Self::Tcg => format!("tcg,tb-size={translations}"),
        }
    }

    /// Returns the device that the accelerator needs.
    pub(super) fn device(self) -> Option<&'static Path> {
        (self == Self::Kvm).then_some(Path::new(KVM))
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulation by QEMU)",
        })
    }
}

/// The accelerator to use, and the reason not to use KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub accelerator: Accelerator,
    /// The reason not to use KVM; empty if KVM is used.
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

/// Returns the error of opening `/dev/kvm` as this user; `None` if that works.
pub(super) fn open_error() -> Option<String> {
    let opened = fs::File::options().read(true).write(true).open(KVM);
    opened.err().map(|error| format!("open {KVM}: {error}"))
}

/// The file of a saved verdict.
pub(super) struct VerdictFile {
    file: PathBuf,
    /// A description of everything that the verdict depends on. `None` if that cannot be determined.
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptVerdict {
    key: String,
    verdict: Verdict,
}

impl VerdictFile {
    /// Returns the verdict file of this user in an installation. The verdict depends on the guest, the current boot of the host
    /// and the current QEMU.
    pub(super) fn for_files(installation: &Path, guest: &Path, qemu: &Path) -> Self {
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
        let entry: KeptVerdict = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (Some(entry.key) == self.key).then_some(entry.verdict)
    }

    /// Saves a verdict. If that fails, the next process repeats the trial.
    pub(super) fn write(&self, verdict: &Verdict) {
        let Some(key) = self.key.clone() else { return };
        let fresh = self.file.with_extension(std::process::id().to_string());
        let write = || {
            let json = serde_json::to_vec(&KeptVerdict { key, verdict: verdict.clone() })?;
            fs::File::create_new(&fresh)?.write_all(&json)?;
            fs::rename(&fresh, &self.file)
        };
        if write().or_debug("save the verdict on KVM", &self.file).is_none() {
            fs::remove_file(&fresh).or_debug("remove draft", &fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_verdict_is_valid_only_for_same_guest_and_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        fs::write(&qemu, "one").unwrap();
        let kept = |guest: &str| VerdictFile::for_files(dir.path(), Path::new(guest), &qemu);
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
    fn truncated_verdict_file_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let kept = VerdictFile::for_files(dir.path(), Path::new("/guest"), Path::new("/proc/self/exe"));
        kept.write(&Verdict::kvm());
        assert_eq!(kept.read(), Some(Verdict::kvm()));
        let whole = fs::read(&kept.file).unwrap();
        fs::write(&kept.file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(kept.read(), None);
    }
}
