//! Content of the name files: pure functions from the plan and the current content to the content that programs see.

use super::{Account, Name, NamesPlan, Resolver};
use crate::gateway::NAME_SERVER;
use std::os::unix::ffi::OsStrExt;

/// Returns the non-empty lines of a file, without line ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Returns a field of a line with colon-separated fields.
fn field(line: &[u8], number: usize) -> Option<&[u8]> {
    line.split(|byte| *byte == b':').nth(number)
}

/// Returns true if the field contains `number` in decimal digits.
fn is_number(field: Option<&[u8]>, number: u32) -> bool {
    field == Some(number.to_string().as_bytes())
}

impl NamesPlan {
    /// Returns the required content of a file, or `None` if `present` already satisfies the plan.
    pub(super) fn content(&self, name: Name, present: Option<&[u8]>) -> Option<Vec<u8>> {
        let content = match name {
            Name::Passwd => self.account.passwd(present)?,
            Name::Group => self.account.group(present)?,
            // An entry of the host's file would bypass the addresses that the gateway assigns to names.
            Name::Hosts if self.is_behind_gateway() => hosts(&self.host).into_bytes(),
            Name::Hosts => match present {
                // The root was kept from an earlier start, and may have had another host name.
                Some(present) if name_in(present).is_some() => renamed(present, &self.host),
                _ => prepended(hosts(&self.host), present.unwrap_or_default())?,
            },
            Name::Host => format!("{}\n", self.host).into_bytes(),
            Name::Switch => self.switch(present)?,
            Name::Resolver => match &self.resolver {
                // Without a name server in the file, a C library queries one on this host, which refuses the connection
                // immediately. A library that ignores the refusal (musl) waits for the timeout set here.
                Resolver::Nowhere => b"# No network: lookups fail at once.\noptions timeout:0 attempts:1\n".to_vec(),
                Resolver::Given { content, .. } => content.clone().into_bytes(),
                Resolver::Gateway { .. } => format!("nameserver {NAME_SERVER}\n").into_bytes(),
                Resolver::AsPresent => return None,
            },
        };
        (present != Some(&content)).then_some(content)
    }

    fn is_behind_gateway(&self) -> bool {
        matches!(self.resolver, Resolver::Gateway { .. })
    }

    /// Returns the content of `nsswitch.conf`. Without a network, names are looked up in files only, so that programs get "no
    /// such host" rather than "try again later". With granted hosts, only the gateway's DNS knows names.
    fn switch(&self, present: Option<&[u8]>) -> Option<Vec<u8>> {
        let only_files = self.resolver == Resolver::Nowhere;
        let wanted: &[u8] = if only_files { b"hosts: files\n" } else { b"hosts: files dns\n" };
        let Some(present) = present else { return Some([wanted, b"passwd: files\ngroup: files\n"].concat()) };
        if !only_files && !self.is_behind_gateway() {
            return None;
        }
        let is_hosts = |line: &[u8]| line.trim_ascii_start().starts_with(b"hosts:");
        let others = present.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_hosts(line));
        Some(wanted.iter().chain(others.flatten()).copied().collect())
    }
}

/// Prepends `lines` to `present`, or returns `None` if `present` starts with them.
fn prepended(lines: String, present: &[u8]) -> Option<Vec<u8>> {
    (!present.starts_with(lines.as_bytes())).then(|| [lines.as_bytes(), present].concat())
}

/// The start of `hosts` in every sandbox, up to the sandbox's host name.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t";

/// Returns the lines of `hosts` that every sandbox has.
fn hosts(host: &str) -> String {
    format!("{HOSTS}{host}\n")
}

/// Returns the content of `hosts` for the new host name `host`; `present` is the previous content.
pub fn renamed(present: &[u8], host: &str) -> Vec<u8> {
    let others = match present.strip_prefix(HOSTS.as_bytes()) {
        // Skips the rest of the line with the previous name.
        Some(rest) => rest.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default(),
        None => present,
    };
    [hosts(host).as_bytes(), others].concat()
}

/// Returns the host name in a `hosts` file that starts as in every sandbox, or else `None`.
pub fn name_in(hosts: &[u8]) -> Option<&[u8]> {
    hosts.strip_prefix(HOSTS.as_bytes())?.split(|byte| *byte == b'\n').next()
}

impl Account {
    /// Returns the content of `passwd`, or `None` to keep it. A lookup returns the first match, so the account's line is added
    /// only if the first entry with its uid has another home.
    fn passwd(&self, present: Option<&[u8]>) -> Option<Vec<u8>> {
        let home = self.home.as_os_str().as_bytes();
        if home.iter().any(|byte| b":\n\r".contains(byte)) {
            // The format has no escape for these characters.
            return None;
        }
        let own = [format!("{}:x:{}:{}:{}:", self.user, self.uid, self.gid, self.user).as_bytes(), home, b":/bin/sh\n"].concat();
        let Some(present) = present else {
            let root: &[u8] = if self.uid == 0 { b"" } else { b"root:x:0:0:root:/root:/bin/sh\n" };
            return Some([&own, root, b"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"].concat());
        };
        let same = lines(present).find(|line| is_number(field(line, 2), self.uid));
        let fits = same.is_some_and(|line| field(line, 5) == Some(home));
        (!fits).then(|| [&own, present].concat())
    }

