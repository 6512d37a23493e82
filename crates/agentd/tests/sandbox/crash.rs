//! The keeper or one of its clients killed at any moment, images that are taken in among it.

use crate::place::{Place, kill, runs, until};
use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often something is killed.
const ROUNDS: usize = 200;

/// The latest moment of a round at which that happens: about as long as all that is asked for in it takes.
const LATEST: u64 = 60_000;

/// A number that differs from call to call; what it is says the failure.
fn dice(sides: usize) -> usize {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    usize::try_from(u32::from_ne_bytes(bytes)).unwrap() % sides
}

fn one_of(all: &BTreeSet<String>) -> &str {
    all.iter().nth(dice(all.len())).unwrap()
}

/// How it ended, unless the moment came before.
fn wait(client: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = client.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
    }
}

/// What is known to be there, because it was acknowledged.
struct Known {
    sandboxes: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl Known {
    fn is_there(&self, place: &Place, when: &str) {
        let state = place.agentd(&["fsck"]);
        assert_eq!(state.lines().last(), Some("clean"), "{when}: {state}");
        let listed = place.agentd(&["ls"]);
        let listed: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let lost: Vec<_> = self.sandboxes.iter().filter(|name| !listed.contains(name.as_str())).collect();
        assert!(lost.is_empty(), "{when}: {lost:?} are lost");
        let listed = place.agentd_itself().args(["image", "ls"]).output().unwrap();
        assert!(listed.status.success(), "{when}: {listed:?}");
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lost: Vec<_> = self.images.iter().filter(|name| !listed.contains(name.as_str())).collect();
        assert!(lost.is_empty(), "{when}: {lost:?} are lost in {listed}");
    }
}

#[test]
fn killed_at_any_moment_the_keeper_or_its_client_lose_nothing_that_was_acknowledged() {
    let place = Place::new();
    let mark = format!("{}", 300_000 + std::process::id());
    fs::create_dir_all(place.path("tree/etc")).unwrap();
    for number in 0..40 {
        fs::write(place.path("tree/etc").join(number.to_string()), vec![b'x'; 10_000]).unwrap();
    }
    // As root, every second one has a limit, and a file system and a device of its own.
    let limit = |number: usize| {
        if rustix::process::geteuid().is_root() && number.is_multiple_of(2) { &["--disk", "24M"][..] } else { &[] }
    };
    place.agentd(&[&["create", "base"], limit(0)].concat());
    place.sh("base", "echo base >/file");
    place.agentd(&["snapshot", "base", "kept"]);
    let mut known = Known { sandboxes: BTreeSet::from(["base".to_owned()]), images: BTreeSet::new() };
    for round in 0..ROUNDS {
        let moment = Duration::from_micros(dice(usize::try_from(LATEST).unwrap()).try_into().unwrap());
        let when = format!("round {round}, {moment:?}");
        let (made, fork, image) = (format!("made-{round}"), format!("fork-{round}"), format!("image:{round}"));
        let of = one_of(&known.sandboxes).to_owned();
        let sandbox = |args: &[&str]| place.command(args);
        // A file of its own, so that no layer is there already.
        fs::write(place.path("tree/etc/round"), round.to_string()).unwrap();
        let import = || {
            let mut command = place.agentd_itself();
            command.args(["image", "import", "tree", &image]);
            command
        };
        let wanted: [(Command, Option<&str>); 6] = [
            (sandbox(&["exec", "-d", &of, "--", "sleep", &mark]), None),
            (sandbox(&[&["create", made.as_str()], limit(round / 2)].concat()), Some(&made)),
            (sandbox(&["snapshot", &of, &format!("snapshot-{round}")]), None),
            (sandbox(&["fork", &of, &fork]), Some(&fork)),
            (sandbox(&["restore", "base", "kept"]), None),
            (import(), Some(&image)),
        ];
        let first = dice(wanted.len());
        let began = Instant::now();
        let mut wanted = Vec::from(wanted);
        wanted.rotate_left(first);
        for (mut command, makes) in wanted {
            let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            match (wait(&mut client, began + moment), place.keeper()) {
                (Some(status), _) => {
                    if let (true, Some(makes)) = (status.success(), makes) {
                        let known = if makes == image { &mut known.images } else { &mut known.sandboxes };
                        known.insert(makes.to_owned());
                    }
                }
                (None, Some(keeper)) if round % 2 == 0 => {
                    kill(keeper);
                    client.wait().unwrap();
                    // A client that asked just then may have started the next keeper.
                    let next = || place.keeper().is_some_and(|next| next != keeper);
                    until("nothing of it runs any more", || next() || !runs(&format!("sleep\0{mark}")));
                    break;
                }
                (None, _) => {
                    client.kill().unwrap();
                    client.wait().unwrap();
                    break;
                }
            }
        }
        known.is_there(&place, &when);
        // Few enough to be looked at each time.
        while known.sandboxes.len() > 12 {
            let name = one_of(&known.sandboxes).to_owned();
            if name != "base" {
                place.agentd(&["rm", &name]);
            }
            known.sandboxes.retain(|other| *other != name || name == "base");
        }
    }
    assert_eq!(place.sh("base", "cat /file"), "base\n");
    let all = place.agentd(&["ls"]);
    let names: Vec<&str> = all.lines().filter_map(|line| line.split_whitespace().next()).collect();
    place.agentd(&[&["rm"], names.as_slice()].concat());
    assert_eq!(fs::read_dir(place.path("data/sandboxes/layers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("data/sandboxes/staging")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("data/sandboxes/volumes")).unwrap().count(), 0);
    until("no mount and no device is left", || place.attached() == (0, 0));
}
