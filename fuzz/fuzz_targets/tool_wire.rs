//! Decodes a call of a file operation, and the reply to one.
#![no_main]

use agentd_tool::fuzz::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| wire(bytes).expect("no invariant is broken"));
