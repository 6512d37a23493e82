//! The file of a sandbox with changes of protected paths that no client has received. It lies in the sandbox's folder for logs,
//! which no payload can reach, so that the changes outlive the daemon.

use agentd_isolation::protect::{Cause, Gaps, Report};
use agentd_log::LogFailure as _;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The name of the file, below the folder for logs.
const FILE: &str = "unreported";

/// The name under which a new file is written.
const DRAFT: &str = "unreported.new";

/// Returns the report in the file; an empty one if there is no file. If the file cannot be read or is damaged, the report states
/// this, because the client must learn that changes are missing.
pub(crate) fn read(folder: &Path) -> Report {
    let path = folder.join(FILE);
    let read = || -> io::Result<Report> {
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Report::default()),
            Err(error) => Err(error),
        }
    };
    let lost = || Report { gaps: Gaps::of(&path, Cause::UnreadableReport), ..Report::default() };
    read().or_warn("read unreported changes of protected paths", &path).unwrap_or_else(lost)
}

/// Replaces the file; removes it if the report is empty. Only one writer may call this function at a time.
pub(crate) fn write(folder: &Path, report: &Report) -> io::Result<()> {
    if report.is_empty() {
        return match fs::remove_file(folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let draft = folder.join(DRAFT);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(report)?)?;
    file.sync_all()?;
    fs::rename(draft, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_isolation::protect::{Change, How};
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    #[test]
    fn report_is_the_same_after_write_and_read_and_an_empty_one_removes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("/w").join(OsStr::from_bytes(b"\xff\n"));
        let change =
            Change { path, how: How::NotCompared, is_git_directory: true, digest: Some([7; 32]), grant: Some("/w".into()) };
        let mut report = Report { restarted: true, ..Report::default() };
        // A report names fewer changes, so some of these are only counted.
        report.add(Report { changes: vec![change; 1000], ..Report::default() });
        assert!(!report.omitted.is_empty());
        assert_eq!(read(folder.path()), Report::default());
        write(folder.path(), &report).unwrap();
        assert_eq!(read(folder.path()), report);
        write(folder.path(), &Report::default()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write(folder.path(), &Report::default()).unwrap();
    }
}
