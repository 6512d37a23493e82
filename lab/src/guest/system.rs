//! Sets up a system as an init would: mounts, devices, network, limits.

use crate::error::{Calling, LabError};
use crate::tool;
use rustix::{
    fs::Mode,
    mount::{MountFlags, mount, mount_move},
    process::{Resource, Rlimit},
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `/proc`, from which the kind of processor is read.
pub fn mount_proc() -> Result<(), LabError> {
    attach("proc", "/proc", "proc", SAFE, "")
}

/// Makes the disk the root file system.
pub fn enter() -> Result<(), LabError> {
    attach("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=755")?;
    attach("/dev/vda", "/root", "ext4", MountFlags::empty(), "")?;
    mount_move("/dev", "/root/dev").calling(|| "move /dev".to_owned())?;
    rustix::process::chdir("/root").calling(|| "chdir /root".to_owned())?;
    mount_move(".", "/").calling(|| "move the root".to_owned())?;
    rustix::process::chroot(".").calling(|| "chroot".to_owned())?;
    mount_proc()?;
    attach("sysfs", "/sys", "sysfs", SAFE, "")
}

/// Mounts the other file systems, and sets up devices, limits and the network.
pub fn arrange() -> Result<(), LabError> {
    for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir_all(folder).on("mkdir", Path::new(folder))?;
    }
    attach("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "gid=5,mode=620,ptmxmode=000")?;
    attach("tmpfs", "/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "")?;
    attach("mqueue", "/dev/mqueue", "mqueue", SAFE, "")?;
    attach("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=755")?;
    attach("cgroup2", "/sys/fs/cgroup", "cgroup2", SAFE, "nsdelegate,memory_recursiveprot")?;
    if Path::new("/dev/vdb").exists() {
        attach("/dev/vdb", "/lab", "ext4", MountFlags::RDONLY | MountFlags::NODEV, "")?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let link = Path::new("/dev").join(link);
        symlink(target, &link).on("link", &link)?;
    }
    // The modes that udev's rules set.
    for device in ["/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vsock", "/dev/vhost-vsock"].map(Path::new) {
        if device.exists() {
            fs::set_permissions(device, fs::Permissions::from_mode(0o666)).on("chmod", device)?;
        }
    }
    // The limits that systemd sets for services.
    let files = Rlimit { current: Some(1024), maximum: Some(524_288) };
    rustix::process::setrlimit(Resource::Nofile, files).calling(|| "setrlimit".to_owned())?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    rustix::system::sethostname(b"lab").calling(|| "sethostname".to_owned())?;
    network()
}

/// Sets up loopback, and an interface with a default route that leads nowhere. Tests need an interface that a sandbox must not
/// see.
fn network() -> Result<(), LabError> {
    let calls =
        ["link set lo up", "link set dummy0 up", "address add 192.0.2.2/24 dev dummy0", "route add default via 192.0.2.1"];
    for call in calls {
        tool::output(Command::new("/sbin/ip").args(call.split(' ')))?;
    }
    Ok(())
}

fn attach(source: &str, target: &str, kind: &str, flags: MountFlags, data: &str) -> Result<(), LabError> {
    let data = std::ffi::CString::new(data).calling(|| format!("mount {target}"))?;
    mount(source, target, kind, flags, data.as_c_str()).calling(|| format!("mount {kind} at {target}"))
}
