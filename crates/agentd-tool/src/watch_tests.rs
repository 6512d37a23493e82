use super::*;
use crate::request::{ToolCall, ToolRequest};
use std::{fs, os::unix::fs::symlink, path::Path, sync::mpsc, thread};

fn request(path: &Path) -> WatchRequest {
    WatchRequest { path: path.into(), recursive: true, glob: Vec::new(), max_events: None, time_ms: Some(600_000) }
}

fn resolver(directory: &Path, request: &WatchRequest) -> Resolver {
    let request = ToolRequest::Watch(request.clone());
    Resolver::new(&ToolCall { within: Some(directory.into()), request }).unwrap()
}

/// Watches a directory while `change` runs, until the file `end` is created in it. Returns the result without that file.
fn changes(directory: &Path, request: &WatchRequest, change: impl FnOnce()) -> WatchResult {
    let seen = SeenChanges::new(tree::globs(&request.glob).unwrap(), limits::ENTRIES.of(request.max_events));
    let root = resolver(directory, request).resolve("watch", request.path.as_bytes(), LastLink::Follow).unwrap();
    let root = root.open_directory("watch", b"").unwrap();
    let deadline = Deadline::of(request.time_ms);
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let (tree, root) = WatchedTree::new(inotify.as_fd(), root, request.recursive, deadline).ok().unwrap();
    // From here on, the kernel keeps every change.
    change();
    let mut observer = Observer { tree, root, seen, moved: None, found: HashSet::new(), overflow: false };
    let ended = observer.observe(&inotify, deadline).unwrap();
    let (directories, unwatched) = observer.tree.counts();
    WatchResult { events: observer.seen.into_list(), directories, unwatched, overflow: observer.overflow, ended }
}

fn words(result: &WatchResult) -> Vec<String> {
    let word = |change: &crate::WatchedChange| {
        let from = change.from.as_ref().map(|from| format!("{} -> ", from.as_path().display())).unwrap_or_default();
        let slash = if change.directory { "/" } else { "" };
        format!("{:?} {from}{}{slash}", change.kind, change.path.as_path().display())
    };
    result.events.iter().map(word).collect()
}

#[test]
fn changes_are_reported_with_kind_and_path() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("sub/deep")).unwrap();
    fs::write(at("sub/old"), "x").unwrap();
    let expected = ["Created sub/deep/new", "Modified sub/deep/new", "Renamed sub/old -> moved", "Removed moved"];
    let request = WatchRequest { max_events: Some(expected.len() as u64), ..request(directory.path()) };
    let result = changes(directory.path(), &request, || {
        fs::write(at("sub/deep/new"), "content").unwrap();
        fs::rename(at("sub/old"), at("moved")).unwrap();
        fs::remove_file(at("moved")).unwrap();
    });
    assert_eq!(words(&result), expected);
    assert_eq!((result.directories, result.unwatched, result.overflow, result.ended), (3, 0, false, WatchEnd::Count));
}

#[test]
fn files_of_new_directories_are_remembered_up_to_a_bound_and_reported_beyond_it() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("new")).unwrap();
    ["a", "b", "c"].iter().for_each(|name| fs::write(directory.path().join("new").join(name), "").unwrap());
    let request = request(directory.path());
    let root = resolver(directory.path(), &request).resolve("watch", request.path.as_bytes(), LastLink::Follow).unwrap();
    let root = root.open_directory("watch", b"").unwrap();
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let (tree, root) = WatchedTree::new(inotify.as_fd(), root, true, Deadline::of(request.time_ms)).ok().unwrap();
    let seen = SeenChanges::new(tree::globs(&[]).unwrap(), limits::ENTRIES.of(None));
    let found: HashSet<Vec<u8>> = (1..MAX_FOUND).map(|number| format!("other/{number}").into_bytes()).collect();
    let mut observer = Observer { tree, root, seen, moved: None, found, overflow: false };
    assert!(observer.appeared(b"new", true).is_none());
    assert_eq!(observer.found.len(), MAX_FOUND, "one of the three files is remembered");
    let remembered: Vec<_> = observer.found.iter().filter(|path| path.starts_with(b"new/")).cloned().collect();
    // The kernel reports each creation too: the one that is remembered is not reported again.
    for name in ["a", "b", "c"] {
        assert!(observer.appeared(format!("new/{name}").as_bytes(), false).is_none());
    }
    assert_eq!(remembered.len(), 1);
    let events = observer.seen.into_list();
    let created = |path: &str| events.iter().filter(|event| event.path.as_path() == Path::new(path)).count();
    assert!(["new", "new/a", "new/b", "new/c"].iter().all(|path| created(path) > 0), "{events:?}");
    assert_eq!(created(std::str::from_utf8(&remembered[0]).unwrap()), 1, "{events:?}");
}

