//! Unpacks a layer of an image into a directory: no file outside the directory changes.
#![no_main]

mod place;

use agentd_image::fuzz::layer;
use libfuzzer_sys::fuzz_target;
use place::UnpackDir;

fuzz_target!(|bytes: &[u8]| {
    let place = UnpackDir::new();
    layer(bytes, &place.inside).expect("no invariant is broken");
    place.check();
});
