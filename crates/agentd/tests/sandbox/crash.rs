//! The daemon or one of its clients is killed at any moment, even during imports of images.

use crate::place::{SandboxDir, kill, runs, text, until};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The number of kills.
const ROUNDS: usize = 200;

/// The latest moment of a kill in a round, in µs: about the duration of all commands of a round.
const LATEST: u64 = 60_000;

/// Returns a random number. The failure message contains the values.
fn dice(sides: usize) -> usize {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    usize::try_from(u32::from_ne_bytes(bytes)).unwrap() % sides
}

fn one_of(all: &BTreeSet<String>) -> &str {
    all.iter().nth(dice(all.len())).unwrap()
}

/// Waits for the end of a client up to a deadline; `None` means that the deadline was reached.
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

/// Sandboxes and images whose creation was acknowledged.
struct Known {
    sandboxes: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl Known {
    fn assert_exists(&self, place: &SandboxDir, when: &str) {
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

/// Runs the commands one after the other. At `end`, kills the daemon, or without a `mark` the client of the command that runs.
/// All commands with `mark` end with the daemon. Calls `succeeded` with the name that a successful command creates.
fn run_until_kill(
    place: &SandboxDir,
    commands: Vec<(Command, Option<&str>)>,
    end: Instant,
    mark: Option<&str>,
    mut succeeded: impl FnMut(&str),
) {
    for (mut command, makes) in commands {
        let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        match (wait(&mut client, end), place.daemon(), mark) {
            (Some(status), ..) => {
                if let (true, Some(makes)) = (status.success(), makes) {
                    succeeded(makes);
                }
            }
            (None, Some(daemon), Some(mark)) => {
                kill(daemon);
                client.wait().unwrap();
                // A concurrent client may have started the next daemon.
                let next = || place.daemon().is_some_and(|next| next != daemon);
                until("all commands have ended", || next() || !runs(&format!("sleep\0{mark}")));
                return;
            }
            (None, ..) => {
                client.kill().unwrap();
                client.wait().unwrap();
                return;
            }
        }
    }
}

#[test]
fn daemon_or_client_killed_at_any_moment_loses_nothing_acknowledged() {
    let place = SandboxDir::new();
    let mark = format!("{}", 300_000 + std::process::id());
    fs::create_dir_all(place.path("tree/etc")).unwrap();
    for number in 0..40 {
        fs::write(place.path("tree/etc").join(number.to_string()), vec![b'x'; 10_000]).unwrap();
    }
    // As root, every second sandbox has `--disk`, and so a file system and a loop device.
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
        // A new file in each round, so that the layer does not exist yet.
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
        let end = Instant::now() + moment;
        let mut wanted = Vec::from(wanted);
        wanted.rotate_left(first);
        let succeeded = |makes: &str| {
            let known = if makes == image { &mut known.images } else { &mut known.sandboxes };
            known.insert(makes.to_owned());
        };
        run_until_kill(&place, wanted, end, (round % 2 == 0).then_some(mark.as_str()), succeeded);
        known.assert_exists(&place, &when);
        // Keep the number of sandboxes small, because each round checks all of them.
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
    until("no mount and no device remains", || place.attached() == (0, 0));
}

/// Returns the only child of a process.
fn child(parent: Pid) -> Pid {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).unwrap();
    let children: String = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap()).collect();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn killed_supervisor_of_named_sandbox_loses_command_and_keeps_files() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.sh("dev", "echo kept >/file");
    let mut exec = place.command(&["exec", "dev", "--", "sh", "-c", "echo runs; exec sleep 1000"]);
    let mut exec = exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(exec.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    let launcher = child(place.daemon().unwrap());
    kill_process(child(launcher), Signal::KILL).unwrap();
    let output = exec.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let message = text(&output.stderr);
    assert!(message.contains("use sandbox dev: its processes were lost: "), "{message}");
    assert!(message.contains("the files of the sandbox were kept") && !message.contains("another sandbox"), "{message}");
    assert_eq!(place.sh("dev", "cat /file"), "kept\n");
}
