//! The digest of a set of policies in the records.

use agentd_policy::PolicySet;
use agentd_records::ContentDigest;

/// Returns the digest of a set of policies.
pub(crate) fn digest(set: &PolicySet) -> ContentDigest {
    // The text has the form of a digest. If it had not, the records would contain a digest of it.
    ContentDigest::try_from(set.digest().to_owned()).unwrap_or_else(|_| ContentDigest::of(set.digest().as_bytes()))
}
