//! Comparison of a reported uid with that of this process.

use std::{fs, sync::OnceLock};

/// The overflow uid of a kernel whose setting cannot be read (`DEFAULT_OVERFLOWUID` in `include/linux/highuid.h`).
const DEFAULT_OVERFLOW_UID: u32 = 65534;

/// The map of a user namespace that maps every uid (`user_namespaces(7)`).
const FULL_MAP: [u32; 3] = [0, 0, u32::MAX];

/// Returns true if `uid`, as the kernel reports it to this process, is certainly the effective uid of this process. Returns false
/// for an ambiguous uid ([`is_ambiguous_uid`]).
pub fn is_own_uid(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() && !is_ambiguous_uid(uid)
}

/// Returns true if `uid`, as the kernel reports it to this process, may stand for several users. The kernel reports every uid
/// that the user namespace of this process does not map as the overflow uid. In a namespace that maps every uid, such as the
/// initial one, the overflow uid is an ordinary uid.
pub fn is_ambiguous_uid(uid: u32) -> bool {
    uid == overflow_uid() && !maps_every_uid(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

fn overflow_uid() -> u32 {
    static SETTING: OnceLock<u32> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok();
    *SETTING.get_or_init(|| read().unwrap_or(DEFAULT_OVERFLOW_UID))
}

/// The kernel accepts such a map only if the parent namespace also maps every uid.
fn maps_every_uid(map: &str) -> bool {
    map.split_ascii_whitespace().map(str::parse).eq(FULL_MAP.map(Ok))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Environment variable that marks the child process of a test, and contains whether the child's uid is ambiguous.
    const INSIDE: &str = "AGENTD_TEST_OWNER_INSIDE";

    /// Environment variable with a directory of the process that started the child.
    const PLACE: &str = "AGENTD_TEST_OWNER_PLACE";

    #[test]
    fn only_a_complete_map_maps_every_uid() {
        assert!(maps_every_uid("         0          0 4294967295\n"));
        for partial in ["", "0 0 4294967294", "0 1000 1", "0 0 65536\n65536 65536 4294901759", "65534 65534 1", "0 0"] {
            assert!(!maps_every_uid(partial), "{partial}");
        }
    }

    #[test]
    fn overflow_uid_is_own_only_where_every_uid_is_mapped() {
        let own = rustix::process::geteuid().as_raw();
        if let Some(ambiguous) = std::env::var_os(INSIDE) {
            assert_eq!(own, overflow_uid());
            assert_eq!((is_own_uid(own), is_ambiguous_uid(own)), (ambiguous == "no", ambiguous == "yes"));
            if ambiguous == "yes" {
                // A directory that may be another user's is neither used nor removed.
                let place = std::path::PathBuf::from(std::env::var_os(PLACE).unwrap());
                let refused = crate::make_private(&place).unwrap_err().to_string();
                assert!(refused.contains("belongs to another user"), "{refused}");
                drop(crate::Scratch::make(&place, "agentd-x").unwrap());
                assert!(place.join("agentd-x-0").is_dir());
            }
            return;
        }
        assert!(is_own_uid(own) && !is_own_uid(own ^ 1));
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("agentd-x-0")).unwrap();
        let overflow = overflow_uid().to_string();
        let mapped = format!("--map-user={overflow}");
        let mut starts = vec![(vec!["unshare", "--user"], "yes"), (vec!["unshare", "--user", &mapped], "yes")];
        if own == 0 {
            starts.push((vec!["setpriv", "--reuid", &overflow, "--clear-groups"], "no"));
        }
        for (start, ambiguous) in starts {
            let mut inside = Command::new(start[0]);
            // An ordinary user may be unable to execute the file of the test by its path.
            inside.args(&start[1..]).arg("/proc/self/fd/0").stdin(fs::File::open("/proc/self/exe").unwrap());
            inside
                .args(["--exact", "owner::tests::overflow_uid_is_own_only_where_every_uid_is_mapped"])
                .env(INSIDE, ambiguous)
                .env(PLACE, place.path());
            let output = inside.output().unwrap();
            assert!(output.status.success(), "{start:?}: {output:?}");
        }
    }
}
