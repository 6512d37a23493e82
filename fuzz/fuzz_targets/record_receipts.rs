//! A receipt, as a user names it.
#![no_main]

use agentd_records::fuzz::receipt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    receipt(bytes).expect("no invariant is broken");
});
