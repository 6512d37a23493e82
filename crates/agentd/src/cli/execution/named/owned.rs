//! The names of sandboxes, as their principals choose them. The sandboxes of the user who runs agentd are stored under these
//! names. Those of another principal are stored under `of-OWNER-NAME`, where the owner is derived from the principal. So the
//! names of two principals never collide, and a name of one principal never leads to a sandbox of another.

use super::{super::super::sandbox::own_principal, failure::failed};
use agentd_core::{Access, Grant};
use agentd_engine::SandboxFailure;
use agentd_records::ContentDigest;
use agentd_sandboxes::{Name, Record, SandboxStore, StoreError};
use agentd_server::SandboxReach;

/// The digits of the digest of a principal in a name. The record has the whole principal.
const DIGITS: usize = 16;

/// The beginnings of names that agentd gives itself.
const RESERVED: [&str; 2] = ["of-", "session-"];

/// A principal who owns sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The identifier of the principal.
    pub principal: String,
    /// The beginning of the stored names; empty for the user who runs agentd.
    prefix: String,
    reach: SandboxReach,
}

impl Owner {
    /// Returns the owner for a principal, whose caller may use some of the sandboxes.
    pub fn of(principal: String, reach: SandboxReach) -> Self {
        let digest = ContentDigest::of(principal.as_bytes()).to_string();
        let is_user = principal == own_principal();
        let prefix = if is_user { String::new() } else { format!("of-{}-", digest.get(..DIGITS).unwrap_or_default()) };
        Self { principal, prefix, reach }
    }

    /// Returns the stored name for a new sandbox.
    ///
    /// # Errors
    /// The name is not valid, or has a beginning that agentd gives itself.
    pub fn new_name(&self, name: &str) -> Result<Name, SandboxFailure> {
        if RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
            let message = format!("sandbox {name}: names that begin with of- or session- are reserved — use another name");
            return Err(SandboxFailure { code: "reserved-name", message });
        }
        self.stored(name).map_err(failed)
    }

    fn stored(&self, name: &str) -> Result<Name, agentd_sandboxes::NotAName> {
        let name: Name = name.parse()?;
        format!("{}{name}", self.prefix).parse()
    }

    /// Returns the name that the principal has chosen; `None` for a sandbox that is not this principal's.
    pub fn shown<'r>(&self, record: &'r Record) -> Option<&'r str> {
        record.name.as_str().strip_prefix(&self.prefix).filter(|_| self.owns(record))
    }

    /// Returns the name under which a list has a sandbox; `None` if the list does not have it.
    pub fn listed<'r>(&self, record: &'r Record) -> Option<&'r str> {
        self.shown(record).or((self.reach == SandboxReach::All).then_some(record.name.as_str()))
    }

    /// Returns true if a sandbox is this principal's, whether or not the caller may use it.
    pub fn belongs(&self, record: &Record) -> bool {
        record.about.owner.as_ref().map_or(self.prefix.is_empty(), |owner| *owner == self.principal)
    }

    /// Returns true if a sandbox is this principal's, and the caller may use it.
    fn owns(&self, record: &Record) -> bool {
        let SandboxReach::Listed(lists) = &self.reach else { return self.belongs(record) };
        let writable = record.about.spec.grants.iter().filter(|grant| grant.access == Access::ReadWrite);
        let mut shown = writable.chain(workspace(record));
        let is_shown = shown.all(|grant| lists.iter().all(|list| list.iter().any(|listed| grant.path.starts_with(listed))));
        // The command line, whose sandboxes have no owner, may have granted anything.
        record.about.owner.is_some() && self.belongs(record) && is_shown
    }

    /// Returns a text in which stored names are replaced by those that the principal has chosen.
    pub fn text(&self, text: &str) -> String {
        if self.prefix.is_empty() { text.to_owned() } else { text.replace(&self.prefix, "") }
    }

    /// Finds a sandbox of this principal. The error is the same whether another principal has such a sandbox or nobody.
    ///
    /// # Errors
    /// There is no such sandbox, or its record is damaged.
    pub fn find(&self, store: &SandboxStore, name: &str) -> Result<Record, SandboxFailure> {
        let unknown = || SandboxFailure {
            code: "unknown-sandbox",
            message: format!("find sandbox {name}: the caller has no such sandbox — list the sandboxes, or create this one"),
        };
        let stored = self.stored(name).map_err(|_| unknown())?;
        match store.record(&stored) {
            Ok(record) if self.owns(&record) => Ok(record),
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(unknown()),
            Err(error) => Err(failed(self.text(&error.to_string()))),
        }
    }
}

