//! Kernels in bzImage format, and the compression formats of their payload.
#![no_main]

use agentd_vm::fuzz::bzimage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bzimage(bytes).expect("no invariant is broken");
});
