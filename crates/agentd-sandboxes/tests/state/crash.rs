//! Kills, at random moments, a process that changes sandboxes. All operations that the process reported as completed must be in
//! effect, and the interrupted operation must be either completed or not begun. The process is another run of this program.

use crate::place::{StateDir, limited, name};
use agentd_kernel::mount::OwnMounts;
use agentd_sandboxes::{ForkSource, Name, Record, SandboxSettings, SandboxStore, SaveMode};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The environment variable that makes this program change sandboxes, with the directory of their store.
const CHANGER: &str = "AGENTD_TEST_CHANGER";
/// The operations during which the process is killed, in turn.
const KINDS: [&str; 10] = ["fork", "snapshot", "restore", "create", "fork", "squash", "remove", "collect", "fork", "restore"];
/// The minimum number of kills.
const MIN_KILLS: usize = 100;
/// The maximum number of sandboxes, and of the named snapshots of each.
const MAX_SANDBOXES: usize = 5;

/// The content of a sandbox: the number in its file `number`, now and in each of its snapshots.
type Content = (Option<u64>, BTreeMap<String, Option<u64>>);
/// The content of all sandboxes, by name.
type All = BTreeMap<String, Content>;

fn content_of(place: &Path, record: &Record) -> Content {
    let number = |layers: &mut dyn Iterator<Item = String>| {
        let files: Vec<_> = layers.map(|layer| place.join("layers").join(layer).join("tree/number")).collect();
        let highest = files.iter().rev().find(|file| file.exists());
        highest.map(|file| fs::read_to_string(file).unwrap().parse().unwrap())
    };
    let now = number(&mut record.lower.iter().chain([&record.upper]).map(ToString::to_string));
    let then = |(name, snapshot): (&Name, &agentd_sandboxes::Snapshot)| {
        (name.to_string(), number(&mut snapshot.layers.iter().map(ToString::to_string)))
    };
    (now, record.snapshots.iter().map(then).collect())
}

/// Returns the description of a sandbox. As root, some sandboxes get a disk limit, which requires root.
fn about(called: &str) -> SandboxSettings {
    if rustix::process::geteuid().is_root() && called.ends_with(['1', '3']) { limited() } else { SandboxSettings::default() }
}

/// Opens the store. As root, mounts all volumes that contain layers, which fsck does.
fn open(place: &Path) -> SandboxStore {
    if !rustix::process::geteuid().is_root() {
        return SandboxStore::open(place).unwrap();
    }
    let state = SandboxStore::open_with_volumes(place, OwnMounts::take().unwrap()).unwrap();
    state.fsck().unwrap();
    state
}

fn all(place: &Path, state: &SandboxStore) -> All {
    let records = state.list().unwrap().into_iter().map(Result::unwrap);
    records.map(|record| (record.name.to_string(), content_of(place, &record))).collect()
}

/// Prints a report on a separate line, even if the test harness has written to the current line.
fn report(what: &str, all: &All) {
    let line = format!("\n{what} {}\n", serde_json::to_string(all).unwrap());
    io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u64::from_ne_bytes(bytes)
}

fn any<T>(of: impl IntoIterator<Item = T>) -> Option<T> {
    let mut of: Vec<_> = of.into_iter().collect();
    if of.is_empty() { None } else { Some(of.swap_remove(usize::try_from(random() % of.len() as u64).unwrap())) }
}

/// Changes sandboxes. Reports the expected content before each change, and the completion after it.
struct Changer {
    place: PathBuf,
    state: SandboxStore,
    now: All,
}

impl Changer {
    fn change<S, R>(&mut self, kind: &str, work: impl FnOnce(&mut All) -> S, real: impl FnOnce(&SandboxStore) -> R) {
        let mut after = self.now.clone();
        work(&mut after);
        report(&format!("doing {kind}"), &after);
        real(&self.state);
        report("done", &after);
        self.now = after;
    }

