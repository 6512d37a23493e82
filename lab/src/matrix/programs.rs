//! Test executables: built once, with one set of flags, and used by every row.

use super::execute::{Log, execute};
use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Arguments of cargo. `*` also matches integration tests that `cargo test --workspace` does not run (`test = false`).
const BUILD: [&str; 10] =
    ["test", "--workspace", "--lib", "--bins", "--examples", "--test", "*", "--no-run", "--message-format", "json"];

/// An executable, as reported by cargo.
#[derive(Debug, Clone)]
pub struct TestProgram {
    /// Name of the cargo target.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// Directory of the package, which cargo makes the working directory of tests.
    pub package: PathBuf,
}

/// The built programs.
#[derive(Debug)]
pub struct Programs {
    /// Integration tests.
    pub suites: Vec<TestProgram>,
    /// Unit tests of libraries and programs.
    pub units: Vec<TestProgram>,
    /// Examples.
    pub examples: Vec<TestProgram>,
    /// The program agentd.
    pub agentd: PathBuf,
    /// A directory with stripped copies of the suites, the unit tests of `agentd-kernel`, and agentd, by target name.
    pub stripped: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all programs, and puts stripped copies into a directory of `scratch`.
pub fn build(scratch: &Path, log: &Log) -> Result<Programs, LabError> {
    let json = scratch.join("programs.json");
    let mut cargo = Command::new("sh");
    cargo.args(["-c", "out=$1; shift; exec cargo \"$@\" >\"$out\"", "sh"]).arg(&json).args(BUILD);
    execute(&mut cargo, log)?;
    let stripped = scratch.join("stripped");
    let programs = parse(&fs::read_to_string(&json).on("read", &json)?, stripped)?;
    fs::create_dir(&programs.stripped).on("mkdir", &programs.stripped)?;
    let kernel = programs.units.iter().filter(|unit| unit.name == "agentd_kernel");
    let agentd = [("agentd", programs.agentd.as_path())];
    let tests = programs.suites.iter().chain(kernel).map(|program| (program.name.as_str(), program.file.as_path()));
    for (name, file) in tests.chain(agentd) {
        tool::output(Command::new("strip").arg("-o").arg(programs.stripped.join(name)).arg(file))?;
    }
    Ok(programs)
}

fn parse(messages: &str, stripped: PathBuf) -> Result<Programs, LabError> {
    let (mut suites, mut units, mut examples, mut agentd) = (Vec::new(), Vec::new(), Vec::new(), None);
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).map_err(|error| format_error("cargo's messages", error))?;
        let (Some(file), Some(target), Some(profile)) = (message.executable, message.target, message.profile) else { continue };
        let package = message.manifest_path.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).to_path_buf();
        let program = TestProgram { name: target.name, file, package };
        match (target.kind.first().map(String::as_str), profile.test) {
            (Some("test"), _) => suites.push(program),
            (Some("example"), _) => examples.push(program),
            (_, true) => units.push(program),
            (Some("bin"), false) if program.name == "agentd" => agentd = Some(program.file),
            _ => {}
        }
    }
    let agentd = agentd.ok_or_else(|| format_error("cargo's messages", "the executable agentd is missing"))?;
    Ok(Programs { suites, units, examples, agentd, stripped })
}
