//! Messages between a client and the daemon that runs the named sandboxes.
#![no_main]

use agentd_daemon::fuzz::messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    messages(bytes).expect("no invariant is broken");
});
