//! Subordinate ids (`subuid(5)`, `subgid(5)`): host ids that an ordinary user may give to user namespaces, through two set-id programs
//! (`newuidmap(1)`, `newgidmap(1)`).
//!
//! Id 0 inside is the caller, because no mount of the host's can be id-mapped by who is not its root: what belongs to the caller, layers of
//! images among it, would belong to nobody otherwise. The ids from 1 on are subordinate.

use super::{
    Claim, Identity, RANGE, Rest,
    range::{FILES, Range, longest},
};
use agentd_core::{Layer, LayerError};
use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the programs are, which work only where root has put them: a launcher has no `PATH`.
const PLACES: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/sbin"];

/// Ids of a sandbox beside the caller's own.
const PART: u32 = RANGE - 1;

/// What to do where a range cannot be used.
const REMEDY: &str = "mend newuidmap and newgidmap (set-id, from the package uidmap), or have your lines taken out of /etc/subuid and \
     /etc/subgid; with --allow-degraded the sandbox has your id alone";

/// The subordinate ids of the caller, and what maps them.
#[derive(Debug, PartialEq, Eq)]
pub struct Subordinate {
    caller: Identity,
    uids: Range,
    gids: Range,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

impl Subordinate {
    /// Those of this process's user, as `/etc/subuid` and `/etc/subgid` give them now.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub fn of_caller() -> Result<Self, String> {
        let caller = Identity::caller().as_root();
        let names = names(&fs::read_to_string("/etc/passwd").unwrap_or_default(), caller.host_uid);
        let range = |file: &str| {
            let content = fs::read_to_string(file).unwrap_or_default();
            longest(&content, &names).ok_or_else(|| format!("{file} gives you none"))
        };
        let (uids, gids) = (range(FILES[0])?, range(FILES[1])?);
        let program = |name: &str| {
            let found = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
            found.ok_or_else(|| format!("there is no {name}: install the package uidmap"))
        };
        let (newuidmap, newgidmap) = (program("newuidmap")?, program("newgidmap")?);
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Err("no program can gain privileges here (no_new_privs)".to_owned());
        }
        Ok(Self { caller, uids, gids, newuidmap, newgidmap })
    }

    /// A part of them that no other live sandbox has, where they are enough for that; else the first, which is everybody's.
    ///
    /// A part that is in use has an abstract socket of its name (`unix(7)`), which is gone with whoever has it, however that ends. A
    /// stranger who takes the names has sandboxes share, and no more.
    pub fn claim(&self) -> Claim {
        for number in 1..self.parts() {
            let name = format!("agentd-ids-{}-{}-{number}", self.caller.host_uid, self.uids.first);
            let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixDatagram::bind_addr(&address));
            if let Ok(socket) = bound {
                return Claim { identity: self.part(number), lock: Some(socket.into()) };
            }
        }
        Claim { identity: self.part(0), lock: None }
    }

    fn parts(&self) -> u32 {
        self.uids.count.min(self.gids.count) / PART
    }

    fn part(&self, number: u32) -> Identity {
        let count = self.uids.count.min(self.gids.count).min(PART);
        let first = |range: Range| range.first + number * PART;
        Identity { rest: Some(Rest { host_uid: first(self.uids), host_gid: first(self.gids), count }), ..self.caller }
    }

    /// Writes the map of user ids of the user namespace of `pid`, which must be the caller's child. When this fails, nothing is written.
    ///
    /// # Errors
    /// What the program says.
    pub fn write_uids(&self, pid: i32, identity: Identity) -> Result<(), LayerError> {
        map(
            &self.newuidmap,
            pid,
            [(identity.host_uid, 1)].into_iter().chain(identity.rest.map(|rest| (rest.host_uid, rest.count))),
        )
    }

    /// Likewise that of group ids.
    ///
    /// # Errors
    /// What the program says.
    pub fn write_gids(&self, pid: i32, identity: Identity) -> Result<(), LayerError> {
        map(
            &self.newgidmap,
            pid,
            [(identity.host_gid, 1)].into_iter().chain(identity.rest.map(|rest| (rest.host_gid, rest.count))),
        )
    }
}

/// Runs one of the programs: `ids` are ranges on the host, each its first id and how many, which follow each other inside, from 0 on.
fn map(program: &Path, pid: i32, ids: impl Iterator<Item = (u32, u32)>) -> Result<(), LayerError> {
    let mut arguments = vec![pid.to_string()];
    let mut inside = 0;
    for (host, count) in ids {
        arguments.extend([inside, host, count].map(|number| number.to_string()));
        inside += count;
    }
    let failed = |how: &str, errno| {
        let call = format!("{} {}: {}", program.display(), arguments[1..].join(" "), how.trim());
        Err(LayerError::new(Layer::Idmap, call, errno).remedy(REMEDY))
    };
    match Command::new(program).args(&arguments).env_clear().stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) if output.stderr.trim_ascii().is_empty() => failed(&output.status.to_string(), None),
        Ok(output) => failed(&String::from_utf8_lossy(&output.stderr), None),
        Err(error) => failed("cannot be executed", error.raw_os_error()),
    }
}

/// What a user is called: in `passwd(5)`, and by number.
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
    fn the_longest_range_of_a_user_is_taken_by_name_or_number() {
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
    fn parts_are_apart_while_they_are_enough_and_the_first_is_everybodys() {
        let range = |first, count| Range { first, count };
        let caller = Identity { uid: 0, gid: 0, host_uid: 1000, host_gid: 1000, count: 1, rest: None };
        // Of a number that no other test's process has.
        let first = 0x4000_0000 + std::process::id();
        let program = PathBuf::from;
        let ids = |uids, gids| Subordinate { caller, uids, gids, newuidmap: program("u"), newgidmap: program("g") };
        let three = ids(range(first, 3 * PART + 5), range(7, 4 * PART));
        let claims = [three.claim(), three.claim(), three.claim()];
        let part = |number| Some(Rest { host_uid: first + number * PART, host_gid: 7 + number * PART, count: PART });
        assert_eq!(claims.each_ref().map(|claim| claim.identity.rest), [part(1), part(2), part(0)]);
        assert_eq!(claims.each_ref().map(Claim::is_shared), [false, false, true]);
        drop(claims);
        assert!(!three.claim().is_shared());
        let few = ids(range(first, 10), range(7, 20)).claim();
        assert!(few.is_shared());
        assert_eq!(few.identity.rest, Some(Rest { host_uid: first, host_gid: 7, count: 10 }));
    }
}
