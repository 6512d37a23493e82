//! Kernel modules and executables.
#![no_main]

use agentd_vm::fuzz::elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    elf(bytes).expect("no invariant is broken");
});
