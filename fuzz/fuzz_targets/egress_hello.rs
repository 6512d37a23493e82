//! The first bytes of a TLS connection.
#![no_main]

use agentd_egress::fuzz::client_hello;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    client_hello(bytes).expect("no invariant is broken");
});
