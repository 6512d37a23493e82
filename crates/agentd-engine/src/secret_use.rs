//! The secrets that an intent uses: their names and destinations. The engine never has their values.

use agentd_egress::inspect::target::{SecretTarget, SecretTargetError};
use agentd_policy::RequestedSecret;

/// The most secrets of an intent.
const MAX_SECRETS: usize = 64;

/// The secrets that an intent uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretUses(Vec<(String, RequestedSecret)>);

/// The reason why secrets cannot be requested. The messages contain no text that could be a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretUseError {
    /// A destination has another form.
    #[error(transparent)]
    Target(#[from] SecretTargetError),
    /// There are too many secrets.
    #[error("secrets: more than 64 — use fewer secrets")]
    TooMany,
}

impl SecretUses {
    /// Reads the destinations of secrets, `NAME@HOST[:PORT][/HEADER]`.
    ///
    /// # Errors
    /// [`SecretUseError`].
    pub fn new(targets: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, SecretUseError> {
        let mut uses = Vec::new();
        for text in targets {
            if uses.len() == MAX_SECRETS {
                return Err(SecretUseError::TooMany);
            }
            let text = text.into();
            let target: SecretTarget = text.parse()?;
            let secret = RequestedSecret { name: target.variable, host: target.host.name.as_str().to_owned() };
            uses.push((text, secret));
        }
        Ok(Self(uses))
    }

    /// Returns true if the intent uses no secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the destinations.
    pub fn targets(&self) -> Vec<String> {
        self.0.iter().map(|(target, _)| target.clone()).collect()
    }

    /// Returns the secrets as policies see them.
    pub(crate) fn requested(&self) -> Vec<RequestedSecret> {
        self.0.iter().map(|(_, secret)| secret.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_see_names_and_hosts() {
        let uses = SecretUses::new(["API_KEY@API.example:8443/x-api-key", "AWS@s3.example/aws/eu-west-1/s3"]).unwrap();
        let seen: Vec<_> = uses.requested().into_iter().map(|secret| (secret.name, secret.host)).collect();
        let expected = [("API_KEY", "api.example"), ("AWS", "s3.example")];
        assert_eq!(seen, expected.map(|(name, host)| (name.to_owned(), host.to_owned())));
        assert!(SecretUses::default().is_empty() && SecretUses::new(["the-value"]).is_err());
        assert!(matches!(SecretUses::new(vec!["A@a.example"; 65]), Err(SecretUseError::TooMany)));
    }
}
