//! Volumes: their size holds, they outlive a crash and nothing outlives them, and what is not one is refused. Where the caller is an
//! ordinary user, each test of an attached one checks that it is told why there is none.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod crash;
mod holder;
mod image;
mod overlay;
mod place;
mod rest;
mod size;

use libtest_mimic::{Arguments, Trial};
use rustix::mount::MountPropagationFlags;

fn main() {
    holder::take_role();
    if place::is_root() {
        // Whoever makes a mount namespace has a copy of the mounts in his own, and keeps a volume that is attached there.
        // SAFETY: a new mount namespace changes nothing that Rust relies on; this process has one thread yet.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    }
    let mut arguments = Arguments::from_args();
    // And therefore they take turns.
    arguments.test_threads = Some(1);
    let tests: [(&str, fn()); 21] = [
        ("an_image_is_sparse_and_its_makers_alone", image::sparse),
        ("an_image_is_never_made_over_something", image::never_over_something),
        ("an_image_that_cannot_be_made_leaves_nothing", image::leaves_nothing),
        ("names_are_not_followed_through_symbolic_links", image::symbolic_links),
        ("what_is_not_a_whole_file_system_is_refused", image::not_whole),
        ("an_image_that_others_may_write_is_refused", image::not_alone),
        ("a_volume_is_there_until_it_is_detached", image::attached_and_detached),
        ("a_dropped_volume_leaves_no_mount_and_no_device", image::dropped),
        ("an_image_is_attached_once", image::once),
        ("many_volumes_are_attached_at_once", image::many),
        ("who_still_uses_a_volume_is_noticed", image::still_used),
        ("a_file_cannot_be_bigger_than_its_volume", size::one_file),
        ("many_small_files_fit_and_no_more_than_the_size", size::small_files),
        ("a_killed_holder_leaves_nothing_but_what_it_wrote", crash::killed),
        ("a_volume_that_is_nowhere_attached_dies_with_its_holder", crash::killed_unattached),
        ("a_killed_holders_volume_is_locked_while_another_uses_it", crash::killed_but_used),
        ("what_was_flushed_is_there_after_a_crash", crash::power_cut),
        ("a_full_disk_of_the_host_costs_nothing_that_was_flushed", crash::host_full),
        ("what_is_in_the_image_of_one_at_rest_is_of_one_moment", rest::of_one_moment),
        ("one_that_went_on_already_is_told", rest::over_already),
        ("it_can_be_id_mapped_and_hold_what_a_sandbox_writes", overlay::upper_layer),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
