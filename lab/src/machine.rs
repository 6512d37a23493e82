//! Starts QEMU, with KVM or with emulation.

use crate::{
    error::{Calling, LabError},
    kernel::Kernel,
    message::{CONTROL, FILES, PULSE, STDERR, STDOUT},
    tsc,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Files below the folder of [`Console::Log`].
const KERNEL_LOG: &str = "kernel.log";
const QEMU_LOG: &str = "qemu.log";

/// The configuration of a machine.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// The disk with the root file system, which is not changed.
    pub root: &'a Path,
    /// A second disk, mounted at `/lab`.
    pub share: Option<&'a Path>,
    /// Memory, in MiB.
    pub memory: u32,
    /// Number of processors.
    pub cpus: u32,
    /// KVM or emulation.
    pub accelerator: Accelerator,
    /// The console.
    pub console: Console,
}

/// The execution of a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor executes the instructions, through KVM.
    Kvm,
    /// QEMU's translator executes the instructions, including those of virtualisation.
    Software,
}

/// The machine's console.
#[derive(Debug)]
pub enum Console {
    /// The terminal of this process.
    Terminal,
    /// A folder with the logs of the kernel and of QEMU, which are printed if the machine dies.
    Log(PathBuf),
}

/// A running machine, and the host's ends of its ports.
#[derive(Debug)]
pub struct RunningMachine {
    /// The QEMU process.
    pub qemu: Child,
    /// The ports, by the names in [`crate::message`].
    pub ports: BTreeMap<&'static str, UnixStream>,
}

impl Machine<'_> {
    /// Starts the machine. The kernel kills QEMU when the calling thread ends.
    pub fn start(&self) -> Result<RunningMachine, LabError> {
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(self.arguments());
        let (mut ports, mut theirs) = (BTreeMap::new(), Vec::new());
        for name in [CONTROL, STDOUT, STDERR, FILES, PULSE] {
            let (here, there) = UnixStream::pair().calling(|| "socketpair".to_owned())?;
            rustix::io::fcntl_setfd(there.as_fd(), rustix::io::FdFlags::empty()).calling(|| "fcntl".to_owned())?;
            qemu.args(["-chardev", &format!("socket,id={name},fd={}", there.as_raw_fd())]);
            qemu.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
            ports.insert(name, here);
            theirs.push(there);
        }
        if let Console::Log(folder) = &self.console {
            let said = folder.join(QEMU_LOG);
            qemu.stdin(Stdio::null()).stderr(File::create(&said).on("create", &said)?);
        }
        let qemu = qemu.spawn().calling(|| "start setpriv and qemu-system-x86_64".to_owned())?;
        Ok(RunningMachine { qemu, ports })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut list: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| list.extend([option.into(), value]);
        let (accelerator, processor) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // One thread for each processor. QEMU can emulate only AMD's virtualisation instructions. Without five-level page
            // tables, address translation is faster.
            Accelerator::Software => ("tcg,thread=multi", "max,+svm,la57=off"),
        };
        add("-machine", "q35".into());
        add("-accel", accelerator.into());
        add("-cpu", processor.into());
        add("-smp", self.cpus.to_string().into());
        add("-m", self.memory.to_string().into());
        add("-display", "none".into());
        add("-kernel", self.kernel.vmlinux.clone().into());
        add("-initrd", self.kernel.initramfs.clone().into());
        // With `panic=-1` and `-no-reboot`, a kernel panic ends QEMU. `tsc=reliable`: on a busy host, the kernel would stop using
        // the counter because other clocks are read late.
        let mut kernel = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable".to_owned();
        if let Accelerator::Software = self.accelerator {
            // Emulated machines read the host's counter. A kernel that measures its frequency while the host is busy gets a wrong
            // one, and its clock then runs up to ten times too fast.
            kernel += &format!(" tsc_early_khz={}", tsc::khz());
        }
        add("-append", kernel.into());
        // The machine's writes go to an unnamed temporary file.
        add("-drive", drive(self.root, "snapshot=on,cache=unsafe"));
        if let Some(share) = self.share {
            add("-drive", drive(share, "readonly=on"));
        }
        add("-device", "virtio-serial-pci".into());
        let console: OsString = match &self.console {
            Console::Terminal => "stdio".into(),
            Console::Log(folder) => ["file:".into(), folder.join(KERNEL_LOG).into_os_string()].into_iter().collect(),
        };
        add("-serial", console);
        list.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
        list
    }
}

fn drive(image: &Path, more: &str) -> OsString {
    // A comma separates options; two commas stand for a comma in a name.
    let name = image.to_string_lossy().replace(',', ",,");
    format!("file={name},format=raw,if=virtio,{more}").into()
}

/// Returns true if the kernel's log reports a breakpoint in the kernel's own code, for which no handler existed (`die("int3", …)`
/// in `arch/x86/kernel/traps.c`).
pub fn hit_breakpoint(folder: &Path) -> bool {
    let log = fs::read(folder.join(KERNEL_LOG)).unwrap_or_default();
    String::from_utf8_lossy(&log).lines().any(|line| line.split_once("] ").is_some_and(|(_, text)| is_breakpoint(text)))
}

/// Since Linux 6.11, the text begins with "Oops: ".
fn is_breakpoint(text: &str) -> bool {
    text.strip_prefix("Oops: ").unwrap_or(text).starts_with("int3: 0000 [#1]")
}

/// Returns the last lines of the logs of the kernel and of QEMU.
pub fn last_words(folder: &Path) -> String {
    let lines = |file: &str, count: usize| {
        let text = fs::read(folder.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    };
    let last = [lines(KERNEL_LOG, 40), lines(QEMU_LOG, 5)].concat();
    if last.is_empty() { "(none)".to_owned() } else { format!("\n  {}", last.join("\n  ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_report_of_kernel_about_its_own_breakpoint_is_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let hit = |log: &str| {
            fs::write(folder.path().join(KERNEL_LOG), log).unwrap();
            hit_breakpoint(folder.path())
        };
        assert!(!hit_breakpoint(folder.path()));
        assert!(hit("[   57.453975] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n[   57.456012] Kernel panic - not syncing\n"));
        assert!(hit("[   12.1] int3: 0000 [#1] PREEMPT SMP NOPTI\n"));
        assert!(!hit("[   12.1] traps: test[71] trap int3 ip:401000 sp:7ffd error:0 in test[401000+1000]\n"));
        assert!(!hit("[   12.1] Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI\n"));
    }
}
