//! Git's configuration files, which a payload can write.
#![no_main]

use agentd_isolation::fuzz::git_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    git_config(bytes).expect("no invariant is broken");
});
