//! Reports of changes and findings. A payload controls the paths in them.
#![no_main]

use agentd_daemon::fuzz::reports;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    reports(bytes).expect("no invariant is broken");
});
