//! Tiles, entry bundles and leaves of an audit log.
#![no_main]

use agentd_records::fuzz::tiles;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tiles(bytes).expect("no invariant is broken");
});
