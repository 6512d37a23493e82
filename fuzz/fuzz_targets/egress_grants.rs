//! A list of grants, as a user writes it.
#![no_main]

use agentd_egress::fuzz::grants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    grants(bytes).expect("no invariant is broken");
});
