//! A process of its own that has a volume attached in a mount namespace of its own, until it is killed.

use agentd_kernel::volume::Volume;
use std::{
    fs::File,
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// `argv[1]` of one that writes files and flushes each, saying its number then.
const WRITER: &str = "--write-files-until-killed";

/// `argv[1]` of one that starts a process which has a file of the volume open, and says its pid.
const PARENT: &str = "--start-a-user-and-wait";

/// `argv[1]` of one that opens the volume, attaches it nowhere, and says a number.
const OPENER: &str = "--open-and-wait";

/// Becomes a holder, if this process was started as one.
pub fn take_role() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, WRITER, image, place] => write(&attached(image, place), Path::new(place)),
        [_, PARENT, image, place] => start_user(&attached(image, place), Path::new(place)),
        [_, OPENER, image, _] => wait(&Volume::open(Path::new(image)).unwrap()),
        _ => {}
    }
}

fn attached(image: &str, place: &str) -> Volume {
    Volume::attach(Path::new(image), Path::new(place)).unwrap()
}

fn write(_volume: &Volume, place: &Path) -> ! {
    for number in 0.. {
        let mut file = File::create(place.join(format!("{number}"))).unwrap();
        write!(file, "content {number}").unwrap();
        file.sync_all().unwrap();
        say(number);
    }
    unreachable!("numbers have no end")
}

fn start_user(_volume: &Volume, place: &Path) -> ! {
    let open = File::create(place.join("open")).unwrap();
    let mut user = Command::new("/bin/sleep").arg("1000").stdin(open).stdout(Stdio::null()).spawn().unwrap();
    say(user.id());
    user.wait().unwrap();
    unreachable!("the user outlives this")
}

fn wait(volume: &Volume) -> ! {
    volume.usage().unwrap();
    say(0);
    loop {
        std::thread::park();
    }
}

fn say(number: u32) {
    let mut out = std::io::stdout();
    writeln!(out, "{number}").and_then(|()| out.flush()).ok();
}

/// The holder, seen by its parent. Killed when dropped.
pub struct Holder {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub fn writer(image: &Path, place: &Path) -> Self {
        Self::start(WRITER, image, place)
    }

    pub fn parent(image: &Path, place: &Path) -> Self {
        Self::start(PARENT, image, place)
    }

    /// In the mount namespace of its parent.
    pub fn opener(image: &Path) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()).arg(OPENER).args([image, Path::new("")]))
    }

    fn start(role: &str, image: &Path, place: &Path) -> Self {
        // It makes the namespace, and that private, and executes the holder.
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(std::env::current_exe().unwrap()).arg(role).args([image, place]);
        Self::run(&mut command)
    }

    fn run(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, said }
    }

    /// What it says next.
    pub fn hear(&mut self) -> i32 {
        self.said.next().unwrap().unwrap().parse().unwrap()
    }

    /// Kills it, and returns the last that it said.
    pub fn kill(mut self) -> Option<i32> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.said.by_ref().map_while(Result::ok).last().and_then(|last| last.parse().ok())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
