//! Reads what a kernel in a sandbox reports about a cell.
#![no_main]

use agentd_interpreter::fuzz::reports;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    reports(bytes).expect("no invariant is broken");
});
