//! The index, manifest and configuration of an image.
#![no_main]

use agentd_image::fuzz::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    json(bytes).expect("no invariant is broken");
});
