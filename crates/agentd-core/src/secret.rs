//! Secrets for requests to granted hosts.

use serde::{Serializer, ser::Error as _};
use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// A secret that stays outside the sandbox ([`crate::Network::Egress`]). The sandbox gets a placeholder, which the gateway
/// replaces in requests to one host. The value can be neither printed nor serialised, and is zeroed when the last copy is
/// dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkSecret {
    /// The destination of the secret: `NAME@HOST[:PORT][/HEADER]`. NAME is the environment variable that holds the placeholder.
    /// HEADER is the header that holds the secret, or `basic` for the password of HTTP basic authentication. With
    /// `aws/REGION/SERVICE` as HEADER, the value is a key of AWS, `ID:SECRET` or `ID:SECRET:TOKEN`, and the variables
    /// `NAME_ACCESS_KEY_ID` and `NAME_SECRET_ACCESS_KEY` hold its placeholder.
    pub target: String,
    /// The beginning of the placeholder, for programs that check it (`sk-`).
    pub prefix: String,
    value: Arc<Zeroizing<String>>,
}

impl NetworkSecret {
    /// Takes over the value of a secret.
    pub fn new(target: impl Into<String>, value: impl Into<Zeroizing<String>>) -> Self {
        Self { target: target.into(), prefix: String::new(), value: Arc::new(value.into()) }
    }

    /// Returns the value. The caller must not copy it to a place that is printed or stored.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSecret").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Refuses to serialise secrets, so that no secret is stored or sent with a spec.
pub(crate) fn refuse_to_store<S: Serializer>(_: &[NetworkSecret], _: S) -> Result<S::Ok, S::Error> {
    Err(S::Error::custom("a spec with secrets can be neither stored nor sent — create the sandbox in this process"))
}

#[cfg(test)]
mod tests {
    use crate::{NetworkSecret, SandboxSpec};

    #[test]
    fn value_is_neither_printed_nor_stored() {
        let mut spec = SandboxSpec::default();
        let stored = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<SandboxSpec>(&stored).unwrap(), spec);
        spec.secrets.push(NetworkSecret::new("KEY@a.example", "the-real-value".to_owned()));
        let printed = format!("{spec:?} {spec:#?}");
        assert!(printed.contains("KEY@a.example") && !printed.contains("the-real-value"), "{printed}");
        let error = serde_json::to_string(&spec).unwrap_err().to_string();
        assert!(error.contains("neither stored nor sent"), "{error}");
    }
}
