//! The names of the sandboxes of sessions: `session-OWNER-LANGUAGE-HANDLE`. The owner is derived from the principal, so that the
//! handle of one principal never names a session of another.

use agentd_interpreter::Language;
use agentd_records::ContentDigest;
use agentd_sandboxes::Name;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// The digits of the digest of a principal in a name. Another principal has the same digits with a probability of 2⁻⁶⁴.
const DIGITS: usize = 16;

/// The beginning of the names of all sessions of a principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner(String);

impl Owner {
    /// Returns the owner for a principal.
    pub fn of(principal: &str) -> Self {
        let digest = ContentDigest::of(principal.as_bytes()).to_string();
        Self(format!("session-{}-", digest.get(..DIGITS).unwrap_or_default()))
    }

    /// Returns true for the name of a session of this owner.
    pub fn owns(&self, name: &Name) -> bool {
        name.as_str().starts_with(&self.0)
    }

    /// Returns the name of the sandbox of a session.
    ///
    /// # Errors
    /// A handle that no schema of a capability would accept.
    pub fn session(&self, language: Language, handle: &str) -> Result<Name, agentd_sandboxes::NotAName> {
        format!("{}{language}-{handle}", self.0).parse()
    }
}

/// Returns a handle that nobody has used.
///
/// # Errors
/// The kernel has no random bytes.
pub(super) fn random_handle() -> Result<String, Errno> {
    Ok(format!("{:016x}", random()?))
}

/// Returns a random number.
///
/// # Errors
/// The kernel has no random bytes.
pub(super) fn random() -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_principal_language_and_handle() {
        let [one, other] = ["user:uid:7", "agent:ci"].map(Owner::of);
        let names: std::collections::BTreeSet<String> = [&one, &other]
            .into_iter()
            .flat_map(|owner| Language::ALL.map(|language| ["a", "b"].map(|handle| owner.session(language, handle).unwrap())))
            .flatten()
            .map(String::from)
            .collect();
        assert_eq!(names.len(), 12);
        let name = one.session(Language::Python, "a").unwrap();
        assert!(one.owns(&name) && !other.owns(&name), "{name}");
        assert!(one.session(Language::Python, &"x".repeat(32)).is_ok(), "the longest handle of the schema");
        assert!(one.session(Language::Python, "../a").is_err());
        assert_eq!(random_handle().unwrap().len(), 16);
    }
}
