//! Plans the content of `passwd`, `group`, `hosts`, `hostname` and `resolv.conf` in a sandbox.

use agentd_core::NetworkMode;
use agentd_kernel::{
    idmap::ORDINARY,
    mount::names::{Account, HOST_NAME, NamesPlan, Resolver},
};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The account name for a user without a name.
const AGENT: &str = "agent";

/// The file that lists the host's name servers (`resolv.conf(5)`).
const RESOLVER: &str = "/etc/resolv.conf";

/// The maximum number of bytes read from a file of the host.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Plans the files for a view of the host's tree that covers `masks`. If the caller is root, the account is an ordinary user that
/// exists only in the sandbox. Otherwise, the account is the caller's.
pub(crate) fn in_a_view(home: &Path, network: NetworkMode, masks: &[PathBuf]) -> NamesPlan {
    let resolver = match network {
        NetworkMode::Off => Resolver::Nowhere,
        NetworkMode::Host => hidden_resolver(masks).unwrap_or(Resolver::AsPresent),
        NetworkMode::Egress => Resolver::Gateway { place: hidden_place(masks).unwrap_or_else(|| RESOLVER.into()) },
    };
    NamesPlan { account: visible_account(home), host: HOST_NAME.to_owned(), resolver }
}

/// Plans the files for the sandbox's own root, in which the payload is root. With the host's network, the host's name servers are
/// used.
pub(crate) fn in_own_root(home: &Path, network: NetworkMode) -> NamesPlan {
    let resolver = match network {
        NetworkMode::Off => Resolver::Nowhere,
        NetworkMode::Egress => Resolver::Gateway { place: RESOLVER.into() },
        NetworkMode::Host => match text(Path::new(RESOLVER)) {
            Some(content) => Resolver::Given { place: RESOLVER.into(), content },
            None => Resolver::AsPresent,
        },
    };
    NamesPlan { account: root(home), host: HOST_NAME.to_owned(), resolver }
}

/// Plans the files for a virtual machine, whose network is its own.
pub(crate) fn in_own_machine(home: &Path, network: NetworkMode) -> NamesPlan {
    let resolver = match network {
        NetworkMode::Off => Resolver::Nowhere,
        NetworkMode::Host => Resolver::AsPresent,
        NetworkMode::Egress => Resolver::Gateway { place: RESOLVER.into() },
    };
    NamesPlan { account: root(home), host: HOST_NAME.to_owned(), resolver }
}

fn root(home: &Path) -> Account {
    Account { user: "root".to_owned(), group: "root".to_owned(), uid: 0, gid: 0, home: home.to_path_buf() }
}

fn visible_account(home: &Path) -> Account {
    let home = home.to_path_buf();
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid().as_raw());
    if uid.is_root() {
        let name = || AGENT.to_owned();
        return Account { user: name(), group: name(), uid: ORDINARY, gid: ORDINARY, home };
    }
    let uid = uid.as_raw();
    let name = |file: &str, id| text(Path::new(file)).and_then(|lines| name_of_id(&lines, id));
    let user = name("/etc/passwd", uid).unwrap_or_else(|| AGENT.to_owned());
    let group = name("/etc/group", gid).unwrap_or_else(|| user.clone());
    Account { user, group, uid, gid, home }
}

/// Returns the name of the first entry with this id in the text of a `passwd(5)` or `group(5)` file.
fn name_of_id(lines: &str, id: u32) -> Option<String> {
    let id = id.to_string();
    let names = lines.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id && !name.is_empty()).then(|| name.to_owned())
    });
    names.into_iter().next()
}

/// Returns the host's name servers if `/etc/resolv.conf` links to a masked file, as systemd-resolved arranges. Returns `None` if
/// the file is visible.
fn hidden_resolver(masks: &[PathBuf]) -> Option<Resolver> {
    let place = hidden_place(masks)?;
    let content = text(&place)?;
    Some(Resolver::Given { place, content })
}

/// Returns the masked file to which `/etc/resolv.conf` links, if it does.
fn hidden_place(masks: &[PathBuf]) -> Option<PathBuf> {
    let place = Path::new(RESOLVER).canonicalize().ok()?;
    masks.iter().any(|mask| place.starts_with(mask)).then_some(place)
}

/// Returns the text of a regular file of the host, or `None` if it is too long or cannot be read.
fn text(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let is_fit = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE_BYTES);
    let mut text = String::new();
    (is_fit && file.take(MAX_FILE_BYTES).read_to_string(&mut text).is_ok()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_gets_name_of_first_passwd_entry() {
        let passwd = "root:x:0:0::/root:/bin/sh\n:x:5:5::/:\nbroken\nbob:x:7:7::/:/bin/sh\nrob:x:7:7::/:/bin/sh\n";
        assert_eq!(name_of_id(passwd, 7).as_deref(), Some("bob"));
        assert_eq!(name_of_id(passwd, 5), None);
        assert_eq!(name_of_id(passwd, 70), None);
    }
}
