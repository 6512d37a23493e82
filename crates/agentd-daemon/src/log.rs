//! The output of detached commands: one file for each sandbox, of limited size, with both streams of all its commands. Writing to
//! the file may wait for the disk, so it happens in separate threads.

use agentd_isolation::protect::Report;
use agentd_log::LogFailure as _;
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle};

/// Size in bytes after which the log records that it is full and keeps nothing more.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// The time for which the daemon waits for output to be written when it ends.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the path of the output of a sandbox's detached commands, below its folder for logs.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("output")
}

/// Opens the log for appending, several times. No payload can reach the folder of the log.
pub(crate) async fn open<const COUNT: usize>(folder: PathBuf) -> io::Result<[File; COUNT]> {
    let open = move || {
        let files = (0..COUNT).map(|_| open_one(&folder)).collect::<io::Result<Vec<_>>>()?;
        files.try_into().map_err(|_| io::ErrorKind::Other.into())
    };
    in_thread(open).await
}

fn open_one(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path(folder))
}

/// Appends a line for each warning about protected paths.
pub(crate) async fn note(mut to: File, report: Report) -> io::Result<()> {
    in_thread(move || report.warnings().iter().try_for_each(|warning| writeln!(to, "[agentd: warning: {warning}]"))).await
}

/// Copies a pipe to the log until the pipe ends.
pub(crate) async fn append(from: OwnedFd, to: File) -> io::Result<()> {
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut log = Log { file: to, is_full: false };
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let keep = move || {
            log.keep(&buffer[..read])?;
            Ok((log, buffer))
        };
        (log, buffer) = in_thread(keep).await?;
    }
}

/// A log that is being written.
struct Log {
    file: File,
    /// True once the log records that it is full.
    is_full: bool,
}

impl Log {
    fn keep(&mut self, output: &[u8]) -> io::Result<()> {
        let room = MAX_LOG_BYTES.saturating_sub(self.file.metadata()?.len());
        let kept = output.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.file.write_all(&output[..kept])?;
        if kept < output.len() && !self.is_full {
            self.is_full = true;
            writeln!(self.file, "\n[agentd: log limit of {MAX_LOG_BYTES} bytes reached; further output is discarded]")?;
        }
        Ok(())
    }
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The tasks that write to logs.
#[derive(Default)]
pub(crate) struct Writers(Mutex<Vec<JoinHandle<()>>>);

impl Writers {
    /// Starts a task that the daemon waits for before it ends.
    pub(crate) fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut all = self.all();
        all.retain(|task| !task.is_finished());
        all.push(tokio::spawn(task));
    }

    /// Waits until all tasks have written what their commands left in the pipes. The commands must have ended.
    pub(crate) async fn finish(&self) {
        let all = std::mem::take(&mut *self.all());
        let wait = async {
            for task in all {
                task.await.or_warn("write to the log of a sandbox", "task");
            }
        };
        tokio::time::timeout(FINISH_TIMEOUT, wait).await.or_warn("write the last output of detached commands", "daemon");
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::Read,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    #[tokio::test]
    async fn output_in_a_pipe_is_in_the_log_when_the_writers_have_finished() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = io::pipe().unwrap();
        let line = "the last line\n";
        (&to).write_all(line.as_bytes()).unwrap();
        drop(to);
        let [file] = open(place.path().join("log")).await.unwrap();
        let writers = Writers::default();
        writers.start(async move { append(from.into(), file).await.unwrap() });
        writers.finish().await;
        assert_eq!(fs::read_to_string(path(&place.path().join("log"))).unwrap(), line);
    }

    #[tokio::test]
    async fn log_that_cannot_be_written_now_does_not_block_other_tasks() {
        let (output, mut command) = io::pipe().unwrap();
        // A full pipe simulates a slow disk.
        let (mut disk, file) = io::pipe().unwrap();
        let (step, steps) = (4 << 10, 100);
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let command = std::thread::spawn(move || {
            for _ in 0..steps {
                command.write_all(&vec![b'x'; step]).unwrap();
                count.fetch_add(step, Ordering::Relaxed);
            }
        });
        let appended = tokio::spawn(append(output.into(), File::from(OwnedFd::from(file))));
        // The pipes are full, and the task holds further output, so the task waits for the disk.
        while written.load(Ordering::Relaxed) <= 2 * (64 << 10) {
            tokio::task::yield_now().await;
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            disk.read_to_end(&mut all).map(|_| all.len())
        });
        assert_eq!(read.await.unwrap().unwrap(), step * steps);
        appended.await.unwrap().unwrap();
        command.join().unwrap();
    }
}
