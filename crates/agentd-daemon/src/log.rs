//! The output of detached commands: one file for each sandbox, of limited size, with both streams of all its commands.

use agentd_isolation::protect::Report;
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// Size in bytes after which the log records that it is full and keeps nothing more.
const MOST: u64 = 64 << 20;

/// Returns the path of the output of a sandbox's detached commands, below its folder for logs.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("output")
}

/// Opens the log for appending. No payload can reach the folder of the log.
pub(crate) fn open(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder))
}

/// Appends a line for each warning about protected paths.
pub(crate) fn note(to: &mut File, report: &Report) -> io::Result<()> {
    report.warnings().iter().try_for_each(|warning| writeln!(to, "[agentd: warning: {warning}]"))
}

/// Copies a pipe to the log until the pipe ends.
pub(crate) async fn append(from: OwnedFd, mut to: File) -> io::Result<()> {
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut buffer = vec![0u8; 64 << 10];
    let mut is_full_logged = false;
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let room = MOST.saturating_sub(to.metadata()?.len());
        let kept = read.min(usize::try_from(room).unwrap_or(usize::MAX));
        to.write_all(&buffer[..kept])?;
        if kept < read && !is_full_logged {
            is_full_logged = true;
            writeln!(to, "\n[agentd: log limit of {MOST} bytes reached; further output is discarded]")?;
        }
    }
}
