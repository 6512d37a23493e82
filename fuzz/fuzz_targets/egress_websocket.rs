//! Frames of a WebSocket from a server, in which secrets are masked.
#![no_main]

use agentd_egress::fuzz::websocket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    websocket(bytes).expect("no invariant is broken");
});