    /// Performs a random operation.
    fn step(&mut self) {
        let free: Vec<_> = (0..MAX_SANDBOXES).map(|at| format!("s{at}")).filter(|name| !self.now.contains_key(name)).collect();
        let Some(called) = any(self.now.keys().cloned()) else { return self.create(free[0].clone()) };
        let (one, how) = (name(&called), any([SaveMode::Commit, SaveMode::Copy]).unwrap());
        let (number, snapshots) = self.now[&called].clone();
        let snapshot = any(snapshots.into_keys());
        match (random() % 20, snapshot) {
            (0..2, _) if !free.is_empty() => self.create(free[0].clone()),
            (2..7, _) => self.write(&called),
            (7..10, _) => {
                let new = format!("p{}", random() % MAX_SANDBOXES as u64);
                if !self.now[&called].1.contains_key(&new) {
                    let saved = |all: &mut All| all.get_mut(&called).unwrap().1.insert(new.clone(), number);
                    self.change("snapshot", saved, |state| state.snapshot(&one, &name(&new), how).unwrap());
                }
            }
            // A fork of fewer than three sandboxes is not tested, because a fork of one sandbox is a single rename.
            (10..13, _) if free.len() < 3 || self.is_deep(&one) => {
                self.change("remove", |all| all.remove(&called), |state| state.remove(&one).unwrap())
            }
            (10..13, of) => {
                let of = of.filter(|_| random().is_multiple_of(2));
                let number = of.as_ref().map_or(number, |of| self.now[&called].1[of]);
                let of = of.map(|of| name(&of));
                let new: Vec<_> = free.iter().take(3).map(|new| name(new)).collect();
                let mut kept = self.now[&called].1.clone();
                kept.retain(|snapshot, _| of.as_ref().is_none_or(|of| of.as_str() == snapshot));
                kept.insert(Name::created().to_string(), number);
                let first = || kept.clone();
                let made = |all: &mut All| all.extend(new.iter().map(|new| (new.to_string(), (number, first()))));
                self.change("fork", made, |state| {
                    state.fork(&one, of.as_ref().map_or(ForkSource::Now(how), ForkSource::Snapshot), &new).unwrap()
                });
            }
            (13..15, Some(snapshot)) => {
                let restored = |all: &mut All| {
                    let seen = all.get_mut(&called).unwrap();
                    seen.0 = seen.1[&snapshot];
                };
                self.change("restore", restored, |state| state.restore(&one, &name(&snapshot)).unwrap());
            }
            (15, Some(snapshot)) => {
                let dropped = |all: &mut All| all.get_mut(&called).unwrap().1.remove(&snapshot);
                self.change("drop", dropped, |state| state.drop_snapshot(&one, &name(&snapshot)).unwrap());
            }
            (16, _) => self.change("remove", |all| all.remove(&called), |state| state.remove(&one).unwrap()),
            (17, _) => self.change("touch", |_| (), |state| state.touch(&one).unwrap()),
            (18, _) => self.change("collect", |_| (), |state| state.collect().unwrap()),
            (19, _) => self.deepen(&called),
            _ => {}
        }
    }

    /// Returns true if the layers of the sandbox are on so many volumes that another fork may be refused.
    fn is_deep(&self, one: &Name) -> bool {
        let layers = self.state.layer_paths(&self.state.record(one).unwrap()).lower;
        layers.iter().filter_map(|layer| layer.ancestors().nth(2)).collect::<BTreeSet<_>>().len() > 12
    }

    fn create(&mut self, called: String) {
        let new = name(&called);
        let made = |all: &mut All| all.insert(called, (None, BTreeMap::new()));
        self.change("create", made, |state| state.create(&new, about(new.as_str())).unwrap());
    }

