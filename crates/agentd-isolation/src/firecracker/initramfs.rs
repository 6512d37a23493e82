//! A machine's initramfs: the assets' modules, and this program as process 1, so that host and guest are always of one build.

use agentd_core::IsolationError;
use agentd_vm::{Assets, cpio::Archive};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::OnceLock,
};

/// This program, as far as a machine needs it. Read once, at the first machine: what is executed is what is in memory then.
pub(super) struct Program(Vec<u8>);

impl Program {
    /// This process's.
    pub(super) fn own() -> Result<&'static Self, IsolationError> {
        static OWN: OnceLock<Program> = OnceLock::new();
        if let Some(own) = OWN.get() {
            return Ok(own);
        }
        let read = || agentd_vm::loadable(&fs::read("/proc/self/exe")?);
        let read = read().map_err(|source| IsolationError::Io { context: "read agentd's own program".to_owned(), source })?;
        Ok(OWN.get_or_init(|| Self(read)))
    }

    /// Its size, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Makes the initramfs `to`.
    pub(super) fn initramfs(&self, assets: &Assets, to: &Path) -> Result<(), IsolationError> {
        self.write(assets, to).map_err(|source| IsolationError::Io { context: format!("write {}", to.display()), source })
    }

    fn write(&self, assets: &Assets, to: &Path) -> io::Result<()> {
        let mut file = File::create_new(to)?;
        io::copy(&mut File::open(assets.modules_cpio())?, &mut file)?;
        let mut archive = Archive::new(BufWriter::new(file));
        archive.file("init", 0o755, &self.0)?;
        archive.finish()?.flush()?;
        super::vm::readable(to)
    }
}
