//! The mark of a sandbox whose processes may run: a file with the time of the last comparison of its protected paths.
//!
//! The daemon removes the mark when all processes have ended and the paths have been compared. If a new daemon finds it, the
//! daemon before it was killed, and the new one reports the paths that have changed since that time. The file lies in the
//! sandbox's folder for logs, which no payload can reach.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The name of the file, below the folder for logs.
const FILE: &str = "compared";

/// The name under which a new file is written.
const DRAFT: &str = "compared.new";

/// Returns the time of the last comparison before the previous daemon was killed; `None` if it was not killed. The time is that
/// of this call if the file cannot be read or is damaged.
pub(crate) fn read(folder: &Path) -> Option<SystemTime> {
    let time = match fs::read_to_string(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        text => {
            text.ok().and_then(|text| text.parse().ok()).and_then(|since| UNIX_EPOCH.checked_add(Duration::from_nanos(since)))
        }
    };
    Some(time.unwrap_or_else(SystemTime::now))
}

/// Writes the time of the last comparison. Only one writer may call this function at a time. The file need not survive a crash of
/// the host, which also ends the processes.
pub(crate) fn write(folder: &Path, compared: SystemTime) -> io::Result<()> {
    let since = compared.duration_since(UNIX_EPOCH).unwrap_or_default();
    let draft = folder.join(DRAFT);
    fs::write(&draft, since.as_nanos().to_string())?;
    fs::rename(draft, folder.join(FILE))
}

/// Removes the file.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_round_trips_and_a_damaged_file_is_not_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        remove(folder.path()).unwrap();
        for time in [UNIX_EPOCH, SystemTime::now()] {
            write(folder.path(), time).unwrap();
            assert_eq!(read(folder.path()), Some(time));
        }
        for damaged in ["", "x", "99999999999999999999999", "-1"] {
            fs::write(folder.path().join(FILE), damaged).unwrap();
            assert!(read(folder.path()).is_some(), "{damaged}");
        }
        remove(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
