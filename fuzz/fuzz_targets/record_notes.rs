//! Signed notes, checkpoints, proofs and public keys, which a user names or an attacker has replaced.
#![no_main]

use agentd_records::fuzz::note;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    note(bytes).expect("no invariant is broken");
});
