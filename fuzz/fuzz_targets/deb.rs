//! Debian packages: the `ar` archive and the tar archive inside.
#![no_main]

use agentd_vm::fuzz::deb;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    deb(bytes).expect("no invariant is broken");
});
