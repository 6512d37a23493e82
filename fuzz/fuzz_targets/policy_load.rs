//! A file of policies, as an operator writes it.
#![no_main]

use agentd_policy::fuzz::load;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    load(bytes).expect("no invariant is broken");
});
