//! A child process that holds a volume until it is killed, usually attached in its own mount namespace.

use agentd_kernel::volume::Volume;
use std::{
    fs::File,
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// `argv[1]` of a holder that writes numbered files, flushes each, and then prints its number.
const WRITER: &str = "--write-files-until-killed";

/// `argv[1]` of a holder that starts a process with an open file of the volume, and prints the pid of that process.
const PARENT: &str = "--start-a-user-and-wait";

/// `argv[1]` of a holder that opens the volume without attaching it, and prints a number.
const OPENER: &str = "--open-and-wait";

/// Runs as a holder if this process was started as one.
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
        send(number);
    }
    unreachable!("the range has no end")
}

fn start_user(_volume: &Volume, place: &Path) -> ! {
    let open = File::create(place.join("open")).unwrap();
    let mut user = Command::new("/bin/sleep").arg("1000").stdin(open).stdout(Stdio::null()).spawn().unwrap();
    send(user.id());
    user.wait().unwrap();
    unreachable!("the child runs longer than this process")
}

fn wait(volume: &Volume) -> ! {
    volume.usage().unwrap();
    send(0);
    loop {
        std::thread::park();
    }
}

fn send(number: u32) {
    let mut out = std::io::stdout();
    writeln!(out, "{number}").and_then(|()| out.flush()).ok();
}

/// The parent's handle of a holder, which is killed when this value is dropped.
pub struct Holder {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub fn writer(image: &Path, place: &Path) -> Self {
        Self::start(WRITER, image, place)
    }

    pub fn parent(image: &Path, place: &Path) -> Self {
        Self::start(PARENT, image, place)
    }

    /// Starts a holder in the mount namespace of its parent.
    pub fn opener(image: &Path) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()).arg(OPENER).args([image, Path::new("")]))
    }

    fn start(role: &str, image: &Path, place: &Path) -> Self {
        // `unshare` creates a private mount namespace and executes the holder.
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(std::env::current_exe().unwrap()).arg(role).args([image, place]);
        Self::run(&mut command)
    }

    fn run(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// Returns the next number that the holder prints.
    pub fn recv(&mut self) -> i32 {
        self.output.next().unwrap().unwrap().parse().unwrap()
    }

    /// Kills the holder, and returns the last number that it printed since the last call of [`Holder::recv`].
    pub fn kill(mut self) -> Option<i32> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.output.by_ref().map_while(Result::ok).last().and_then(|last| last.parse().ok())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