    fn group(&self, present: Option<&[u8]>) -> Option<Vec<u8>> {
        let own = format!("{}:x:{}:\n", self.group, self.gid);
        let Some(present) = present else {
            let root = if self.gid == 0 { "" } else { "root:x:0:\n" };
            return Some(format!("{own}{root}tty:x:5:\nnogroup:x:65534:\n").into_bytes());
        };
        let same = lines(present).find(|line| is_number(field(line, 2), self.gid));
        let fits = same.is_some_and(|line| field(line, 0) == Some(self.group.as_bytes()));
        (!fits).then(|| [own.as_bytes(), present].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(resolver: Resolver) -> NamesPlan {
        let account = Account { user: "agent".into(), group: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() };
        NamesPlan { account, host: "agentd".into(), resolver }
    }

    fn made(name: Name, present: Option<&str>) -> Option<String> {
        plan(Resolver::Nowhere).content(name, present.map(str::as_bytes)).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn entries_of_sandbox_precede_others_with_same_id() {
        let other = "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/bash\n";
        let own = "agent:x:1000:1000:agent:/home/agent:/bin/sh\n";
        assert_eq!(made(Name::Passwd, Some(other)), Some(format!("{own}{other}")));
        assert_eq!(made(Name::Group, Some("bob:x:1000:\n")), Some("agent:x:1000:\nbob:x:1000:\n".to_owned()));
    }

    #[test]
    fn files_that_satisfy_plan_are_unchanged() {
        for (name, present) in [
            (Name::Passwd, "a:x:1:1::/:/bin/sh\nbob:x:1000:1000::/home/agent:/bin/bash\n"),
            (Name::Group, "agent:x:1000:bob\n"),
            (Name::Hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tagentd\n10.0.0.1 x\n"),
            (Name::Host, "agentd\n"),
            (Name::Switch, "hosts: files\npasswd: files\n"),
        ] {
            assert_eq!(made(name, Some(present)), None, "{name:?}");
            // The generated content already satisfies the plan.
            if let Some(once) = made(name, None) {
                assert_eq!(made(name, Some(&once)), None, "{name:?}");
            }
        }
    }

    #[test]
    fn missing_file_gets_default_entries() {
        assert!(made(Name::Passwd, None).unwrap().contains("\nroot:x:0:0:"));
        assert!(made(Name::Group, None).unwrap().contains("\nnogroup:x:65534:"));
        assert_eq!(made(Name::Switch, None).unwrap(), "hosts: files\npasswd: files\ngroup: files\n");
        assert!(made(Name::Hosts, None).unwrap().contains("localhost"));
    }

    #[test]
    fn nsswitch_without_network_looks_up_hosts_in_files_only() {
        let present = "passwd: files sss\nhosts:  files mdns4_minimal [NOTFOUND=return] dns\nnetworks: files";
        let only_files = "hosts: files\npasswd: files sss\nnetworks: files";
        assert_eq!(made(Name::Switch, Some(present)).as_deref(), Some(only_files));
        assert_eq!(plan(Resolver::AsPresent).content(Name::Switch, Some(present.as_bytes())), None);
        assert_eq!(plan(Resolver::AsPresent).content(Name::Resolver, Some(b"nameserver 10.0.0.1\n")), None);
        assert!(made(Name::Resolver, Some("nameserver 10.0.0.1\n")).unwrap().ends_with("timeout:0 attempts:1\n"));
    }

    #[test]
    fn names_behind_a_gateway_come_from_its_dns_only() {
        let plan = plan(Resolver::Gateway { place: "/etc/resolv.conf".into() });
        let made = |name, present: &str| String::from_utf8(plan.content(name, Some(present.as_bytes())).unwrap()).unwrap();
        assert_eq!(made(Name::Resolver, "nameserver 10.0.0.1\nsearch corp\n"), "nameserver 198.18.0.1\n");
        assert_eq!(made(Name::Hosts, "10.0.0.1 internal.example\n"), hosts("agentd"));
        assert_eq!(
            made(Name::Switch, "hosts: files resolve [!UNAVAIL=return] dns\npasswd: files"),
            "hosts: files dns\npasswd: files"
        );
    }

    #[test]
    fn hosts_entry_of_renamed_host_replaces_previous_name() {
        let before = [hosts("first").as_bytes(), b"10.0.0.1 other\n"].concat();
        assert_eq!(renamed(&before, "second"), [hosts("second").as_bytes(), b"10.0.0.1 other\n"].concat());
        assert_eq!(renamed(b"10.0.0.1 other", "second"), [hosts("second").as_bytes(), b"10.0.0.1 other"].concat());
        assert_eq!(renamed(HOSTS.as_bytes(), "second"), hosts("second").into_bytes());
        assert_eq!(name_in(&before), Some(&b"first"[..]));
        assert_eq!(name_in(b"127.0.0.1 localhost\n"), None);
        let present = String::from_utf8(renamed(&before, "second")).unwrap();
        assert_eq!(made(Name::Hosts, Some(&present)), Some(present.replace("second", "agentd")));
    }

    #[test]
    fn home_not_representable_in_passwd_changes_nothing() {
        let mut plan = plan(Resolver::Nowhere);
        plan.account.home = "/home/a:b".into();
        assert_eq!(plan.content(Name::Passwd, None), None);
    }
}
