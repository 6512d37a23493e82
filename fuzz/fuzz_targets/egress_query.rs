//! A DNS query of a sandbox.
#![no_main]

use agentd_egress::fuzz::query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    query(bytes).expect("no invariant is broken");
});
