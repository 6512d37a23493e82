//! Stored proofs of backends: the claimed capabilities follow from the evidence.
#![no_main]

use agentd_isolation::fuzz::proofs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    proofs(bytes).expect("no invariant is broken");
});
