//! The matrix: which suites run as which user, on which kernel, with which backends, and why.

use super::step::{Asset, Place, Row, Suites, Turn, User};
use crate::args::KernelSeries;

/// Backends that run on the kernel of the machine itself.
const ON_THE_KERNEL: &str = "host-direct linux-native container test-machine";

/// Backends that isolate with this kernel's own means, whose behaviour differs from kernel to kernel.
const BY_THE_KERNEL: &str = "linux-native container";

/// Suites that do not depend on the control groups of their user.
const WITHOUT_GROUPS: &[&str] = &[
    "build",
    "call",
    "code",
    "contain",
    "copies",
    "debian",
    "disk",
    "egress",
    "engine",
    "flat_memory",
    "gateway",
    "gondolin",
    "guest",
    "ids",
    "image",
    "known_projects",
    "policy",
    "sandbox",
    "state",
    "store",
    "telemetry",
    "tool",
    "volume",
];

/// The rows, in the order in which they start when slots are free. Rows that create sandboxes on this host come first, because
/// those of the same user run one after another and so decide how long a run takes.
pub const ROWS: &[Row] = &[
    Row {
        name: "lints",
        place: Place::Check(
            "cargo fmt --all --check
            cargo fmt --check --manifest-path fuzz/Cargo.toml
            cargo fmt --check --manifest-path contract/Cargo.toml
            cargo clippy --workspace --all-targets -- -D warnings
            cargo clippy --package agentd --test '*' -- -D warnings
            RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        needs: &[Asset::Programs],
        turn: Turn::Always,
        minutes: 4,
        why: "format; lints with the default Cargo features; documentation",
    },
    Row {
        name: "gondolin-attack",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["attack"]),
        backends: "gondolin",
        needs: &[Asset::Programs, Asset::Gondolin],
        turn: Turn::Always,
        minutes: 2,
        why: "every attack from inside Gondolin's machine",
    },
    Row {
        name: "gondolin-root",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["gondolin"]),
        backends: "gondolin",
        needs: &[Asset::Programs, Asset::Gondolin],
        turn: Turn::Rotates(0),
        minutes: 6,
        why: "features that only Gondolin has: each test boots emulated machines; every run covers boots in `gondolin-attack`, and a \
              later turn has the same suite in `gondolin-user`",
    },
    Row {
        name: "gondolin-conformance",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["conformance", "tool"]),
        backends: "gondolin",
        needs: &[Asset::Programs, Asset::Gondolin],
        turn: Turn::Rotates(4),
        minutes: 8,
        why: "each test boots an emulated machine; every run covers boots in `gondolin-attack`, and another turn kills and \
              restores in `gondolin-root`. The sandbox in the guest is the same as in `container`",
    },
    Row {
        name: "root",
        place: Place::Host(User::Root),
        suites: Suites::Except(&["gondolin", "known_projects"]),
        backends: ON_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Debian, Asset::Gondolin],
        turn: Turn::Always,
        minutes: 6,
        why: "every suite as root on this host's kernel",
    },
    Row {
        name: "user",
        place: Place::Host(User::Ordinary),
        suites: Suites::Except(&["contain", "copies", "egress", "gondolin", "guest", "ids", "known_projects", "volume"]),
        backends: "host-direct linux-native container",
        needs: &[Asset::Programs, Asset::Debian, Asset::Gondolin],
        turn: Turn::Always,
        minutes: 5,
        why: "every suite as uid 65534: one id, no control group. The excluded suites need preparation by root, but for those of \
              `gondolin-user` and `user-egress`",
    },
    Row {
        name: "user-egress",
        place: Place::Host(User::Ordinary),
        suites: Suites::Only(&["egress"]),
        backends: "host-direct linux-native container",
        needs: &[Asset::Programs],
        turn: Turn::Rotates(2),
        minutes: 5,
        why: "the gateway of an ordinary user; every run covers the same suite as root",
    },
    Row {
        name: "units",
        place: Place::Units,
        suites: Suites::Only(&[]),
        backends: "-",
        needs: &[Asset::Programs],
        turn: Turn::Always,
        minutes: 3,
        why: "unit tests, documentation tests, the example backend of an embedder, the public API from outside the workspace",
    },
    Row {
        name: "user-group",
        place: Place::Host(User::Group),
        suites: Suites::Except(WITHOUT_GROUPS),
        backends: "host-direct linux-native container",
        needs: &[Asset::Programs, Asset::Debian],
        turn: Turn::Rotates(1),
        minutes: 2,
        why: "a delegated control group of version 1; every run covers version 2 in lab-6.1-user",
    },
    Row {
        name: "user-ids",
        place: Place::Host(User::Ids),
        suites: Suites::Only(&["attack", "conformance", "debian", "run"]),
        backends: "container",
        needs: &[Asset::Programs, Asset::Debian],
        turn: Turn::Rotates(0),
        minutes: 1,
        why: "subordinate ids for all sandboxes; every run covers ids for one sandbox in lab-6.1-user",
    },
    Row {
        name: "serve-chaos",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["serve_chaos_long"]),
        backends: "linux-native",
        needs: &[Asset::Programs],
        turn: Turn::Rotates(5),
        minutes: 5,
        why: "a daemon under load, killed at 500 moments, and its launcher at 50; every run kills them at 25 and 5 (`serve_chaos`)",
    },
    Row {
        name: "gondolin-egress",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["egress"]),
        backends: "gondolin",
        needs: &[Asset::Programs, Asset::Gondolin],
        turn: Turn::Rotates(5),
        minutes: 4,
        why: "attacks on the gateway from inside Gondolin's machines, each of which boots under emulation; every run attacks the \
              agent's side of the gateway in `root`, without a machine",
    },
    Row {
        name: "egress-clients",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["egress_clients", "mcp_clients", "mcp_conformance", "transport_clients"]),
        backends: "linux-native container",
        needs: &[Asset::Programs, Asset::Clients],
        turn: Turn::Rotates(6),
        minutes: 3,
        why: "clients of package registries, HTTP libraries and agent CLIs that know nothing of a gateway, against servers of the \
              test; clients of MCP, gRPC and REST that others wrote; every run covers curl, git and Python in `root`",
    },
    Row {
        name: "egress-registries",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["egress_registries"]),
        backends: "linux-native container",
        needs: &[Asset::Programs],
        turn: Turn::Rotates(7),
        minutes: 2,
        why: "real installations from the registries of this machine's configuration; `egress-clients` covers the same clients with \
              registries of the test",
    },
    Row {
        name: "gondolin-user",
        place: Place::Host(User::Ordinary),
        suites: Suites::Only(&["gondolin", "attack"]),
        backends: "gondolin",
        needs: &[Asset::Programs, Asset::Gondolin],
        turn: Turn::Rotates(3),
        minutes: 7,
        why: "the same inside the machine as `gondolin-root`; only the limits around Node and QEMU differ",
    },
    Row {
        name: "known-projects",
        place: Place::Host(User::Root),
        suites: Suites::Only(&["known_projects"]),
        backends: ON_THE_KERNEL,
        needs: &[Asset::Programs],
        turn: Turn::Rotates(1),
        minutes: 1,
        why: "test suites of a Rust crate, a Python package, a Node package and a C library, outside and inside; needs a network",
    },
    Row {
        name: "firecracker-only",
        place: Place::Microvm(User::Root),
        suites: Suites::Only(&["microvm"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Rotates(5),
        minutes: 7,
        why: "features that only Firecracker has: templates, restores, copies of grants, killed monitors. Each test boots nested \
              machines; every run covers starts from a template and grants in `firecracker-attack`",
    },
    Row {
        name: "firecracker-leaks",
        place: Place::Microvm(User::Root),
        suites: Suites::Only(&["microvm_leaks", "roles"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Rotates(6),
        minutes: 5,
        why: "fifty machines, kills of agentd at nine moments, and programs without a role handler where Firecracker is set up; \
              another turn covers the clean-up of a killed monitor in `firecracker-only`",
    },
    Row {
        name: "firecracker-attack",
        place: Place::Microvm(User::Root),
        suites: Suites::Only(&["attack"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Always,
        minutes: 3,
        why: "every attack from inside a microVM",
    },
    Row {
        name: "lab-6.12-root",
        place: Place::Lab(KernelSeries::V6_12, User::Root),
        suites: Suites::Only(&["agentd_kernel", "attack", "conformance"]),
        backends: BY_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(5),
        minutes: 6,
        why: "control groups of version 2 with all controllers, and the newest kernel of Debian 12; every run covers delegated \
              groups of version 2 in `lab-6.1-user`",
    },
    Row {
        name: "lab-6.12-root-run",
        place: Place::Lab(KernelSeries::V6_12, User::Root),
        suites: Suites::Only(&["pool", "run"]),
        backends: BY_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(6),
        minutes: 6,
        why: "the command and the pool with control groups of version 2; every run covers both suites on this host in `root` and `user`",
    },
    Row {
        name: "lab-6.12-others",
        place: Place::Lab(KernelSeries::V6_12, User::Root),
        suites: Suites::Only(&["attack", "conformance", "guest", "pool", "volume"]),
        backends: "host-direct test-machine",
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(7),
        minutes: 4,
        why: "the remaining backends and suites of that kernel; every run covers these on this host in `root`, and another \
              turn covers the control groups of that kernel in `lab-6.12-root`",
    },
    Row {
        name: "lab-6.1-user",
        place: Place::Lab(KernelSeries::V6_1, User::Ordinary),
        suites: Suites::Only(&["agentd_kernel", "attack", "conformance"]),
        backends: BY_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Always,
        minutes: 6,
        why: "the oldest supported kernel (Landlock ABI 2), a delegated group of version 2, subordinate ids: the weakest case",
    },
    Row {
        name: "lab-6.1-user-pool",
        place: Place::Lab(KernelSeries::V6_1, User::Ordinary),
        suites: Suites::Only(&["pool"]),
        backends: BY_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(3),
        minutes: 2,
        why: "ready sandboxes on the oldest kernel; every run covers that kernel in `lab-6.1-user`, and this suite on this host",
    },
    Row {
        name: "lab-6.12-user",
        place: Place::Lab(KernelSeries::V6_12, User::Ordinary),
        suites: Suites::Only(&[
            "agentd_kernel",
            "attack",
            "conformance",
            "grants",
            "leaks",
            "own_state",
            "pool",
            "protect",
            "run",
        ]),
        backends: BY_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(0),
        minutes: 12,
        why: "the newest kernel for an ordinary user with a delegated group; every run covers this kind of user in `lab-6.1-user`, and \
              `host-direct` in `user`",
    },
    Row {
        name: "lab-6.12-user-long",
        place: Place::Lab(KernelSeries::V6_12, User::Ordinary),
        suites: Suites::Only(&["sandbox"]),
        backends: ON_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(4),
        minutes: 8,
        why: "named sandboxes of a user with a delegated group of version 2; every run covers the suite on this host in `user`",
    },
    Row {
        name: "lab-6.1-root",
        place: Place::Lab(KernelSeries::V6_1, User::Root),
        suites: Suites::Only(&["agentd_kernel", "attack", "conformance", "grants", "guest", "own_state", "pool", "protect"]),
        backends: ON_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(1),
        minutes: 15,
        why: "every run covers this kernel in `lab-6.1-user`, and another turn this user in `lab-6.12-root`, both without `host-direct` \
              and `test-machine`",
    },
    Row {
        name: "lab-6.12-long",
        place: Place::Lab(KernelSeries::V6_12, User::Root),
        suites: Suites::Only(&["leaks", "sandbox"]),
        backends: ON_THE_KERNEL,
        needs: &[Asset::Programs, Asset::Lab],
        turn: Turn::Rotates(2),
        minutes: 13,
        why: "hundreds of sandboxes, and kills at 50 moments; every run covers four times as many on this host in `root`",
    },
    Row {
        name: "firecracker-conformance",
        place: Place::Microvm(User::Root),
        suites: Suites::Only(&["conformance", "tool"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Rotates(3),
        minutes: 9,
        why: "each test boots a nested machine; every run covers starts and grants in `firecracker-attack`",
    },
    Row {
        name: "firecracker-egress",
        place: Place::Microvm(User::Root),
        suites: Suites::Only(&["egress"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Rotates(2),
        minutes: 4,
        why: "attacks on the gateway from inside microVMs, and its connections over restores and forks; every run attacks the \
              agent's side of the gateway in `root`, without a machine",
    },
    Row {
        name: "firecracker-attack-user",
        place: Place::Microvm(User::Ordinary),
        suites: Suites::Only(&["attack"]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm],
        turn: Turn::Rotates(7),
        minutes: 3,
        why: "the same inside the machine as firecracker-attack; only the start of the machine differs",
    },
    Row {
        name: "firecracker-documented",
        place: Place::Documented,
        suites: Suites::Only(&[]),
        backends: "firecracker",
        needs: &[Asset::Programs, Asset::Lab, Asset::Microvm, Asset::Debian],
        turn: Turn::Rotates(4),
        minutes: 2,
        why: "the commands of docs/firecracker.md, unchanged",
    },
    Row {
        name: "features",
        place: Place::Check(
            "cargo clippy --workspace --no-default-features -- -D warnings
            cargo test --quiet --package agentd --lib --no-default-features -- isolation:: cli::
            for feature in firecracker gondolin images policy tools; do
                cargo clippy --workspace --no-default-features --features agentd/$feature -- -D warnings
            done",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        needs: &[Asset::Programs],
        turn: Turn::Rotates(7),
        minutes: 6,
        why: "lints with none of the Cargo features of agentd, and with each alone; every run covers the default ones in `lints`",
    },
    Row {
        name: "licences",
        place: Place::Check(
            "export CARGO_PROFILE_DEV_DEBUG=0
            CARGO_TARGET_DIR=target/tools/build-deny cargo install --quiet --debug --locked --root target/tools cargo-deny
            rm -rf target/tools/build-deny
            target/tools/bin/cargo-deny deny check bans licenses sources",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        // The row itself does not use the programs. But the rows that wait for the programs determine how long a run takes, so
        // this row does not compete with the build of the programs.
        needs: &[Asset::Programs],
        turn: Turn::Always,
        minutes: 2,
        why: "licences and sources of dependencies; cargo-deny is built from source",
    },
    Row {
        name: "audit-verifier",
        place: Place::Check(
            "python3 -m pip install --quiet --root-user-action=ignore --ignore-requires-python --upgrade \
                --target target/tools/aics-tlog aics-tlog==0.2.1
            PYTHONPATH=target/tools/aics-tlog python3 contract/tests/audit.py target/*/debug/agentd",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        needs: &[Asset::Programs],
        turn: Turn::Rotates(2),
        minutes: 1,
        why: "a verifier of another project, in Python, accepts audit log and proofs; its package names a newer Python than Debian 12 \
              has, and runs on that one. Every run verifies with crates of a third project in `units`; needs a network",
    },
    Row {
        name: "fuzz",
        place: Place::Check(
            "export CARGO_PROFILE_DEV_DEBUG=0
            CARGO_TARGET_DIR=target/tools/build-fuzz cargo install --quiet --debug --locked --root target/tools cargo-fuzz
            rm -rf target/tools/build-fuzz
            PATH=$PWD/target/tools/bin:$PATH fuzz/run.sh 5",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        needs: &[],
        turn: Turn::Rotates(7),
        minutes: 5,
        why: "every decoder of untrusted bytes, for 5 s each; every run covers the decoders with unit tests",
    },
    Row {
        name: "install",
        place: Place::Check(
            "cargo install --quiet --debug --locked --force --root target/tools/installed --path crates/agentd
            target/tools/installed/bin/agentd --version
            target/tools/installed/bin/agentd run --backend host-direct -- true
            rm -rf target/tools/installed",
        ),
        suites: Suites::Only(&[]),
        backends: "-",
        // Shares the target folder, so most of its dependencies are built already.
        needs: &[Asset::Programs],
        turn: Turn::Rotates(6),
        minutes: 3,
        why: "the installation that README.md documents; every run covers the same program as cargo builds it",
    },
];
