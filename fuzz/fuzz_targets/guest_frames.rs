//! Frames of a guest and of a host: decoding terminates, each decoded frame can be encoded, and its texts contain no terminal
//! control characters.
#![no_main]

use agentd_guest::fuzz::frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    frames(bytes).expect("no invariant is broken");
});
