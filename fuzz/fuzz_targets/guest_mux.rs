//! The bytes of a connection to a guest: reading terminates, and the queued bytes of a stream are bounded.
#![no_main]

use agentd_guest::fuzz::mux;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    mux(bytes).expect("no invariant is broken");
});
