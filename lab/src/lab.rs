//! The story of one run.

use crate::{
    args::{Args, Lab, Task},
    error::{Calling, LabError},
    firecracker, kernel,
    machine::{Accelerator, Console, Machine},
    message::{Report, Request},
    root, share, talk,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a machine that can boot under KVM needs at most, by far.
const TRIAL: Duration = Duration::from_secs(10);

/// How often an emulated machine is started before it is given up.
const STARTS: u32 = 3;

/// Runs the task; the exit code.
pub fn main(args: Args) -> Result<u8, LabError> {
    let Task::Lab(lab) = args.task;
    let cache = cache()?;
    let preparing = lock(&cache)?;
    let kernel = kernel::prepare(lab.kernel, &cache)?;
    let root = root::prepare(&cache)?;
    let scratch = tempfile::tempdir_in(&cache).on("make a folder in", &cache)?;
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
    let request = Request { command, env, user, console, copy_out };
    match begun(machine.accelerator, || talk::run(&machine, &request, &into, limit))? {
        Report::Failed(why) => Err(LabError::Guest(why)),
        report => report.code().ok_or_else(|| LabError::Guest(format!("{report:?}"))),
    }
}

/// Starts a machine again that died before it began with its command. An emulated one with more than one processor does so now and then: Linux
/// patches its own code when it comes up, and QEMU's translator may have another processor execute the breakpoint that stands there meanwhile.
fn begun(accelerator: Accelerator, run: impl Fn() -> Result<Report, LabError>) -> Result<Report, LabError> {
    for _ in 1..STARTS {
        match run() {
            Err(LabError::Died { begun: false, detail, .. }) if accelerator == Accelerator::Software => {
                eprintln!("lab: the machine ended before it began ({detail}), and is started again");
            }
            ran => return ran,
        }
    }
    run()
}

/// What is kept between runs: `target/lab` of this project. Without it all is fetched and made anew.
fn cache() -> Result<PathBuf, LabError> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = manifest.parent().unwrap_or(manifest).join("target/lab");
    fs::create_dir_all(&cache).on("mkdir", &cache)?;
    Ok(cache)
}

/// Held while something may be fetched or made, so that of several runs at once one does it.
fn lock(cache: &Path) -> Result<fs::File, LabError> {
    let path = cache.join("lock");
    let file = fs::File::create(&path).on("make", &path)?;
    file.lock().on("lock", &path)?;
    Ok(file)
}

/// The disk of what is brought into the machine, if anything is.
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

/// Whether KVM boots this kernel here, which is tried: a device that answers may still not be able to. The answer is kept for as long as
/// kernel, processor and QEMU are the same.
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
        "lab: KVM boots {}: {} ({:.1} s)",
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
    fn only_an_emulated_machine_that_had_not_begun_is_started_again() {
        let tried = |accelerator, begun_with| {
            let starts = Cell::new(0);
            let ended = begun(accelerator, || {
                starts.set(starts.get() + 1);
                Err(LabError::Died { detail: String::new(), begun: begun_with, console: String::new() })
            });
            assert!(matches!(ended, Err(LabError::Died { .. })));
            starts.get()
        };
        assert_eq!(tried(Accelerator::Software, false), STARTS);
        assert_eq!(tried(Accelerator::Software, true), 1);
        assert_eq!(tried(Accelerator::Kvm, false), 1);
        assert!(matches!(begun(Accelerator::Software, || Ok(Report::Exited(3))), Ok(Report::Exited(3))));
    }
}
