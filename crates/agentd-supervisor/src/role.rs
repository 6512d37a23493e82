//! Helper processes: the same program, executed again under a [`Role`].
//!
//! A program with threads cannot be forked safely, and no sandbox may reach the program's file (CVE-2019-5736). A helper is
//! therefore executed from a sealed copy in memory, in which the embedding program's `main` runs again. The role handler
//! (`agentd_isolation::take_role`), called first in `main`, takes over the process. Without the handler, `main` would start
//! helpers that run `main`, recursively. Therefore only this module can execute the program again, and it rejects a program that
//! installed no handler.

use agentd_core::IsolationError;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The environment variable that names the role of a process. No other process may have it. A program that is started with the
/// variable but without that role exits, because a helper without a handler may have started it. On the kernel command line of a
/// machine, the kernel does not know the word and passes it to process 1 as an environment variable
/// (`Documentation/admin-guide/kernel-parameters.rst`).
pub const VARIABLE: &str = "AGENTD_ROLE";

/// Path by which the kernel starts process 1 of an initramfs (`init/main.c`).
const INIT: &str = "/init";

/// Exit code of a helper without a role handler, and of every failure of agentd itself.
pub const FAILED: i32 = 125;

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// The task of a helper process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Creates the sandboxes of a library. The control socket is its standard input.
    Launcher,
    /// Starts one Firecracker process and removes its remains.
    Shim,
    /// Runs the attacks of the probe against the sandbox that contains it.
    Attack,
    /// Serves a sandbox in a virtual machine over standard input and output.
    Guest,
    /// Carries out one operation on files, in the sandbox that contains the process.
    Tool,
    /// Is process 1 of a virtual machine.
    Init,
}

impl Role {
    const ALL: [Self; 6] = [Self::Launcher, Self::Shim, Self::Attack, Self::Guest, Self::Tool, Self::Init];

    /// Returns the value of [`VARIABLE`] in a process of this role. The name is also its `argv[0]`, except for [`Role::Init`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Launcher => "agentd-launcher",
            Self::Shim => "agentd-shim",
            Self::Attack => "agentd-attack",
            Self::Guest => "agentd-guest",
            Self::Tool => "agentd-tool",
            Self::Init => "agentd-init",
        }
    }

    /// Returns the role of this process; `None` for a program that is not a helper. Both [`VARIABLE`] and `argv[0]` must name the
    /// role. If only the variable does, this function ends the process.
    pub fn current() -> Option<Self> {
        let value = std::env::var_os(VARIABLE)?;
        let role = Self::from_names(&value, &std::env::args_os().next().unwrap_or_default());
        // `/proc` is mounted when the first process of a container starts, but not when that of a machine does.
        let in_machine = || std::process::id() == 1 && !Path::new("/proc/self").exists();
        match role {
            Some(role) if role != Self::Init || in_machine() => Some(role),
            _ => exit(&format!(
                "{VARIABLE}={}: only agentd's own helper processes may have this variable — unset it",
                value.display()
            )),
        }
    }

    fn from_names(value: &OsStr, argv0: &OsStr) -> Option<Self> {
        let role = Self::ALL.into_iter().find(|role| value == role.name())?;
        let matches = match role {
            Self::Init => argv0 == INIT,
            // The guest's shell cannot set `argv[0]` independently of the path.
            Self::Guest => Path::new(argv0).file_name().is_some_and(|name| name == role.name()),
            Self::Launcher | Self::Shim | Self::Attack | Self::Tool => argv0 == role.name(),
        };
        matches.then_some(role)
    }

    /// Returns the assignment of [`VARIABLE`] for this role, `NAME=value`.
    pub fn definition(self) -> String {
        format!("{VARIABLE}={}", self.name())
    }

    /// Creates a command that executes this program in this role, with no other environment variable.
    ///
    /// # Errors
    /// [`IsolationError::NoRoleHandler`] without a role handler; [`IsolationError::Io`] if the program cannot be copied.
    pub fn command(self) -> Result<Command, IsolationError> {
        let image = image()?;
        let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        command.arg0(self.name()).env_clear().env(VARIABLE, self.name());
        Ok(command)
    }

    /// Appends to `environment` the variable that a process of this role needs.
    pub fn mark(self, environment: &mut Vec<Vec<u8>>) {
        environment.push(OsString::from(self.definition()).as_bytes().to_vec());
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Records that this program handles roles. Only the handler may call this function.
pub fn install_handler() {
    INSTALLED.store(true, Ordering::Relaxed);
}

/// Fails in a program without a role handler. Does not return in a helper process of such a program.
///
/// # Errors
/// [`IsolationError::NoRoleHandler`].
pub fn require_handler() -> Result<(), IsolationError> {
    exit_if_unhandled();
    if INSTALLED.load(Ordering::Relaxed) { Ok(()) } else { Err(IsolationError::NoRoleHandler) }
}

/// Ends a helper process whose program has not called its role handler, so that the embedding program's own `main` is running.
/// Every entry point of the library calls this function first.
pub fn exit_if_unhandled() {
    if INSTALLED.load(Ordering::Relaxed) {
        return;
    }
    if let Some(role) = Role::current() {
        exit(&format!("cannot run as {role}: {}", IsolationError::NoRoleHandler));
    }
}

fn exit(why: &str) -> ! {
    eprintln!("agentd: {why}");
    std::process::exit(FAILED)
}

/// Returns a sealed copy of this program in memory (`memfd_create(2)`, `F_ADD_SEALS`). The first call creates the copy.
///
/// # Errors
/// [`IsolationError::NoRoleHandler`], and the errors of copying the program.
pub fn image() -> Result<BorrowedFd<'static>, IsolationError> {
    static IMAGE: OnceLock<OwnedFd> = OnceLock::new();
    require_handler()?;
    if let Some(image) = IMAGE.get() {
        return Ok(image.as_fd());
    }
    let image = sealed_copy().map_err(|source| failed("copy this program into memory", source))?;
    Ok(IMAGE.get_or_init(|| image).as_fd())
}

