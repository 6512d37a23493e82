//! Parameters of a request, as a caller sends them.
#![no_main]

use agentd_engine::fuzz::parameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    parameters(bytes).expect("no invariant is broken");
});