    /// Writes a new number to the upper layer, as a command would.
    fn write(&mut self, called: &str) {
        let number = random();
        let written = |all: &mut All| all.get_mut(called).unwrap().0 = Some(number);
        self.change("write", written, |state| {
            let (record, _held) = state.hold(&name(called)).unwrap();
            let tree = state.layer_paths(&record).upper.join("tree");
            fs::write(tree.join("draft"), number.to_string()).unwrap();
            fs::rename(tree.join("draft"), tree.join("number")).unwrap();
        });
    }

    /// Commits layers until the stack is deep enough for a squash, and squashes it.
    fn deepen(&mut self, called: &str) {
        let (one, passing) = (name(called), name("passing"));
        while self.state.record(&one).unwrap().lower.len() < 14 {
            self.write(called);
            let number = self.now[called].0;
            let saved = |all: &mut All| all.get_mut(called).unwrap().1.insert("passing".to_owned(), number);
            self.change("snapshot", saved, |state| state.snapshot(&one, &passing, SaveMode::Commit).unwrap());
            let dropped = |all: &mut All| all.get_mut(called).unwrap().1.remove("passing");
            self.change("drop", dropped, |state| state.drop_snapshot(&one, &passing).unwrap());
        }
        self.change("squash", |_| (), |state| state.squash(&one).unwrap());
        self.change("collect", |_| (), |state| state.collect().unwrap());
        assert_eq!(all(&self.place, &self.state), self.now);
    }
}

#[test]
fn changer() {
    let Some(place) = env::var_os(CHANGER).map(PathBuf::from) else { return };
    let state = open(&place);
    let now = all(&place, &state);
    let mut changer = Changer { place, state, now };
    // Drops a temporary snapshot that a kill left behind.
    for called in changer.now.clone().into_keys() {
        if changer.now[&called].1.contains_key("passing") {
            let dropped = |all: &mut All| all.get_mut(&called).unwrap().1.remove("passing");
            changer.change("drop", dropped, |state| state.drop_snapshot(&name(&called), &name("passing")).unwrap());
        }
    }
    changer.change("nothing", |_| (), |_| ());
    // Runs until the process is killed.
    loop {
        changer.step();
    }
}

/// Starts a process that changes sandboxes, and kills it during an operation of `kind`. Returns the content after the last
/// completed operation, and the expected content after the interrupted one.
fn run_until_killed(place: &Path, kind: &str) -> (All, Option<All>) {
    let mut changer = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::changer", "--nocapture"])
        .env(CHANGER, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(changer.stdout.take().unwrap());
    let mut output = String::new();
    let mut until = |begins: &str| {
        while !output.lines().next_back().is_some_and(|line| line.starts_with(begins)) {
            assert_ne!(out.read_line(&mut output).unwrap(), 0, "the process ended by itself: {output}");
        }
    };
    // Measures the duration of the operation, so that each part of the next one is equally likely to be hit.
    until(&format!("doing {kind} "));
    let began = Instant::now();
    until("done ");
    // The measured duration is near zero if both lines were already in the pipe.
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap().max(1000);
    until(&format!("doing {kind} "));
    // The random delay may exceed the duration by half, because the deciding rename comes last.
    thread::sleep(Duration::from_micros(random() % (whole + whole / 2)));
    changer.kill().unwrap();
    assert_eq!(changer.wait().unwrap().signal(), Some(9));
    while out.read_line(&mut output).unwrap() > 0 {}
    let (mut done, mut doing) = (All::new(), None);
    // An incomplete line does not count.
    for line in output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some(after) = line.strip_prefix("doing ") {
            doing = Some(serde_json::from_str(after.split_once(' ').unwrap().1).unwrap());
        } else if let Some(after) = line.strip_prefix("done ") {
            (done, doing) = (serde_json::from_str(after).unwrap(), None);
        }
    }
    (done, doing)
}

