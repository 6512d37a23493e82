//! Requests of HTTP/1 with their bodies.
#![no_main]

use agentd_egress::fuzz::requests;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    requests(bytes).expect("no invariant is broken");
});
