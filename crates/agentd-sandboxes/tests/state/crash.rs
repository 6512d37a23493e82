//! Whenever a process that changes sandboxes is killed, all that it said it had done is there, whole, and what it was doing is done or
//! not begun. The process is this program again.

use crate::place::{Place, limited, name};
use agentd_kernel::mount::OwnMounts;
use agentd_sandboxes::{About, How, Name, Of, Record, State};
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

/// Tells this program to be the one that changes sandboxes, and where.
const CHANGER: &str = "AGENTD_TEST_CHANGER";
/// What it is killed over.
const KINDS: [&str; 10] = ["fork", "snapshot", "restore", "create", "fork", "squash", "remove", "collect", "fork", "restore"];
/// How often it is killed.
const MOMENTS: usize = 100;
/// Sandboxes there are at most, and snapshots of each.
const MOST: usize = 5;

/// What is seen of a sandbox: the number in a file of its, now and in each of its snapshots.
type Seen = (Option<u64>, BTreeMap<String, Option<u64>>);
/// What is seen of all.
type All = BTreeMap<String, Seen>;

fn seen(place: &Path, record: &Record) -> Seen {
    let number = |layers: &mut dyn Iterator<Item = String>| {
        let files: Vec<_> = layers.map(|layer| place.join("layers").join(layer).join("tree/number")).collect();
        let highest = files.iter().rev().find(|file| file.exists());
        highest.map(|file| fs::read_to_string(file).unwrap().parse().unwrap())
    };
    let now = number(&mut record.sealed.iter().chain([&record.top]).map(ToString::to_string));
    let then = |(name, snapshot): (&Name, &agentd_sandboxes::Snapshot)| {
        (name.to_string(), number(&mut snapshot.layers.iter().map(ToString::to_string)))
    };
    (now, record.snapshots.iter().map(then).collect())
}

/// What may keep so much and no more: every second one of root's, who alone can have such.
fn about(called: &str) -> About {
    if rustix::process::geteuid().is_root() && called.ends_with(['1', '3']) { limited() } else { About::default() }
}

/// The state as who changes it has it, with all volumes mounted in which anything is.
fn open(place: &Path) -> State {
    if !rustix::process::geteuid().is_root() {
        return State::open(place).unwrap();
    }
    let state = State::open_with_volumes(place, OwnMounts::take().unwrap()).unwrap();
    state.fsck().unwrap();
    state
}

fn all(place: &Path, state: &State) -> All {
    let records = state.list().unwrap().into_iter().map(Result::unwrap);
    records.map(|record| (record.name.to_string(), seen(place, &record))).collect()
}

