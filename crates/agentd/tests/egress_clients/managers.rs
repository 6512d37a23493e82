//! Clients of package registries, against registries of the test.

use crate::{
    outer::{PUBLIC, name, reached},
    place::EgressDir,
    tls,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub const TESTS: &[(&str, fn(&str))] = &[
    ("pip_installs_from_a_granted_index", pip),
    ("uv_installs_from_a_granted_index", uv),
    ("npm_installs_and_repeats_it_from_a_lock_file", npm),
    ("cargo_fetches_from_a_granted_registry", cargo),
    ("apt_updates_from_a_granted_repository", apt),
    ("go_downloads_modules_from_a_granted_proxy", go),
];

const MAKE: &str = include_str!("make_registries.py");

const URL: &str = "https://granted.example/files";

/// Returns the directory of the programs that `./test` installs from registries.
pub fn installed() -> PathBuf {
    let named = std::env::var_os("AGENTD_TEST_CLIENTS").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients")).canonicalize().unwrap()
}

/// Runs a shell script with a grant of the server. The script must print `expected` last. `shown` is visible in the sandbox.
fn installs(place: &EgressDir, backend: &str, shown: Option<&Path>, script: &str, expected: &str) {
    name("granted.example", &[PUBLIC]);
    let served = tempfile::tempdir().unwrap();
    let made = Command::new("/usr/bin/python3").args(["-c", MAKE]).current_dir(served.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    tls::show(served.path());
    let mut options = vec!["--net", "allow=granted.example"];
    if let Some(shown) = shown {
        options.extend(["--ro", shown.to_str().unwrap()]);
    }
    let output = place.run(backend, &options, &["sh", "-euc", script]);
    tls::hide();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.trim_end().ends_with(expected), "{printed}\n{output:?}");
    assert!(reached().iter().all(|at| *at == format!("{PUBLIC}:443")), "{:?}", reached());
}

fn pip(backend: &str) {
    let script = format!(
        "/usr/bin/python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target out --cert ca.pem \
         --index-url {URL}/simple demo
         cat out/demo.py"
    );
    installs(&EgressDir::new(), backend, None, &script, "VALUE = 1");
}

fn uv(backend: &str) {
    let folder = installed().join("uv");
    let script = format!(
        "export SSL_CERT_FILE=$PWD/ca.pem UV_CACHE_DIR=$PWD/cache
         {}/bin/uv pip install -q --python /usr/bin/python3 --target out --index-url {URL}/simple demo
         cat out/demo.py",
        folder.display()
    );
    installs(&EgressDir::new(), backend, Some(&folder), &script, "VALUE = 1");
}

fn npm(backend: &str) {
    let place = EgressDir::new();
    fs::create_dir(place.work().join("app")).unwrap();
    fs::write(place.work().join("app/package.json"), "{\"name\":\"app\",\"version\":\"1.0.0\"}").unwrap();
    let script = format!(
        "cd app; set -- --no-audit --no-fund --no-update-notifier --cafile=../ca.pem --registry={URL}/npm/
         npm install \"$@\" --cache ../first demo >&2; rm -r node_modules
         npm ci \"$@\" --cache ../second >&2; cat node_modules/demo/index.js"
    );
    installs(&place, backend, None, &script, "module.exports = 1");
}

/// The toolchain of the test. Its cargo knows sparse registries, which that of Debian 12 does not.
fn cargo(backend: &str) {
    let place = EgressDir::new();
    fs::create_dir_all(place.work().join("app/src")).unwrap();
    fs::write(place.work().join("app/src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\ndemo = { version = \"1\", registry = \"test\" }\n";
    fs::write(place.work().join("app/Cargo.toml"), manifest).unwrap();
    let sysroot = sysroot();
    let script = format!(
        "export CARGO_HOME=$PWD/home CARGO_HTTP_CAINFO=$PWD/ca.pem CARGO_REGISTRIES_TEST_INDEX=sparse+{URL}/cargo/
         export PATH={}/bin:$PATH; cd app; cargo fetch >&2; cat ../home/registry/src/*/demo-1.0.0/src/lib.rs",
        sysroot.display()
    );
    installs(&place, backend, Some(&sysroot), &script, "pub const VALUE: u8 = 1;");
}

/// Returns the directory of the Rust toolchain.
pub fn sysroot() -> PathBuf {
    let printed = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    PathBuf::from(String::from_utf8(printed.stdout).unwrap().trim())
}

/// Options of apt for directories in the workspace, so that any user can update the lists.
pub const APT: &str = "mkdir -p state/lists/partial cache/archives/partial
    set -- -q -o Dir::State=$PWD/state -o Dir::Cache=$PWD/cache -o Dir::State::status=/dev/null -o APT::Sandbox::User= \
        -o Acquire::Languages=none";

fn apt(backend: &str) {
    let script = format!(
        "{APT}
         echo 'deb [trusted=yes] {URL}/apt ./' >demo.list
         set -- \"$@\" -o Dir::Etc::sourcelist=$PWD/demo.list -o Dir::Etc::sourceparts=- -o Acquire::https::CaInfo=$PWD/ca.pem
         apt-get \"$@\" update >&2; apt-cache \"$@\" show demo | grep Version"
    );
    installs(&EgressDir::new(), backend, None, &script, "Version: 1.0");
}

fn go(backend: &str) {
    let place = EgressDir::new();
    fs::create_dir(place.work().join("app")).unwrap();
    fs::write(place.work().join("app/go.mod"), "module app\n\ngo 1.19\n\nrequire example.test/demo v1.0.0\n").unwrap();
    let script = format!(
        "export SSL_CERT_FILE=$PWD/ca.pem GOPROXY={URL}/go GOSUMDB=off GOFLAGS=-mod=mod GOPATH=$PWD/go GOCACHE=$PWD/cache
         cd app; go mod download >&2; cat ../go/pkg/mod/example.test/demo@v1.0.0/demo.go"
    );
    installs(&place, backend, None, &script, "package demo");
}
