//! Tests of the state of a path.

use super::*;
use rustix::fs::mkdirat;
use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
};

/// A program that keeps a shared mapping of a file. It writes to the mapping when it starts and after each line that it reads,
/// and then answers with a byte.
const MAP: &str = "import mmap, sys\n\
    f = open(sys.argv[1], 'r+b')\n\
    m = mmap.mmap(f.fileno(), 0)\n\
    for n in range(1, 9):\n\
    \tm[0] = n\n\
    \tprint('.', end='', flush=True)\n\
    \tif not sys.stdin.readline(): break\n";

fn states(root: &Path) -> States {
    let mut states = States::with_limit(1 << 16, &Interrupt::default());
    states.add(root, true, SystemTime::now());
    states
}

/// Waits until the program has written to its mapping.
fn await_write(program: &mut Child) {
    program.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
}

#[test]
fn write_through_a_mapping_is_a_change_on_disk_and_in_memory() {
    for root in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        let file = root.path().join("file");
        fs::write(&file, [0; 100]).unwrap();
        let mut program = Command::new("python3");
        program.args(["-c", MAP]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = program.spawn().unwrap();
        await_write(&mut program);
        // The page of the mapping stays dirty, and the clock ticks, so that the time stamps differ if the kernel sets them.
        std::thread::sleep(Duration::from_millis(30));
        let before = states(&file);
        program.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        await_write(&mut program);
        let after = states(&file);
        assert_eq!(
            after.seen[&file].compare(&before.seen[&file], &file, &Interrupt::default()),
            Comparison::Different,
            "{}",
            file.display()
        );
        drop(program.stdin.take());
        program.wait().unwrap();
    }
}

#[test]
fn digests_have_a_bound_in_total_and_a_file_without_digest_is_not_taken_for_unchanged() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..8 {
        let file = fs::File::create(root.path().join(number.to_string())).unwrap();
        file.set_len(MAX_DIGESTED / 8).unwrap();
    }
    let compare = |before: &States, after: &States, wanted| {
        let results = after.seen.iter().map(|(path, seen)| seen.compare(&before.seen[path], path, &Interrupt::default()));
        results.filter(|result| *result == wanted).count()
    };
    let before = states(root.path());
    assert!(before.gaps.is_empty());
    assert_eq!(compare(&before, &states(root.path()), Comparison::Same), 9);
    fs::write(root.path().join("one more"), "x").unwrap();
    let before = states(root.path());
    assert_eq!(before.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::TooManyBytes]);
    assert_eq!(compare(&before, &states(root.path()), Comparison::Unknown(Cause::TooManyBytes)), 1);
}

#[test]
fn file_that_cannot_be_read_is_named() {
    // Not even root may open this file for reading, and it is a regular one.
    let file = Path::new("/proc/sys/net/ipv4/route/flush");
    let states = states(file);
    assert!(states.seen.contains_key(file));
    assert_eq!(states.gaps.iter().map(|gap| (&*gap.path, gap.cause)).collect::<Vec<_>>(), [(file, Cause::UnreadableFile)]);
}

#[test]
fn directory_that_cannot_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let closed = root.path().join("a/closed");
    fs::create_dir_all(&closed).unwrap();
    for mode in [0o300, 0o600] {
        fs::write(closed.join("file"), "").unwrap();
        fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
        let states = states(root.path());
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        let gaps: Vec<_> = states.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
        // Root can list every directory.
        let expected = if rustix::process::geteuid().is_root() { vec![] } else { vec![(closed.clone(), Cause::Unreadable)] };
        assert_eq!(gaps, expected, "{mode:o}");
    }
}

#[test]
fn directories_of_any_depth_need_little_stack_and_those_out_of_reach_are_named() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    // More than the depth that a path of the greatest length reaches.
    let mut at = read::open(CWD, root.path(), OFlags::PATH | OFlags::DIRECTORY).unwrap();
    for _ in 0..2200 {
        mkdirat(&at, "d", 0o755.into()).unwrap();
        at = read::open(&at, Path::new("d"), OFlags::PATH | OFlags::DIRECTORY).unwrap();
    }
    let path = root.path().to_path_buf();
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(move || states(&path)).unwrap();
    let states = thread.join().unwrap();
    assert!(states.seen.len() > 1000, "{}", states.seen.len());
    assert_eq!(states.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::Unreadable]);
    // The standard library removes no tree of this depth.
    let [deep, next] = ["d", "next"].map(|name| root.path().join(name));
    while fs::rename(deep.join("d"), &next).is_ok() {
        fs::remove_dir(&deep).unwrap();
        fs::rename(&next, &deep).unwrap();
    }
}