/// Reads the file of this program, for the initramfs of a machine in which the program has a role.
///
/// # Errors
/// [`IsolationError::NoRoleHandler`], and the errors of reading the program.
pub fn program() -> Result<Vec<u8>, IsolationError> {
    require_handler()?;
    std::fs::read("/proc/self/exe").map_err(|source| failed("read the file of this program", source))
}

fn failed(context: &str, source: io::Error) -> IsolationError {
    IsolationError::Io { context: context.to_owned(), source }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let mut source = File::open("/proc/self/exe")?;
    let image = rustix::fs::memfd_create("agentd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(image);
    io::copy(&mut source, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // Executing a file requires that no descriptor is open for writing (`execve(2)`, ETXTBSY), so return a read-only one.
    Ok(rustix::fs::open(format!("/proc/self/fd/{}", copy.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_needs_variable_and_name() {
        for (value, argv0, role) in [
            ("agentd-launcher", "agentd-launcher", Some(Role::Launcher)),
            ("agentd-launcher", "agentd-shim", None),
            ("agentd-launcher", "/usr/bin/agentd", None),
            ("launcher", "agentd-launcher", None),
            ("", "agentd-launcher", None),
            ("agentd-guest", "/run/agentd-guest", Some(Role::Guest)),
            ("agentd-guest", "/run/agentd", None),
            ("agentd-attack", "/tmp/agentd-attack", None),
            ("agentd-tool", "agentd-tool", Some(Role::Tool)),
            ("agentd-tool", "/tmp/agentd-tool", None),
            ("agentd-tool", "agentd-attack", None),
            ("agentd-init", "/init", Some(Role::Init)),
            ("agentd-init", "agentd-init", None),
            ("1", "/init", None),
        ] {
            assert_eq!(Role::from_names(OsStr::new(value), OsStr::new(argv0)), role, "{value} {argv0}");
        }
    }

    #[test]
    fn program_without_handler_gets_no_image() {
        for refused in [image().map(drop), program().map(drop), Role::Shim.command().map(drop)] {
            assert!(matches!(refused, Err(IsolationError::NoRoleHandler)));
        }
    }
}
