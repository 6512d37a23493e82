//! The names of sandboxes, as their principals choose them. The sandboxes of the user who runs agentd are stored under these
//! names. Those of another principal are stored under `of-OWNER-NAME`, where the owner is derived from the principal. So the names
//! of two principals never collide, and a name of one principal never leads to a sandbox of another.

use super::{super::super::sandbox::own_principal, failed};
use agentd_engine::SandboxFailure;
use agentd_records::ContentDigest;
use agentd_sandboxes::{Name, Record, SandboxStore, StoreError};

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
}

impl Owner {
    /// Returns the owner for a principal.
    pub fn of(principal: String) -> Self {
        let digest = ContentDigest::of(principal.as_bytes()).to_string();
        let is_user = principal == own_principal();
        let prefix = if is_user { String::new() } else { format!("of-{}-", digest.get(..DIGITS).unwrap_or_default()) };
        Self { principal, prefix }
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

    fn owns(&self, record: &Record) -> bool {
        match &record.about.owner {
            Some(owner) => *owner == self.principal,
            None => self.prefix.is_empty(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_sandboxes::SandboxSettings;

    #[test]
    fn sandbox_of_one_principal_does_not_exist_for_another() {
        let place = tempfile::tempdir().unwrap();
        let store = SandboxStore::open(&place.path().join("sandboxes")).unwrap();
        let [user, alice, bob] = [&*own_principal(), "service:alice", "service:bob"].map(|name| Owner::of(name.to_owned()));
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
        let [user, alice] = [&*own_principal(), "service:alice"].map(|name| Owner::of(name.to_owned()));
        let stored = alice.new_name("dev").unwrap();
        store.create(&stored, SandboxSettings::default()).unwrap();
        assert!(user.find(&store, stored.as_str()).is_ok());
        assert_eq!(alice.find(&store, "dev").unwrap_err().code, "unknown-sandbox");
    }

    #[test]
    fn reserved_and_invalid_names_are_refused() {
        let alice = Owner::of("service:alice".to_owned());
        for name in ["of-a", "session-1", "..", "a/b", "A", "a\u{1b}", &"x".repeat(65)] {
            assert!(alice.new_name(name).is_err(), "{name:?}");
        }
        assert!(alice.new_name(&"x".repeat(40)).is_ok(), "the longest name of the schema");
        assert_eq!(alice.text(&format!("sandbox {} is full", alice.new_name("dev").unwrap())), "sandbox dev is full");
    }
}
