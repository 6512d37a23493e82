//! Entry point of the fuzz target for stored proofs.

use agentd_core::{Claim, EvidenceResult};

/// Parses a stored proof. Returns whether it is one.
///
/// # Errors
/// Fails if the proof claims a capability that its evidence does not support.
pub fn proofs(bytes: &[u8]) -> Result<bool, String> {
    let Some(proven) = super::parse(bytes) else { return Ok(false) };
    for claim in Claim::ALL.into_iter().filter(|claim| proven.has(*claim)) {
        let mut results =
            proven.evidence.iter().filter(|evidence| evidence.claim == claim).map(|evidence| &evidence.result).peekable();
        if results.peek().is_none() || results.any(|result| *result != EvidenceResult::Held) {
            return Err(format!("{claim:?} is claimed without evidence"));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{BackendCapabilities, Evidence};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    #[test]
    fn seeds_are_accepted_in_full() {
        let evidence = |claim, result| Evidence { claim, check: "a1".to_owned(), result, remedy: "do".to_owned() };
        let evidence = vec![
            evidence(Claim::Filesystem, EvidenceResult::Held),
            evidence(Claim::Network, EvidenceResult::NotTried("why".to_owned())),
            evidence(Claim::Network, EvidenceResult::Held),
        ];
        let honest = BackendCapabilities::from_evidence("container", evidence);
        let claims_more = BackendCapabilities { network_isolation: true, kernel_isolation: true, ..honest.clone() };
        for (name, proven) in [("honest", honest), ("claims_more", claims_more)] {
            let seed = serde_json::to_vec(&proven).unwrap();
            assert_eq!(proofs(&seed), Ok(true), "{name}");
            keep_seed("proofs", name, &seed);
        }
    }
}
