//! The secrets of an intent, as policies see them: names and hosts. The engine never has their values.

use agentd_egress::inspect::target::{SecretTarget, SecretTargetError};
use agentd_policy::RequestedSecret;

/// The most secrets of an intent.
const MAX_SECRETS: usize = 64;

/// The reason why secrets cannot be requested. The messages contain no text that could be a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretRefusal {
    /// A destination has another form.
    #[error(transparent)]
    Target(#[from] SecretTargetError),
    /// There are too many secrets.
    #[error("secrets: more than 64 — use fewer secrets")]
    TooMany,
}

/// Reads the destinations of secrets, `NAME@HOST[:PORT][/HEADER]`.
///
/// # Errors
/// [`SecretRefusal`].
pub(crate) fn requested_secrets(targets: &[String]) -> Result<Vec<RequestedSecret>, SecretRefusal> {
    if targets.len() > MAX_SECRETS {
        return Err(SecretRefusal::TooMany);
    }
    let secret = |text: &String| {
        let target: SecretTarget = text.parse()?;
        Ok(RequestedSecret { name: target.variable, host: target.host.name.as_str().to_owned() })
    };
    targets.iter().map(secret).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_see_names_and_hosts() {
        let requested = |targets: &[&str]| requested_secrets(&targets.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let seen = requested(&["API_KEY@API.example:8443/x-api-key", "AWS@s3.example/aws/eu-west-1/s3"]).unwrap();
        let seen: Vec<_> = seen.iter().map(|secret| (secret.name.as_str(), secret.host.as_str())).collect();
        assert_eq!(seen, [("API_KEY", "api.example"), ("AWS", "s3.example")]);
        assert!(requested(&[]).unwrap().is_empty());
        let refused = requested(&["the-value"]).unwrap_err().to_string();
        assert!(!refused.contains("the-value"), "{refused}");
        assert!(matches!(requested(&["A@a.example"; 65]), Err(SecretRefusal::TooMany)));
    }
}
