//! Subordinate ids (`subuid(5)`, `subgid(5)`): host ids that an unprivileged user may map into user namespaces with two
//! set-user-id programs (`newuidmap(1)`, `newgidmap(1)`).
//!
//! Id 0 in the sandbox maps to the caller, because only root of the host can id-map mounts of the host. With any other map, files
//! of the caller, including image layers, would have no owner in the sandbox. The ids from 1 on are subordinate.

use super::{
    ExtraIds, IdLease, IdMap, RANGE,
    range::{FILES, Range, longest},
};
use agentd_core::{Control, ControlError};
use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The directories in which the two programs are looked up, because a launcher has no `PATH`. The programs work only if root has
/// installed them.
const PLACES: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/sbin"];

/// Number of subordinate ids of one sandbox; the caller's own id is added to them.
const PART: u32 = RANGE - 1;

/// Remedy for a range that cannot be used.
const REMEDY: &str = "repair newuidmap and newgidmap (set-user-id programs of the package uidmap), or have your lines removed \
     from /etc/subuid and /etc/subgid; with --allow-degraded, only your own id is mapped";

/// The subordinate ids of the caller, and the programs that map them.
#[derive(Debug, PartialEq, Eq)]
pub struct Subordinate {
    caller: IdMap,
    uids: Range,
    gids: Range,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

impl Subordinate {
    /// Returns the ids that `/etc/subuid` and `/etc/subgid` currently assign to the user of this process.
    ///
    /// # Errors
    /// A sentence that states why the caller has no usable subordinate ids.
    pub fn of_caller() -> Result<Self, String> {
        let caller = IdMap::caller().as_root();
        let names = names(&fs::read_to_string("/etc/passwd").unwrap_or_default(), caller.host_uid);
        let range = |file: &str| {
            let content = fs::read_to_string(file).unwrap_or_default();
            longest(&content, &names).ok_or_else(|| format!("{file} assigns no ids to this user"))
        };
        let (uids, gids) = (range(FILES[0])?, range(FILES[1])?);
        let program = |name: &str| {
            let found = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
            found.ok_or_else(|| format!("{name} is not installed — install the package uidmap"))
        };
        let (newuidmap, newgidmap) = (program("newuidmap")?, program("newgidmap")?);
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Err("newuidmap cannot gain privileges, because no_new_privs is set".to_owned());
        }
        Ok(Self { caller, uids, gids, newuidmap, newgidmap })
    }

    /// Leases a part that no other live sandbox has. If no part is free, returns the first part, which all other sandboxes share.
    ///
    /// A part in use is marked by an abstract socket (`unix(7)`), which the kernel removes when the process ends in any way.
    /// Another user who binds these names can only force sandboxes to share the first part.
    pub fn lease(&self) -> IdLease {
        for number in 1..self.parts() {
            let name = format!("agentd-ids-{}-{}-{number}", self.caller.host_uid, self.uids.first);
            let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixDatagram::bind_addr(&address));
            if let Ok(socket) = bound {
                return IdLease { id_map: self.part(number), lock: Some(socket.into()) };
            }
        }
        IdLease { id_map: self.part(0), lock: None }
    }

    fn parts(&self) -> u32 {
        self.uids.count.min(self.gids.count) / PART
    }

    fn part(&self, number: u32) -> IdMap {
        let count = self.uids.count.min(self.gids.count).min(PART);
        let first = |range: Range| range.first + number * PART;
        IdMap { extra: Some(ExtraIds { host_uid: first(self.uids), host_gid: first(self.gids), count }), ..self.caller }
    }

    /// Writes the user id map of the user namespace of `pid`, which must be a child of the caller. On failure nothing is written.
    ///
    /// # Errors
    /// The exit status or the standard error of `newuidmap(1)`.
    pub fn write_uids(&self, pid: i32, id_map: IdMap) -> Result<(), ControlError> {
        map(
            &self.newuidmap,
            pid,
            [(id_map.host_uid, 1)].into_iter().chain(id_map.extra.map(|extra| (extra.host_uid, extra.count))),
        )
    }

    /// Writes the group id map of the user namespace of `pid`, as [`Subordinate::write_uids`] does for user ids.
    ///
    /// # Errors
    /// The exit status or the standard error of `newgidmap(1)`.
    pub fn write_gids(&self, pid: i32, id_map: IdMap) -> Result<(), ControlError> {
        map(
            &self.newgidmap,
            pid,
            [(id_map.host_gid, 1)].into_iter().chain(id_map.extra.map(|extra| (extra.host_gid, extra.count))),
        )
    }
}

