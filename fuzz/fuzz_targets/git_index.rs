//! Git's index, which a payload can write.
#![no_main]

use agentd_isolation::fuzz::git_index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    git_index(bytes).expect("no invariant is broken");
});
