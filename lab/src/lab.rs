//! One run of the lab: prepares a machine, runs the command in it, and returns the result.

use crate::{
    args::Lab,
    error::{Calling, LabError},
    firecracker, kernel,
    machine::{Accelerator, Console, Machine},
    message::{CommandRequest, Report},
    root,
    scratch::Scratch,
    share, talk,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The time limit for a boot under KVM. A machine that boots at all needs far less.
const TRIAL: Duration = Duration::from_secs(10);

/// The number of times that an emulated machine is started before the run fails.
const STARTS: u32 = 3;

/// Start of the line that is printed before a machine is started again. What the machine printed before that line does not count.
pub const RESTARTED: &str = "lab: starting the machine again:";

/// Runs `cargo xtask lab`; returns the exit code.
pub fn main(lab: Lab) -> Result<u8, LabError> {
    let cache = cache()?;
    let preparing = lock(&cache)?;
    let kernel = kernel::prepare(lab.kernel, &cache)?;
    let root = root::prepare(&cache)?;
    let scratch = Scratch::new(&cache.join("scratch"), |_| ())?;
    let share = share(&lab, &kernel.vmlinux, &cache, scratch.path())?;
    let mut machine = Machine {
        kernel: &kernel,
        root: &root,
        share: share.as_deref(),
        memory: lab.memory,
        cpus: lab.cpus,
        accelerator: Accelerator::Software,
        console: Console::Log(scratch.path().to_path_buf()),
    };
    if kvm_boots(&mut machine, &cache)? {
        machine.accelerator = Accelerator::Kvm;
    }
    drop(preparing);
    let console = lab.command == ["shell"];
    let limit = (!console).then_some(Duration::from_secs(lab.timeout));
    if console {
        machine.console = Console::Terminal;
    }
    let Lab { command, env, user, copy_out, into, .. } = lab;
    let request = CommandRequest { command, env, user, console, copy_out };
    match begun(machine.accelerator, || talk::run(&machine, &request, &into, limit))? {
        Report::Failed(why) => Err(LabError::Guest(why)),
        report => report.code().ok_or_else(|| LabError::Guest(format!("{report:?}"))),
    }
}

/// Runs an emulated machine, and starts it again if the emulation killed its kernel: before the command has started, or by a
/// breakpoint in the kernel's own code. Linux replaces the first byte of an instruction that it patches by a breakpoint for a
/// moment (`smp_text_poke_batch_finish` in `arch/x86/kernel/alternative.c`). QEMU's translator may have another processor execute
/// that breakpoint later, when the kernel no longer expects it. A program in the machine cannot cause that: breakpoints of user
/// mode become signals. Any other death of a kernel whose command has started is a failure.
fn begun(accelerator: Accelerator, run: impl Fn() -> Result<Report, LabError>) -> Result<Report, LabError> {
    for _ in 1..STARTS {
        let detail = match run() {
            Err(LabError::Died { begun: false, detail, .. }) if accelerator == Accelerator::Software => {
                format!("before the command started ({detail})")
            }
            Err(LabError::Died { breakpoint: true, .. }) if accelerator == Accelerator::Software => {
                "by a breakpoint in its own kernel, left by the emulation".to_owned()
            }
            ran => return ran,
        };
        eprintln!("{RESTARTED} it ended {detail}");
    }
    run()
}

/// Returns the folder of files that are kept between runs: `target/lab` of this project. Deleting it only costs time: everything
/// in it is fetched or created again.
fn cache() -> Result<PathBuf, LabError> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = manifest.parent().unwrap_or(manifest).join("target/lab");
    fs::create_dir_all(&cache).on("mkdir", &cache)?;
    Ok(cache)
}

/// Takes the lock for fetching and creating files, so that only one of several concurrent runs does it.
fn lock(cache: &Path) -> Result<fs::File, LabError> {
    let path = cache.join("lock");
    let file = fs::File::create(&path).on("create", &path)?;
    file.lock().on("lock", &path)?;
    Ok(file)
}

/// Creates the disk with the files to bring into the machine, if there are any.
fn share(lab: &Lab, vmlinux: &Path, cache: &Path, scratch: &Path) -> Result<Option<PathBuf>, LabError> {
    let mut brought = lab.bring.clone();
    if lab.firecracker {
        brought.extend([firecracker::prepare(cache)?, vmlinux.to_path_buf()]);
    }
    if brought.is_empty() {
        return Ok(None);
    }
    let image = scratch.join("share.ext4");
    share::make(brought.iter().map(PathBuf::as_path), scratch, &image)?;
    Ok(Some(image))
}

/// Returns true if KVM boots this kernel on this host. Boots the kernel to find out, because `/dev/kvm` may exist without
/// working. The result is stored as long as the guest kernel, the host kernel, the processor and QEMU stay the same.
fn kvm_boots(machine: &mut Machine<'_>, cache: &Path) -> Result<bool, LabError> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let processor = fs::read_to_string("/proc/cpuinfo").on("read", Path::new("/proc/cpuinfo"))?;
    let processor = processor.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let host = fs::read_to_string("/proc/version").on("read", Path::new("/proc/version"))?;
    let all = format!("{}\n{processor}\n{host}\n{}", machine.kernel.name, talk::qemu_version()?);
    let key: String = Sha256::digest(all).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let known = cache.join(format!("kvm-{key}"));
    if let Ok(answer) = fs::read_to_string(&known) {
        return Ok(answer == "yes");
    }
    let started = Instant::now();
    machine.accelerator = Accelerator::Kvm;
    let answer = match talk::boots(machine, TRIAL) {
        Ok(()) => "yes".to_owned(),
        Err(error) => format!("no: {error}"),
    };
    machine.accelerator = Accelerator::Software;
    eprintln!(
        "lab: {} boots with KVM: {} ({:.1} s)",
        machine.kernel.name,
        answer.lines().last().unwrap_or_default(),
        started.elapsed().as_secs_f32()
    );
    fs::write(&known, &answer).on("write", &known)?;
    Ok(answer == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn emulated_machine_is_restarted_if_emulation_killed_its_kernel() {
        let starts_of = |accelerator, begun_with, breakpoint| {
            let starts = Cell::new(0);
            let ended = begun(accelerator, || {
                starts.set(starts.get() + 1);
                Err(LabError::Died { detail: String::new(), begun: begun_with, breakpoint, console: String::new() })
            });
            assert!(matches!(ended, Err(LabError::Died { .. })));
            starts.get()
        };
        assert_eq!(starts_of(Accelerator::Software, false, false), STARTS);
        assert_eq!(starts_of(Accelerator::Software, true, true), STARTS);
        assert_eq!(starts_of(Accelerator::Software, true, false), 1);
        assert_eq!(starts_of(Accelerator::Kvm, false, false), 1);
        assert_eq!(starts_of(Accelerator::Kvm, true, true), 1);
        assert!(matches!(begun(Accelerator::Software, || Ok(Report::Exited(3))), Ok(Report::Exited(3))));
    }
}
