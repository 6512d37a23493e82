//! Placement of the name files: mounted over the host's files in a view of its tree, or written into a root.

use super::{
    Name, NamesPlan, Resolver,
    content::name_in,
    file::{self, Filled, Present},
};
use crate::{
    ErrnoContext,
    mount::{scratch::Scratch, tree},
};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{os::fd::OwnedFd, path::Path};

/// Messages about files that could not be created.
type Messages = Vec<String>;

/// Writes into `to` the files that must differ from those in `from`, or all files if `all` is set. Returns the names of the
/// written files.
fn make(
    plan: &NamesPlan,
    from: (&OwnedFd, Filled),
    to: &OwnedFd,
    all: bool,
    notes: &mut Messages,
) -> Result<Vec<Name>, ControlError> {
    let mut made = Vec::new();
    let hosts = file::read(from.0, Name::Hosts.file(), from.1)?;
    let before = match &hosts {
        Present::Content(hosts) => name_in(hosts).map(<[u8]>::to_vec),
        _ => None,
    };
    let mut hosts = Some(hosts);
    for name in Name::ALL {
        let read = hosts.take_if(|_| name == Name::Hosts);
        let present = match read.map_or_else(|| file::read(from.0, name.file(), from.1), Ok)? {
            Present::Nothing => None,
            Present::Content(content) => Some(content),
            Present::Other(_) if name.is_replaced() => None,
            Present::Other(why) => {
                notes.push(format!("/etc/{} lacks the entry of the sandbox: {why}", name.file()));
                continue;
            }
        };
        let is_own = |host: &[u8]| before.as_deref().is_some_and(|before| before != host.trim_ascii());
        if !all && name == Name::Host && present.as_deref().is_some_and(is_own) {
            // The root was kept, and its sandbox has changed the host name.
            continue;
        }
        let as_it_is = || present.clone().filter(|_| all);
        let Some(content) = plan.content(name, present.as_deref()).or_else(as_it_is) else { continue };
        let written = match from.1 {
            // In this case, `to` is a new directory of the scratch file system.
            Filled::ByTheHost => file::create(to, name, &content),
            Filled::ByAnybody => file::replace(to, name, &content),
        };
        match written {
            Ok(()) => made.push(name),
            // The image has a directory with that name.
            Err(error) if error.errno == Some(libc::EISDIR) => notes.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// Writes the files into `root`, whose content is untrusted.
pub(in crate::mount) fn write(plan: &NamesPlan, root: &OwnedFd, notes: &mut Messages) -> Result<(), ControlError> {
    match rustix::fs::mkdirat(root, "etc", Mode::from(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(ControlError::new(Control::Mounts, "create /etc in the root", Some(errno.raw_os_error()))),
    }
    match file::etc_of(root) {
        Ok(etc) => make(plan, (&etc, Filled::ByAnybody), &etc, false, notes).map(drop),
        Err(errno) => {
            notes.push(format!("/etc of the root lacks the entries of the sandbox: open the directory: {errno}"));
            Ok(())
        }
    }
}

/// Writes all files into `to`, the upper directory of an overlay over the host's `/etc`. Unchanged files are included, because in
/// most containers some of them are mounts, which a layer of an overlay does not show.
pub(in crate::mount) fn write_over(plan: &NamesPlan, to: &Path, notes: &mut Messages) -> Result<(), ControlError> {
    let host = directory(Path::new("/etc"))?;
    make(plan, (&host, Filled::ByTheHost), &directory(to)?, true, notes).map(drop)
}

/// Mounts the files read-only over the host's. The covers of the view must be in place already.
pub(in crate::mount) fn show(plan: &NamesPlan, scratch: &Scratch, notes: &mut Messages) -> Result<(), ControlError> {
    let host = directory(Path::new("/etc"))?;
    let own = scratch.directory("names", 0o755)?;
    let made = make(plan, (&host, Filled::ByTheHost), &directory(&own)?, false, notes)?;
    tree::show(&own, &own)?;
    // A bind mount inherits the attributes of its source mount (`mount(2)`, `MS_BIND`).
    tree::restrict_one(&own, tree::READ_ONLY)?;
    for name in made {
        let place = match (&plan.resolver, name) {
            (Resolver::Given { place, .. } | Resolver::Gateway { place }, Name::Resolver) => place.clone(),
            _ => Path::new("/etc").join(name.file()),
        };
        match rustix::mount::mount_bind(own.join(name.file()), &place) {
            // The host has no such file, and its read-only `/etc` cannot get one. `hostname`, `resolv.conf` and `nsswitch.conf`
            // are optional, so that no note is needed.
            Err(Errno::NOENT) if name.is_replaced() || name == Name::Switch => {}
            Err(Errno::NOENT) => notes.push(format!("{} is missing on the host, and therefore in the sandbox", place.display())),
            shown => shown.during(Control::Mounts, || format!("mount the sandbox's file on {}", place.display()))?,
        }
    }
    Ok(())
}

fn directory(path: &Path) -> Result<OwnedFd, ControlError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Mounts, || format!("open {}", path.display()))
}
