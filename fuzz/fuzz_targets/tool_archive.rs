//! Lists and extracts an archive, in a directory: no file outside the directory changes.
#![no_main]

mod place;

use agentd_tool::fuzz::archive;
use libfuzzer_sys::fuzz_target;
use place::UnpackDir;

fuzz_target!(|bytes: &[u8]| {
    let place = UnpackDir::new();
    archive(bytes, &place.inside).expect("no invariant is broken");
    place.check();
});
