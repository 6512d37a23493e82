//! A power failure: the file system discards what was not flushed.

mod as_root {
    use crate::{
        child::{self, OtherProcess},
        place::{finished, new_id, open, request, runtime},
    };
    use agentd_kernel::volume::Volume;
    use agentd_state::{Begun, IntentId};
    use std::{
        fs::{self, File},
        os::fd::AsRawFd as _,
        path::Path,
    };

    const TEST: &str = "power::as_root::acknowledged_outcomes_survive_power_failures";

    const FAILURES: usize = 5;

    /// Makes the file system discard all data that is not on its disk and refuse further writes (`EXT4_IOC_SHUTDOWN` with
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`, `Documentation/filesystems/ext4`).
    fn cut(root: &File) {
        let how: u32 = 2;
        // SAFETY: this ioctl reads one 32-bit number, which lives across the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), 0x8004_587D, &raw const how) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Attaches the volume once the kernel has released its device.
    fn attach(image: &Path, mount: &Path) -> Volume {
        loop {
            match Volume::attach(image, mount) {
                Err(error) if error.errno == Some(libc::EWOULDBLOCK) => std::thread::yield_now(),
                attached => return attached.unwrap(),
            }
        }
    }

    fn fail_repeatedly(place: &Path) {
        let (image, mount) = (place.join("image"), place.join("mount"));
        fs::create_dir(&mount).unwrap();
        Volume::format(&image, 64 << 20).unwrap();
        let runtime = runtime();
        let mut ended: Vec<(IntentId, String)> = Vec::new();
        for failure in 0..FAILURES {
            let volume = attach(&image, &mount);
            let store = open(&mount.join("state"));
            assert_eq!(runtime.block_on(store.check()).unwrap().problems, [""; 0]);
            for (id, key) in &ended {
                let answer = runtime.block_on(store.begin(request("alice", Some(key), key))).unwrap();
                assert_eq!(answer, Begun::Finished { id: *id, outcome: key.clone().into_bytes() });
            }
            for number in 0..40 {
                let key = format!("{failure}-{number}");
                let id = new_id(runtime.block_on(store.begin(request("alice", Some(&key), &key))).unwrap());
                runtime.block_on(store.end(finished(id, &key))).unwrap();
                ended.push((id, key));
            }
            cut(&File::open(&mount).unwrap());
            assert!(runtime.block_on(store.begin(request("alice", None, "a"))).is_err());
            drop((store, volume));
        }
        child::send("done");
    }

    /// In a mount namespace of its own, so that no other process keeps the volume busy.
    #[test]
    fn acknowledged_outcomes_survive_power_failures() {
        if let Some(place) = child::folder() {
            return fail_repeatedly(&place);
        }
        let place = tempfile::tempdir().unwrap();
        let program = ["unshare", "--mount", "--propagation", "private"];
        assert_eq!(OtherProcess::start_with(&program, TEST, place.path()).join(), ["done"]);
    }
}
