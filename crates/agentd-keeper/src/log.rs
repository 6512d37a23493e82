//! What detached commands print: both streams of all of them in one file for each sandbox, bounded.

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

/// Bytes after which nothing more is kept, and that is said.
const MOST: u64 = 64 << 20;

/// Where the output of the detached commands of a sandbox is, below its folder for logs.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("output")
}

/// The log, to be appended to. It lies in a folder that no payload reaches.
pub(crate) fn open(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder))
}

/// Appends what comes from a pipe, until its end.
pub(crate) async fn append(from: OwnedFd, mut to: File) -> io::Result<()> {
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut buffer = vec![0u8; 64 << 10];
    let mut told = false;
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let room = MOST.saturating_sub(to.metadata()?.len());
        let kept = read.min(usize::try_from(room).unwrap_or(usize::MAX));
        to.write_all(&buffer[..kept])?;
        if kept < read && !told {
            told = true;
            writeln!(to, "\n[agentd: more than {MOST} bytes: the rest is not kept]")?;
        }
    }
}
