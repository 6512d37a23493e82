//! Installations from the registries that this machine is configured to use.

use crate::{
    configured::{CRATE, NPM_PACKAGE, PIP_PACKAGE, Registry},
    managers::{APT, sysroot},
    place::EgressDir,
};
use std::{fs, path::Path};

/// The variables by which this machine's clients find the certificates that they trust.
const TRUST: [&str; 6] =
    ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO", "GIT_SSL_CAINFO"];

/// Runs a shell script that may reach the registry and nothing else.
fn installs(place: &EgressDir, backend: &str, registry: &Registry, shown: Option<&Path>, script: &str) {
    let net = format!("allow={}", registry.grants.join(","));
    let mut options = vec!["--net".to_owned(), net];
    for name in TRUST {
        options.extend(std::env::var(name).ok().into_iter().flat_map(|value| ["--env".to_owned(), format!("{name}={value}")]));
    }
    options.extend(shown.into_iter().flat_map(|shown| ["--ro".to_owned(), shown.display().to_string()]));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let output = place.run(backend, &options, &["sh", "-euc", script]);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success() && out.trim_end().ends_with("installed"), "{options:?}\n{out}\n{err}");
    // A name that is not granted would be reported.
    assert!(!err.contains("was refused: no network grant covers"), "{err}");
}

pub fn pip(backend: &str, registry: &Registry) {
    let script = format!(
        "/usr/bin/python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target out --index-url {} {PIP_PACKAGE}
         test -e out/{PIP_PACKAGE}.py && echo installed",
        registry.url
    );
    installs(&EgressDir::new(), backend, registry, None, &script);
}

pub fn npm(backend: &str, registry: &Registry) {
    let place = EgressDir::new();
    fs::write(place.work().join("package.json"), "{\"name\":\"app\",\"version\":\"1.0.0\"}").unwrap();
    let script = format!(
        "set -- --no-audit --no-fund --no-update-notifier --registry={}
         npm install \"$@\" --cache ./first {NPM_PACKAGE} >&2; rm -r node_modules
         npm ci \"$@\" --cache ./second >&2; test -e node_modules/{NPM_PACKAGE} && echo installed",
        registry.url
    );
    installs(&place, backend, registry, None, &script);
}

pub fn cargo(backend: &str, registry: &Registry) {
    let place = EgressDir::new();
    fs::create_dir(place.work().join("src")).unwrap();
    fs::write(place.work().join("src/lib.rs"), "").unwrap();
    let manifest = format!(
        "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\n{CRATE} = {{ version = \"1\", registry = \"own\" }}\n"
    );
    fs::write(place.work().join("Cargo.toml"), manifest).unwrap();
    let sysroot = sysroot();
    let script = format!(
        "export CARGO_HOME=$PWD/home CARGO_REGISTRIES_OWN_INDEX=sparse+{} PATH={}/bin:$PATH
         cargo fetch >&2; ls -d home/registry/src/*/{CRATE}-1* >&2 && echo installed",
        registry.url,
        sysroot.display()
    );
    installs(&place, backend, registry, Some(&sysroot), &script);
}

pub fn apt(backend: &str, registry: &Registry) {
    let script = format!(
        "{APT}
         apt-get \"$@\" -o Dir::Etc::sourcelist={} -o Dir::Etc::sourceparts=- -o APT::Update::Error-Mode=any update >&2
         ls state/lists/*Packages* >&2 && echo installed",
        registry.url
    );
    installs(&EgressDir::new(), backend, registry, None, &script);
}