/// Says it on a line of its own, whatever the test program has said on this one.
fn say(what: &str, all: &All) {
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

/// One who changes sandboxes, and says before each change what will be, and after it that it is.
struct Changer {
    place: PathBuf,
    state: State,
    now: All,
}

impl Changer {
    fn change<S, R>(&mut self, kind: &str, work: impl FnOnce(&mut All) -> S, real: impl FnOnce(&State) -> R) {
        let mut after = self.now.clone();
        work(&mut after);
        say(&format!("doing {kind}"), &after);
        real(&self.state);
        say("done", &after);
        self.now = after;
    }

    /// Changes anything, in any way.
    fn step(&mut self) {
        let free: Vec<_> = (0..MOST).map(|at| format!("s{at}")).filter(|name| !self.now.contains_key(name)).collect();
        let Some(called) = any(self.now.keys().cloned()) else { return self.create(free[0].clone()) };
        let (one, how) = (name(&called), any([How::Seal, How::Copy]).unwrap());
        let (number, snapshots) = self.now[&called].clone();
        let snapshot = any(snapshots.into_keys());
        match (random() % 20, snapshot) {
            (0..2, _) if !free.is_empty() => self.create(free[0].clone()),
            (2..7, _) => self.write(&called),
            (7..10, _) => {
                let new = format!("p{}", random() % MOST as u64);
                if !self.now[&called].1.contains_key(&new) {
                    let saved = |all: &mut All| all.get_mut(&called).unwrap().1.insert(new.clone(), number);
                    self.change("snapshot", saved, |state| state.snapshot(&one, &name(&new), how).unwrap());
                }
            }
            // Of one sandbox nothing can be half there.
            (10..13, _) if free.len() < 3 || self.is_deep(&one) => {
                self.change("remove", |all| all.remove(&called), |state| state.remove(&one).unwrap())
            }
            (10..13, of) => {
                let of = of.filter(|_| random().is_multiple_of(2));
                let number = of.as_ref().map_or(number, |of| self.now[&called].1[of]);
                let of = of.map(|of| name(&of));
                let new: Vec<_> = free.iter().take(3).map(|new| name(new)).collect();
                let first = || BTreeMap::from([(Name::created().to_string(), number)]);
                let made = |all: &mut All| all.extend(new.iter().map(|new| (new.to_string(), (number, first()))));
                self.change("fork", made, |state| {
                    state.fork(&one, of.as_ref().map_or(Of::Now(how), Of::Snapshot), &new).unwrap()
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

    /// Whether it was forked from forks so often that it may not be again: its layers are in so many folders.
    fn is_deep(&self, one: &Name) -> bool {
        let layers = self.state.layer_paths(&self.state.record(one).unwrap()).sealed;
        layers.iter().filter_map(|layer| layer.ancestors().nth(2)).collect::<BTreeSet<_>>().len() > 12
    }

    fn create(&mut self, called: String) {
        let new = name(&called);
        let made = |all: &mut All| all.insert(called, (None, BTreeMap::new()));
        self.change("create", made, |state| state.create(&new, about(new.as_str())).unwrap());
    }

    /// Writes another number, as a command would.
    fn write(&mut self, called: &str) {
        let number = random();
        let written = |all: &mut All| all.get_mut(called).unwrap().0 = Some(number);
        self.change("write", written, |state| {
            let (record, _held) = state.hold(&name(called)).unwrap();
            let tree = state.layer_paths(&record).top.join("tree");
            fs::write(tree.join("draft"), number.to_string()).unwrap();
            fs::rename(tree.join("draft"), tree.join("number")).unwrap();
        });
    }

    /// Seals until it is deep, and squashes.
    fn deepen(&mut self, called: &str) {
        let (one, passing) = (name(called), name("passing"));
        while self.state.record(&one).unwrap().sealed.len() < 14 {
            self.write(called);
            let number = self.now[called].0;
            let saved = |all: &mut All| all.get_mut(called).unwrap().1.insert("passing".to_owned(), number);
            self.change("snapshot", saved, |state| state.snapshot(&one, &passing, How::Seal).unwrap());
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
    // A snapshot that a kill left behind.
    for called in changer.now.clone().into_keys() {
        if changer.now[&called].1.contains_key("passing") {
            let dropped = |all: &mut All| all.get_mut(&called).unwrap().1.remove("passing");
            changer.change("drop", dropped, |state| state.drop_snapshot(&name(&called), &name("passing")).unwrap());
        }
    }
    changer.change("nothing", |_| (), |_| ());
    // Until it is killed.
    loop {
        changer.step();
    }
}

/// Lets one change sandboxes and kills it while it does `kind`; what it said was done, and what it said it was doing when it was killed.
fn killed(place: &Path, kind: &str) -> (All, Option<All>) {
    let mut changer = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::changer", "--nocapture"])
        .env(CHANGER, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(changer.stdout.take().unwrap());
    let mut said = String::new();
    let mut until = |begins: &str| {
        while !said.lines().next_back().is_some_and(|line| line.starts_with(begins)) {
            assert_ne!(out.read_line(&mut said).unwrap(), 0, "it ended itself: {said}");
        }
    };
    // How long it takes, so that each part of it is as likely to be hit.
    until(&format!("doing {kind} "));
    let began = Instant::now();
    until("done ");
    // Nothing, where both lines were there before they were looked for.
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap().max(1000);
    until(&format!("doing {kind} "));
    // Any moment will do, and a little after too, since what decides comes last: nothing is waited for.
    thread::sleep(Duration::from_micros(random() % (whole + whole / 2)));
    changer.kill().unwrap();
    assert_eq!(changer.wait().unwrap().signal(), Some(9));
    while out.read_line(&mut said).unwrap() > 0 {}
    let (mut done, mut doing) = (All::new(), None);
    // What is said without an end was not said.
    for line in said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some(after) = line.strip_prefix("doing ") {
            doing = Some(serde_json::from_str(after.split_once(' ').unwrap().1).unwrap());
        } else if let Some(after) = line.strip_prefix("done ") {
            (done, doing) = (serde_json::from_str(after).unwrap(), None);
        }
    }
    (done, doing)
}

#[test]
fn what_was_said_to_be_done_is_there_whenever_its_process_was_killed() {
    let place = Place::new();
    let root = place.at("state");
    let (mut interrupted, mut left_behind, mut changed, mut limits) = (0, 0, 0, 0);
    for moment in 0.. {
        let (done, doing) = killed(&root, KINDS[moment % KINDS.len()]);
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
        // What appears together is there or not.
        let new = || after.keys().filter(|called| !done.contains_key(*called));
        assert!(new().all(|called| now.contains_key(called)) || !new().any(|called| now.contains_key(called)), "{now:?}");

        // What the killed one was just starting (`mkfs.ext4`) has all that it had open until it is executed, locks too.
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
        // Kills that all fell between two changes show nothing.
        if moment + 1 >= MOMENTS && interrupted > 0 && left_behind > 0 && changed > 0 {
            assert!(limits > 0 || !rustix::process::geteuid().is_root());
            break;
        }
        assert!(moment < 20 * MOMENTS, "nothing was interrupted");
    }
}

#[test]
fn many_who_change_at_once_leave_it_whole() {
    let place = Place::with_volumes().unwrap_or_else(Place::new);
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

/// Changes anything. It may be refused because of what others do, and for no other reason.
fn disturb(state: &State) {
    use agentd_sandboxes::StateError::{Changed, NoSnapshot, NotFound, SnapshotTaken, Taken, TooDeep};
    let one = any(["a", "b", "c1"].map(name)).unwrap();
    let (other, snapshot) = (any(["a", "b", "c1"].map(name)).unwrap(), any(["s", "t"].map(name)).unwrap());
    let how = any([How::Seal, How::Copy]).unwrap();
    let done = match random() % 10 {
        0 | 1 => state.create(&one, about(one.as_str())).map(drop),
        2 | 3 => state.snapshot(&one, &snapshot, how).map(drop),
        4 => state.fork(&one, Of::Now(how), &[other]).map(drop),
        5 => state.restore(&one, &snapshot).map(drop),
        6 => state.drop_snapshot(&one, &snapshot).map(drop),
        7 => state.diff(&one, None, &[]).map(drop),
        8 => state.hold(&one).map(drop),
        _ if random().is_multiple_of(2) => state.remove(&one),
        _ => state.collect().map(drop),
    };
    if let Ok((record, _hold)) = state.hold(&one) {
        let _ = fs::write(state.layer_paths(&record).top.join("tree").join(random().to_string()), "x");
    }
    let refused = |error: &_| {
        matches!(
            error,
            Changed { .. } | TooDeep { .. } | NoSnapshot { .. } | NotFound { .. } | SnapshotTaken { .. } | Taken { .. }
        )
    };
    assert!(done.as_ref().err().is_none_or(refused), "{done:?}");
}
