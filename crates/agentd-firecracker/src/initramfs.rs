//! A machine's initramfs: the modules of the assets, and agentd's own program as process 1, so that host and guest are of the
//! same build.

use agentd_core::IsolationError;
use agentd_supervisor::role;
use agentd_vm::{Assets, cpio::Archive};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::OnceLock,
};

/// The loadable part of agentd's own program. It is read once, for the first machine, so that all machines of this process get
/// the same program.
pub(super) struct AgentProgram(Vec<u8>);

impl AgentProgram {
    /// Returns the program of this process, and reads it at the first call.
    pub(super) fn current() -> Result<&'static Self, IsolationError> {
        static OWN: OnceLock<AgentProgram> = OnceLock::new();
        if let Some(own) = OWN.get() {
            return Ok(own);
        }
        let read = agentd_vm::loadable(&role::program()?)
            .map_err(|source| IsolationError::Io { context: "read agentd's own executable".to_owned(), source })?;
        Ok(OWN.get_or_init(|| Self(read)))
    }

    /// Returns the size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Creates the initramfs `to`.
    pub(super) fn initramfs(&self, assets: &Assets, to: &Path) -> Result<(), IsolationError> {
        self.write(assets, to).map_err(|source| IsolationError::Io { context: format!("write {}", to.display()), source })
    }

    fn write(&self, assets: &Assets, to: &Path) -> io::Result<()> {
        let mut file = File::create_new(to)?;
        io::copy(&mut File::open(assets.modules_cpio())?, &mut file)?;
        let mut archive = Archive::new(BufWriter::new(file));
        archive.file("init", 0o755, &self.0)?;
        archive.finish()?.flush()?;
        super::files::readable(to)
    }
}