#[test]
fn killed_process_keeps_completed_operations() {
    let place = StateDir::new();
    let root = place.at("state");
    let (mut interrupted, mut left_behind, mut changed, mut limits) = (0, 0, 0, 0);
    for moment in 0.. {
        let (done, doing) = run_until_killed(&root, KINDS[moment % KINDS.len()]);
        interrupted += u32::from(doing.is_some());
        left_behind += u32::from(place.count("staging") > 0);
        let state = open(&root);
        limits += u32::from(place.count("volumes") > 0);
        let damages = || state.fsck().unwrap().into_iter().filter(agentd_sandboxes::Problem::is_damage).collect::<Vec<_>>();
        assert_eq!(damages().len(), 0, "{:?}", damages());
        let now = all(&root, &state);
        changed += u32::from(!now.is_empty());
        let after = doing.unwrap_or_else(|| done.clone());
        for called in done.keys().chain(after.keys()).chain(now.keys()) {
            let possible = [done.get(called), after.get(called)];
            assert!(possible.contains(&now.get(called)), "{called}: {:?} is none of {possible:?}", now.get(called));
        }
        // The sandboxes of one fork exist all together or not at all.
        let new = || after.keys().filter(|called| !done.contains_key(*called));
        assert!(new().all(|called| now.contains_key(called)) || !new().any(|called| now.contains_key(called)), "{now:?}");

        // A child that the killed process was starting (`mkfs.ext4`) keeps open files and locks of its parent until `execve(2)`.
        let began = Instant::now();
        loop {
            state.collect().unwrap();
            let (found, staged) = (state.fsck().unwrap(), place.count("staging"));
            if found.is_empty() && staged == 0 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{staged} staged; {found:?}");
        }
        assert_eq!(all(&root, &state), now);
        // Continues if all kills fell between two operations, because such kills prove nothing.
        if moment + 1 >= MIN_KILLS && interrupted > 0 && left_behind > 0 && changed > 0 {
            assert!(limits > 0 || !rustix::process::geteuid().is_root());
            break;
        }
        assert!(moment < 20 * MIN_KILLS, "no operation was interrupted");
    }
}

#[test]
fn concurrent_operations_leave_valid_state() {
    let place = StateDir::with_volumes().unwrap_or_else(StateDir::new);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let state = place.state.clone();
                for _ in 0..60 {
                    disturb(&state);
                }
            });
        }
    });
    place.state.collect().unwrap();
    place.assert_clean();
    assert!(place.state.list().unwrap().iter().all(Result::is_ok));
}

/// Performs a random operation. It may fail only because of concurrent operations.
fn disturb(state: &SandboxStore) {
    use agentd_sandboxes::StoreError::{Changed, NoSnapshot, NotFound, SnapshotTaken, Taken, TooDeep};
    let one = any(["a", "b", "c1"].map(name)).unwrap();
    let (other, snapshot) = (any(["a", "b", "c1"].map(name)).unwrap(), any(["s", "t"].map(name)).unwrap());
    let how = any([SaveMode::Commit, SaveMode::Copy]).unwrap();
    let done = match random() % 10 {
        0 | 1 => state.create(&one, about(one.as_str())).map(drop),
        2 | 3 => state.snapshot(&one, &snapshot, how).map(drop),
        4 => state.fork(&one, ForkSource::Now(how), &[other]).map(drop),
        5 => state.restore(&one, &snapshot).map(drop),
        6 => state.drop_snapshot(&one, &snapshot).map(drop),
        7 => state.diff(&one, None, &[]).map(drop),
        8 => state.hold(&one).map(drop),
        _ if random().is_multiple_of(2) => state.remove(&one),
        _ => state.collect().map(drop),
    };
    if let Ok((record, _hold)) = state.hold(&one) {
        let _ = fs::write(state.layer_paths(&record).upper.join("tree").join(random().to_string()), "x");
    }
    let refused = |error: &_| {
        matches!(
            error,
            Changed { .. } | TooDeep { .. } | NoSnapshot { .. } | NotFound { .. } | SnapshotTaken { .. } | Taken { .. }
        )
    };
    assert!(done.as_ref().err().is_none_or(refused), "{done:?}");
}
