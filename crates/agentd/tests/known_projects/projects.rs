//! The projects: version, digests, how the sources are fetched, and how the suite is run.

use std::{path::Path, process::Output};

/// A project with a test suite.
pub struct Project {
    /// Name and version.
    pub name: &'static str,
    /// Bash script that creates the directory `project` with the project and the dependencies of its suite.
    pub fetch: &'static str,
    /// Bash script that runs the suite in the project's directory, without a network.
    pub suite: &'static str,
    /// Marks of the output lines that are results.
    marks: &'static [&'static str],
}

impl Project {
    /// Returns the results that a suite printed in `directory`, sorted, because suites with threads print them in any order.
    pub fn results(&self, output: &Output, directory: &Path) -> Vec<String> {
        let text = String::from_utf8_lossy(&output.stdout).replace(&*directory.to_string_lossy(), "");
        let marked = text.lines().filter(|line| self.marks.iter().any(|mark| line.contains(mark)));
        let mut results: Vec<String> = marked.map(without_progress).collect();
        results.sort();
        results
    }
}

/// Removes the percentage that pytest prints after each result, which depends on the order.
fn without_progress(line: &str) -> String {
    let result = line.strip_suffix("%]").and_then(|line| line.rsplit_once(" [")).map_or(line, |(result, _)| result);
    result.trim_end().to_owned()
}

/// Compiled and tested with the toolchain of this host. The crate's own `Cargo.lock` pins the dependencies.
pub const RUST: Project = Project {
    name: "semver 1.0.24 (Rust)",
    fetch: r#"
        mkdir src && touch src/lib.rs
        cat > Cargo.toml <<'END'
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
semver = "=1.0.24"
[workspace]
END
        cat > Cargo.lock <<'END'
version = 3

[[package]]
name = "fetch"
version = "0.0.0"
dependencies = ["semver"]

[[package]]
name = "semver"
version = "1.0.24"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "3cb6eb87a131f756572d7fb904f6e7b68633f09cca868c5df1c4b8d1a694bbba"
END
        cargo vendor --quiet --locked sources
        mv sources/semver project && cd project
        echo '[workspace]' >> Cargo.toml
        cargo vendor --quiet --locked vendor
        mkdir .cargo && cat > .cargo/config.toml <<'END'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "vendor"
END
    "#,
    suite: "cargo test --offline --locked 2>&1",
    marks: &[" ... "],
};

/// With pytest and its dependencies, unpacked next to the sources.
pub const PYTHON: Project = Project {
    name: "click 8.1.8 (Python)",
    fetch: "
        cat > requirements <<'END'
click==8.1.8 --hash=sha256:ed53c9d8990d83c2a27deae68e4ee337473f6330c040a31d4225c9574d16096a
pytest==8.3.4 --hash=sha256:50e16d954148559c9a74109af1eaf0c945ba2d8f30f0a3d3335edde19788b6f6
pluggy==1.5.0 --hash=sha256:44e1ad92c8ca002de6377e165f3e0f1be63266ab4d554740532335b9d75ea669
iniconfig==2.0.0 --hash=sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374
packaging==24.2 --hash=sha256:09abb1bccd265c01f4a3aa3f7a7db064b36514d2cba19a2f694fe6150451a759
END
        python3 -m pip download --quiet --no-deps --require-hashes --no-binary click --dest packages -r requirements
        tar xzf packages/click-8.1.8.tar.gz && mv click-8.1.8 project
        for wheel in packages/*.whl; do python3 -m zipfile -e $wheel project/dependencies; done
    ",
    suite: "PYTHONPATH=src:dependencies /usr/bin/python3 -m pytest -v -p no:cacheprovider tests",
    marks: &["PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL", "XPASS"],
};

/// With an old release of its test harness, which has few dependencies. Each file of the suite runs in a separate process.
pub const NODE: Project = Project {
    name: "minimist 1.2.8 (Node)",
    fetch: r#"
        mkdir get && cd get
        cat > package.json <<'END'
{
  "private": true,
  "dependencies": {
    "deep-equal": "0.2.2", "defined": "0.0.0", "glob": "3.2.11", "has": "0.0.1", "inherits": "2.0.4",
    "lru-cache": "2.7.3", "minimatch": "0.3.0", "minimist": "1.2.8", "object-inspect": "1.14.0", "resumer": "0.0.0",
    "sigmund": "1.0.1", "tape": "2.14.1", "through": "2.3.8"
  }
}
END
        npm install --silent --ignore-scripts --no-audit --no-fund
        node -e '
            const { packages } = require("./package-lock.json");
            for (const place of Object.keys(packages).filter(Boolean).sort())
                console.log(place, packages[place].version, packages[place].integrity);' > packages
        echo '8fb1fb9a7e446b6896212a983b19b1a1e598cfb892b22221be5de529eeb738c0  packages' | sha256sum --check --quiet
        mv node_modules/minimist ../project && mv node_modules ../project/
    "#,
    suite: "node --test --test-reporter=tap test",
    marks: &["ok "],
};

/// From Debian's source packages, with apt's sources list and keys, and a separate directory for the index of sources.
pub const C: Project = Project {
    name: "zlib 1.2.13 (C)",
    fetch: r#"
        mkdir -p parts lists/partial
        for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
            [ ! -f $list ] || sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' $list > parts/${list##*/}
        done
        cat > apt.conf <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$PWD/parts";
Dir::State::Lists "$PWD/lists";
END
        export APT_CONFIG=$PWD/apt.conf
        apt-get update -qq
        apt-get source -qq --download-only zlib=1:1.2.13.dfsg-1 2>&1
        echo '3fa1e6b2fc525062aa88207dda52fed8e045373c809d362fe8a2bfbf7cf515a8  zlib_1.2.13.dfsg-1.dsc' |
            sha256sum --check --quiet
        dpkg-source --no-check --extract zlib_1.2.13.dfsg-1.dsc project
    "#,
    suite: "./configure && make && make test",
    marks: &["zlib test", "shared test", "64-bit test", "hello", ": OK"],
};
