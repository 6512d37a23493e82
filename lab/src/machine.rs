//! QEMU: how it is called, and what accelerates it.

use crate::{
    error::{Calling, LabError},
    kernel::Kernel,
    message::{CONTROL, FILES, STDERR, STDOUT},
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

/// Files of [`Console::Log`].
const KERNEL_LOG: &str = "kernel.log";
const QEMU_LOG: &str = "qemu.log";

/// A machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// What boots.
    pub kernel: &'a Kernel,
    /// The disk that is its root, which stays as it is.
    pub root: &'a Path,
    /// A second disk, below `/lab`.
    pub share: Option<&'a Path>,
    /// MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// Whether the caller's terminal is its console; otherwise a file is.
    pub console: Console,
}

/// What runs a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// A translator, which translates the instructions of virtualization too.
    Software,
}

/// Where the machine's console is.
#[derive(Debug)]
pub enum Console {
    /// The terminal of this process.
    Terminal,
    /// A folder with what the kernel says, and what QEMU says, to be looked at when the machine dies.
    Log(PathBuf),
}

/// A started machine and the other ends of its ports, by name.
#[derive(Debug)]
pub struct Running {
    /// QEMU.
    pub qemu: Child,
    /// By the names in [`crate::message`].
    pub ports: BTreeMap<&'static str, UnixStream>,
}

impl Machine<'_> {
    /// Starts it. QEMU dies when the thread that started it does.
    pub fn start(&self) -> Result<Running, LabError> {
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(self.arguments());
        let (mut ports, mut theirs) = (BTreeMap::new(), Vec::new());
        for name in [CONTROL, STDOUT, STDERR, FILES] {
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
        Ok(Running { qemu, ports })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut list: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| list.extend([option.into(), value]);
        let (accelerator, processor) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // One thread for each processor; virtualization as AMD has it is what QEMU knows to translate. Pages are found
            // faster without a fifth level.
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
        // A kernel that panics is at its end, and so is QEMU then.
        add("-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable".into());
        // What is written goes to a file without a name.
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
    // A comma separates options; two are one of a name.
    let name = image.to_string_lossy().replace(',', ",,");
    format!("file={name},format=raw,if=virtio,{more}").into()
}

/// The last lines of what kernel and QEMU said.
pub fn last_words(folder: &Path) -> String {
    let lines = |file: &str, count: usize| {
        let text = fs::read(folder.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    };
    let last = [lines(KERNEL_LOG, 40), lines(QEMU_LOG, 5)].concat();
    if last.is_empty() { "nothing was said".to_owned() } else { format!("\n  {}", last.join("\n  ")) }
}
