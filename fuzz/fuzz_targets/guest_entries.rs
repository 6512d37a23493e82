//! Entries of copied grants: decoding terminates, and each decoded entry can be encoded.
#![no_main]

use agentd_guest::fuzz::entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    entries(bytes).expect("no invariant is broken");
});