/// Runs `program` for the process `pid`. `ids` are host ranges (first id and count), which are mapped to consecutive ids in the
/// sandbox from 0 on.
fn map(program: &Path, pid: i32, ids: impl Iterator<Item = (u32, u32)>) -> Result<(), ControlError> {
    let mut arguments = vec![pid.to_string()];
    let mut inside = 0;
    for (host, count) in ids {
        arguments.extend([inside, host, count].map(|number| number.to_string()));
        inside += count;
    }
    let call = format!("{} {}", program.display(), arguments[1..].join(" "));
    let failed = |how: &str| {
        let call = format!("{call}: {}", how.trim());
        Err(ControlError::new(Control::Idmap, call, None).remedy(REMEDY))
    };
    match Command::new(program).args(&arguments).env_clear().stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) if output.stderr.trim_ascii().is_empty() => failed(&output.status.to_string()),
        Ok(output) => failed(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => Err(ControlError::caused_by(Control::Idmap, format!("execute {call}"), error).remedy(REMEDY)),
    }
}

/// Returns the names under which `subuid(5)` may list a user: all names in `passwd(5)`, and the uid as a number.
fn names(passwd: &str, uid: u32) -> Vec<String> {
    let uid = uid.to_string();
    let of_user = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    of_user.chain([uid.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_subordinate_range_by_name_or_uid_is_used() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nalias:x:1000:1:::\nbroken\n";
        let ann = names(passwd, 1000);
        assert_eq!(ann, ["ann", "alias", "1000"]);
        for (content, expected) in [
            ("", None),
            ("bob:100000:65536\n", None),
            ("ann:100000:65536\n", Some((100_000, 65536))),
            ("1000:5:7\nann:100000:10\nalias:1:9", Some((100_000, 10))),
            ("ann:100000:0\nann:4294967295:2\nann:x:1\nann:1\nann\n:::\nann:-1:5", None),
            ("ann1:1:2\n10001:1:2\n root:1:2", None),
        ] {
            assert_eq!(longest(content, &ann).map(|range| (range.first, range.count)), expected, "{content}");
        }
    }

    #[test]
    fn leases_are_disjoint_until_exhausted_and_then_share_first_part() {
        let range = |first, count| Range { first, count };
        let caller = IdMap { uid: 0, gid: 0, host_uid: 1000, host_gid: 1000, count: 1, extra: None };
        // The range starts at an id that no concurrently running test process uses.
        let first = 0x4000_0000 + std::process::id();
        let program = PathBuf::from;
        let ids = |uids, gids| Subordinate { caller, uids, gids, newuidmap: program("u"), newgidmap: program("g") };
        let three = ids(range(first, 3 * PART + 5), range(7, 4 * PART));
        let leases = [three.lease(), three.lease(), three.lease()];
        let part = |number| Some(ExtraIds { host_uid: first + number * PART, host_gid: 7 + number * PART, count: PART });
        assert_eq!(leases.each_ref().map(|lease| lease.id_map.extra), [part(1), part(2), part(0)]);
        assert_eq!(leases.each_ref().map(IdLease::is_shared), [false, false, true]);
        drop(leases);
        assert!(!three.lease().is_shared());
        let few = ids(range(first, 10), range(7, 20)).lease();
        assert!(few.is_shared());
        assert_eq!(few.id_map.extra, Some(ExtraIds { host_uid: first, host_gid: 7, count: 10 }));
    }
}
