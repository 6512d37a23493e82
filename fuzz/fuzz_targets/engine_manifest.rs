//! Manifests of capabilities, as an operator writes them.
#![no_main]

use agentd_engine::fuzz::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    manifest(bytes).expect("no invariant is broken");
});
