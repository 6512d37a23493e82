//! Tests of volumes: size limits, crashes, cleanup and refused images. Only root can attach a volume. If an ordinary user runs
//! them, each test that attaches a volume checks the error instead.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod crash;
mod frozen;
mod holder;
mod image;
mod overlay;
mod place;
mod size;

use libtest_mimic::{Arguments, Trial};
use rustix::mount::MountPropagationFlags;

fn main() {
    holder::take_role();
    if place::is_root() {
        // A process that creates a mount namespace gets a copy of all mounts of its namespace, which keeps attached volumes busy.
        // A private namespace prevents this for processes outside of this test.
        // SAFETY: a new mount namespace changes nothing that Rust relies on; this process has one thread yet.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    }
    let mut arguments = Arguments::from_args();
    // Child processes of concurrent tests would copy each other's mounts.
    arguments.test_threads = Some(1);
    let tests: [(&str, fn()); 21] = [
        ("new_image_is_sparse_and_private_to_its_creator", image::sparse),
        ("format_over_existing_path_fails", image::never_over_something),
        ("failed_format_leaves_no_file", image::leaves_nothing),
        ("paths_with_symbolic_links_are_refused", image::symbolic_links),
        ("damaged_image_is_refused", image::not_whole),
        ("image_accessible_to_others_is_refused", image::not_alone),
        ("volume_is_mounted_until_detached", image::attached_and_detached),
        ("dropped_volume_leaves_no_mount_and_no_device", image::dropped),
        ("attached_image_cannot_be_attached_again", image::once),
        ("many_volumes_attach_concurrently", image::many),
        ("detach_of_volume_with_open_file_reports_busy", image::still_used),
        ("file_over_volume_size_fails", size::one_file),
        ("small_files_fill_volume_within_its_size", size::small_files),
        ("killed_holder_leaves_no_device_and_keeps_flushed_files", crash::killed),
        ("unattached_volume_of_killed_holder_is_released", crash::killed_unattached),
        ("volume_of_killed_holder_stays_locked_while_used", crash::killed_but_used),
        ("flushed_files_survive_power_cut", crash::power_cut),
        ("flushed_files_survive_full_host_disk", crash::host_full),
        ("image_of_frozen_volume_is_consistent", frozen::of_one_moment),
        ("thaw_of_volume_thawed_by_another_process_fails", frozen::over_already),
        ("id_mapped_volume_serves_as_overlay_upper_layer", overlay::upper_layer),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