#[test]
fn new_and_renamed_directories_are_watched_under_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let outside = tempfile::tempdir_in(directory.path().parent().unwrap()).unwrap();
    fs::create_dir(at("a")).unwrap();
    fs::create_dir(at("gone")).unwrap();
    let mut request = request(directory.path());
    request.max_events = Some(7);
    let result = changes(directory.path(), &request, || {
        fs::create_dir_all(at("new/deep")).unwrap();
        fs::write(at("new/deep/file"), "").unwrap();
        fs::rename(at("a"), at("b")).unwrap();
        fs::write(at("b/file"), "").unwrap();
        fs::rename(at("gone"), outside.path().join("gone")).unwrap();
        fs::write(outside.path().join("gone/file"), "").unwrap();
        fs::write(at("last"), "").unwrap();
    });
    let mut found = words(&result);
    // A file that is found in a new directory may be reported before or after events of other directories.
    found.sort();
    assert_eq!(
        found,
        [
            "Created b/file",
            "Created last",
            "Created new/",
            "Created new/deep/",
            "Created new/deep/file",
            "Removed gone/",
            "Renamed a -> b/"
        ]
    );
}

#[test]
fn links_are_not_followed_and_lead_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(at("work")).unwrap();
    symlink(outside.path(), at("work/link")).unwrap();
    let request = WatchRequest { max_events: Some(2), ..request(&at("work")) };
    let result = changes(&at("work"), &request, || {
        fs::write(outside.path().join("secret"), "").unwrap();
        symlink(outside.path(), at("work/later")).unwrap();
        fs::write(outside.path().join("other"), "").unwrap();
        fs::write(at("work/file"), "").unwrap();
    });
    assert_eq!((words(&result), result.directories), (vec!["Created later".to_owned(), "Created file".to_owned()], 1));
    let through = WatchRequest { path: at("work/link").as_path().into(), ..request.clone() };
    assert_eq!(watch(&resolver(&at("work"), &through), &through).unwrap_err().code, ErrorCode::Outside);
    let file = WatchRequest { path: at("work/file").as_path().into(), ..request };
    assert_eq!(watch(&resolver(&at("work"), &file), &file).unwrap_err().code, ErrorCode::WrongKind);
}

#[test]
fn watch_ends_at_its_deadline_and_with_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let short = WatchRequest { time_ms: Some(1), ..request(directory.path()) };
    let result = watch(&resolver(directory.path(), &short), &short).unwrap();
    assert_eq!((result.ended, result.events.len()), (WatchEnd::Time, 0));
    let work = directory.path().join("work");
    fs::create_dir(&work).unwrap();
    let result = changes(&work, &request(&work), || {
        fs::write(work.join("a"), "").unwrap();
        fs::rename(&work, directory.path().join("aside")).unwrap();
    });
    assert_eq!((words(&result), result.ended), (vec!["Created a".to_owned()], WatchEnd::Removed));
}

#[test]
fn overflow_of_the_kernels_queue_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let limit: u32 = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let request =
        WatchRequest { glob: vec!["end".to_owned()], max_events: Some(1), time_ms: Some(600_000), ..request(directory.path()) };
    let (sender, receiver) = mpsc::channel::<()>();
    let path = directory.path().to_owned();
    let mut ending = None;
    let result = changes(directory.path(), &request, || {
        for number in 0..=limit {
            // Two different names, because the kernel merges equal events.
            fs::write(directory.path().join(if number % 2 == 0 { "a" } else { "b" }), "x").unwrap();
        }
        // The kernel drops events until somebody reads. The last file is therefore created until the watch has seen it.
        ending = Some(thread::spawn(move || {
            while receiver.try_recv() == Err(mpsc::TryRecvError::Empty) {
                fs::write(path.join("end"), "x").unwrap();
                fs::remove_file(path.join("end")).unwrap();
            }
        }));
    });
    drop(sender);
    ending.unwrap().join().unwrap();
    assert!(result.overflow, "{result:?}");
}