/// Returns the grant for the directory of the host in which the commands of a sandbox start.
pub(super) fn workspace(record: &Record) -> Option<&Grant> {
    record.about.spec.grants.iter().find(|grant| grant.path == record.about.cwd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::SandboxSpec;
    use agentd_sandboxes::SandboxSettings;

    #[test]
    fn sandbox_of_one_principal_does_not_exist_for_another() {
        let place = tempfile::tempdir().unwrap();
        let store = SandboxStore::open(&place.path().join("sandboxes")).unwrap();
        let [user, alice, bob] =
            [&*own_principal(), "service:alice", "service:bob"].map(|name| Owner::of(name.to_owned(), SandboxReach::All));
        for owner in [&user, &alice] {
            let settings = SandboxSettings { owner: Some(owner.principal.clone()), ..SandboxSettings::default() };
            store.create(&owner.new_name("dev").unwrap(), settings).unwrap();
        }
        let record = alice.find(&store, "dev").unwrap();
        assert_eq!((alice.shown(&record), bob.shown(&record), user.shown(&record)), (Some("dev"), None, None));
        let unknown = bob.find(&store, "dev").unwrap_err();
        assert_eq!(unknown.code, "unknown-sandbox");
        // The stored name of another principal's sandbox is of no use either.
        for name in [record.name.as_str(), "../dev", "a\n", "", &"x".repeat(64)] {
            assert_eq!(bob.find(&store, name).unwrap_err().code, "unknown-sandbox", "{name:?}");
            assert_eq!(user.find(&store, name).unwrap_err().code, "unknown-sandbox", "{name:?}");
        }
        assert_eq!(user.find(&store, "dev").unwrap().name.as_str(), "dev");
    }

    #[test]
    fn record_without_owner_belongs_to_the_user_who_runs_agentd() {
        let place = tempfile::tempdir().unwrap();
        let store = SandboxStore::open(&place.path().join("sandboxes")).unwrap();
        let [user, alice] = [&*own_principal(), "service:alice"].map(|name| Owner::of(name.to_owned(), SandboxReach::All));
        let stored = alice.new_name("dev").unwrap();
        store.create(&stored, SandboxSettings::default()).unwrap();
        assert!(user.find(&store, stored.as_str()).is_ok());
        assert_eq!(alice.find(&store, "dev").unwrap_err().code, "unknown-sandbox");
    }

    #[test]
    fn model_uses_no_sandbox_of_its_user_that_shows_other_directories() {
        let place = tempfile::tempdir().unwrap();
        let store = SandboxStore::open(&place.path().join("sandboxes")).unwrap();
        let directory = |path: &str, access| {
            let spec = SandboxSpec { grants: vec![Grant::new(path, access)], ..SandboxSpec::default() };
            SandboxSettings { spec, cwd: path.into(), owner: Some(own_principal()), ..SandboxSettings::default() }
        };
        let listed = || vec!["/srv/ci".into(), "/srv/cd".into()];
        let reaches = [
            SandboxReach::All,
            SandboxReach::Listed(vec![listed()]),
            // As a token that was restricted offline.
            SandboxReach::Listed(vec![listed(), vec!["/srv/cd".into(), "/home".into()]]),
        ];
        let [user, model, restricted] = reaches.map(|reach| Owner::of(own_principal(), reach));
        for (name, settings, is_usable) in [
            ("listed", directory("/srv/ci/a", Access::ReadWrite), true),
            ("none", SandboxSettings { owner: Some(own_principal()), ..SandboxSettings::default() }, true),
            ("other", directory("/srv/cinema", Access::ReadWrite), false),
            ("read", directory("/home", Access::ReadOnly), false),
            ("writable", SandboxSettings { cwd: "/".into(), ..directory("/home", Access::ReadWrite) }, false),
            ("by-hand", SandboxSettings::default(), false),
        ] {
            let record = store.create(&name.parse().unwrap(), settings).unwrap();
            assert!(user.find(&store, name).is_ok(), "{name}");
            assert_eq!(model.find(&store, name).is_ok(), is_usable, "{name}");
            assert_eq!(model.listed(&record).is_some(), is_usable, "{name}");
            assert_eq!(restricted.find(&store, name).is_ok(), name == "none", "{name}");
        }
    }

    #[test]
    fn reserved_and_invalid_names_are_refused() {
        let alice = Owner::of("service:alice".to_owned(), SandboxReach::Listed(Vec::new()));
        for name in ["of-a", "session-1", "..", "a/b", "A", "a\u{1b}", &"x".repeat(65)] {
            assert!(alice.new_name(name).is_err(), "{name:?}");
        }
        assert!(alice.new_name(&"x".repeat(40)).is_ok(), "the longest name of the schema");
        assert_eq!(alice.text(&format!("sandbox {} is full", alice.new_name("dev").unwrap())), "sandbox dev is full");
    }
}
