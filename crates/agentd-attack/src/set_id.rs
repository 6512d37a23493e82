//! A6: a set-id program in the workspace. Executed outside the sandbox, where `nosuid` does not apply, it would run with the ids
//! of the workspace's owner.
//!
//! Set-group-id directories are allowed. Therefore each call that changes modes is also tried on a name that first refers to a
//! directory, and then to a file.

use crate::{
    check::{Facts, Verdict, broken_if, first},
    sys,
};
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// The modes set-user-id, set-group-id, and both.
const MODES: [u32; 3] = [0o4755, 0o2755, 0o6755];
/// The number of times that the mode of a name is changed while another thread exchanges a directory and a file at that name.
const EXCHANGES: usize = 300;
/// `fchmodat2(2)`, Linux 6.6.
const FCHMODAT2: libc::c_long = 452;
/// `AT_FDCWD` (-100) as the kernel reads it.
const HERE: usize = 0xffff_ff9c;

/// Tries to leave set-id programs in the workspace.
pub(crate) fn leave(facts: &Facts) -> Verdict {
    let workspace = match facts.get("workspace") {
        Ok(workspace) => workspace,
        Err(missing) => return missing,
    };
    let place = PathBuf::from(format!("{workspace}/agentd-attack-set-id-{}", std::process::id()));
    let tried = fs::create_dir(&place).and_then(|()| MODES.iter().try_for_each(|mode| try_all(&place, *mode)));
    let found =
        first(dangerous(&place).into_iter().map(|path| broken_if(true, || format!("left {} with set-id bits", path.display()))));
    // Cleaning up changes no verdict.
    fs::remove_dir_all(&place).ok();
    match (tried, found) {
        (_, Verdict::Broken(what)) => Verdict::Broken(what),
        (Err(error), _) => Verdict::NotTried(format!("prepare files in the workspace: {error}")),
        (Ok(()), verdict) => verdict,
    }
}

/// Tries every call, each on its own file. The names of the files identify the call that left them. Errors of the calls are
/// ignored, because [`dangerous`] looks for the files that they left.
fn try_all(place: &Path, mode: u32) -> io::Result<()> {
    let named = |call: &str| place.join(format!("{call}-{mode:o}"));
    let made = |call: &str| fs::write(named(call), "").map(|()| named(call));
    let c = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other);
    let (bits, here) = (mode as usize, HERE);

    // Changes of mode, by each call and through names of other types.
    fs::set_permissions(made("chmod")?, fs::Permissions::from_mode(mode)).ok();
    File::open(made("fchmod")?)?.set_permissions(fs::Permissions::from_mode(mode)).ok();
    let path = c(&made("fchmodat")?)?;
    sys::call(libc::SYS_fchmodat, [here, path.as_ptr() as usize, bits, 0, 0]);
    let path = c(&made("fchmodat2")?)?;
    sys::call(FCHMODAT2, [here, path.as_ptr() as usize, bits, 0, 0]);
    let handle = File::options().read(true).custom_flags(libc::O_PATH).open(made("descriptor")?)?;
    fs::set_permissions(format!("/proc/self/fd/{}", handle.as_raw_fd()), fs::Permissions::from_mode(mode)).ok();
    symlink(made("link")?, named("link-to"))?;
    fs::set_permissions(named("link-to"), fs::Permissions::from_mode(mode)).ok();

    // New files created with the mode.
    File::options().write(true).create_new(true).mode(mode).open(named("open")).ok();
    let path = c(&named("creat"))?;
    #[cfg(target_arch = "x86_64")]
    sys::call(libc::SYS_creat, [path.as_ptr() as usize, bits, 0, 0, 0]);
    sys::call(libc::SYS_mknodat, [here, path.as_ptr() as usize, libc::S_IFREG as usize | bits, 0, 0]);
    if let Ok(file) = File::options().write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(place) {
        let (from, to) = (c(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?, c(&named("unnamed"))?);
        let follow = libc::AT_SYMLINK_FOLLOW as usize;
        sys::call(libc::SYS_linkat, [here, from.as_ptr() as usize, here, to.as_ptr() as usize, follow]);
    }

    // A directory with the mode, which is then replaced by a file of the same name.
    let directory = named("directory");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).ok();
    fs::write(directory.join("inherits"), "")?;
    fs::rename(directory.join("inherits"), named("inherits"))?;
    exchange(&made("exchanged")?, &directory, mode)?;

    // File capabilities have the same effect: CAP_SETUID, effective (`struct vfs_cap_data`, revision 2).
    let capability: [u32; 5] = [0x0200_0001, 1 << 7, 0, 0, 0];
    let path = c(&made("capability")?)?;
    let value = capability.as_ptr() as usize;
    sys::call(libc::SYS_setxattr, [path.as_ptr() as usize, CAPABILITY.as_ptr() as usize, value, size_of_val(&capability), 0]);
    Ok(())
}

const CAPABILITY: &std::ffi::CStr = c"security.capability";

/// Changes the mode of a name while another thread exchanges the file and the directory at that name.
fn exchange(file: &Path, directory: &Path, mode: u32) -> io::Result<()> {
    let c = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other);
    let (one, two, here) = (c(file)?, c(directory)?, HERE);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let names = [here, one.as_ptr() as usize, here, two.as_ptr() as usize, libc::RENAME_EXCHANGE as usize];
                sys::call(libc::SYS_renameat2, names);
            }
        });
        for _ in 0..EXCHANGES {
            // The caller looks for the files that the call left.
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).ok();
        }
        done.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Returns the regular files in `place` that raise the privileges of the user who executes them.
fn dangerous(place: &Path) -> Vec<PathBuf> {
    let has_capability = |path: &Path| {
        let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else { return false };
        sys::call(libc::SYS_getxattr, [path.as_ptr() as usize, CAPABILITY.as_ptr() as usize, 0, 0, 0]) == 0
    };
    let set_id = |path: &Path| fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o6000 != 0);
    let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| set_id(path) || has_capability(path)).collect()
}
