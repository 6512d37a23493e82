//! Entry point of the fuzz target for stored proofs.

use agentd_core::{Claim, EvidenceResult};

/// Parses the entries of a file and returns their number.
///
/// # Errors
/// Fails if an entry claims a capability that its evidence does not support.
pub fn proofs(bytes: &[u8]) -> Result<usize, String> {
    let entries = super::parse(bytes);
    let number = entries.len();
    for entry in entries {
        let capabilities = entry.capabilities();
        for claim in Claim::ALL.into_iter().filter(|claim| capabilities.has(*claim)) {
            let mut results = capabilities
                .evidence
                .iter()
                .filter(|evidence| evidence.claim == claim)
                .map(|evidence| &evidence.result)
                .peekable();
            if results.peek().is_none() || results.any(|result| *result != EvidenceResult::Held) {
                return Err(format!("{claim:?} is claimed without evidence"));
            }
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::{super::KeptProof, *};
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
        let entries = [honest, claims_more].map(|proven| KeptProof { key: "00".to_owned(), proven });
        let seed = serde_json::to_vec(&entries).unwrap();
        assert_eq!(proofs(&seed), Ok(2));
        keep_seed("proofs", "two", &seed);
    }
}
