//! A helper process is the same program, executed again. These tests run programs that use the library incorrectly, and count how
//! often they start.
//!
//! This executable is also the embedding program: started as [`WITHOUT_HANDLER`], or by any name other than its own, it embeds
//! the library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use agentd::isolation::{
    FirecrackerBackend, FirecrackerConfig, IsolationBackend, SandboxSpec, available_backends, create_backend,
    detect_best_backend, take_role,
};
use libtest_mimic::{Arguments, Trial};
use rustix::{
    io::FdFlags,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

/// `argv[0]` of a program that never calls `take_role`.
const WITHOUT_HANDLER: &str = "embedder-without-handler";

/// `argv[0]` of a program that calls `take_role` only if started by this name, so not in its helper processes.
const CONDITIONAL: &str = "embedder-with-conditional-handler";

/// `argv[0]` of a program that calls `take_role` first, and then prints a line and exits.
const WITH_HANDLER: &str = "embedder-with-handler";

/// The descriptors that every process of an embedder inherits: a pipe to which each process reports its start, and a pipe with
/// permits for [`MAX_STARTS`] processes, which bounds the processes of a faulty embedder. The other two are the data directory
/// and a directory for temporary files, because helpers have no `TMPDIR`.
const STARTS: i32 = 100;
const PERMITS: i32 = 101;
const DATA: i32 = 102;
const WORK: i32 = 103;

const MAX_STARTS: usize = 20;

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    if Path::new(&name).file_stem().is_none_or(|stem| !stem.to_string_lossy().starts_with("roles")) {
        return embed(&name);
    }
    let mut arguments = Arguments::from_args();
    // The descriptors have fixed numbers.
    arguments.test_threads = Some(1);
    let tests: [(&str, fn()); 4] = [
        ("program_without_role_handler_starts_once_and_gets_error", program_without_role_handler_starts_once_and_gets_error),
        ("helper_that_reaches_no_role_handler_exits_at_once", helper_that_reaches_no_role_handler_exits_at_once),
        ("program_named_like_a_helper_keeps_its_own_main", program_named_like_a_helper_keeps_its_own_main),
        ("first_process_of_container_never_becomes_machine", first_process_of_container_never_becomes_machine),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}

/// Runs as an embedding program, which tries every backend.
fn embed(name: &str) {
    let descriptor = |number: i32| format!("/proc/self/fd/{number}");
    if let Ok(mut permits) = File::open(descriptor(PERMITS)) {
        if permits.read(&mut [0]).unwrap() == 0 {
            return;
        }
        File::options().write(true).open(descriptor(STARTS)).unwrap().write_all(b"!").unwrap();
    }
    if name == WITH_HANDLER || name == CONDITIONAL || name.starts_with("agentd-") || name == "/init" {
        // A helper of the conditional program does not get here: it has no data directory.
        if name != CONDITIONAL && !Path::new(&descriptor(DATA)).exists() {
            take_role();
            println!("own main");
            return;
        }
        if name == CONDITIONAL {
            take_role();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let [data, work] = [DATA, WORK].map(|number| fs::read_link(descriptor(number)).unwrap());
    runtime.block_on(try_every_backend(&data, work));
}

/// Tries every backend. `work_root` is not in the data directory: targets of a probe are grants, which must not overlap it.
async fn try_every_backend(data: &Path, work_root: PathBuf) {
    let firecracker =
        FirecrackerBackend::new(FirecrackerConfig { work_root: work_root.clone(), ..FirecrackerConfig::in_data_dir(data) })
            .unwrap();
    let mut backends: Vec<(String, Arc<dyn IsolationBackend>)> = vec![("firecracker".to_owned(), Arc::new(firecracker))];
    for name in available_backends() {
        if let Ok(backend) = create_backend(&name, &work_root) {
            backends.push((name, backend));
        }
    }
    backends.push(("best".to_owned(), detect_best_backend(&work_root).await));
    for (name, backend) in backends {
        if name != "host-direct" && name != "best" {
            println!("{name}: {}", backend.probe().await.map_or_else(|error| error.to_string(), |_| "proven".to_owned()));
        }
        let made = backend.create_sandbox(SandboxSpec::default()).await;
        println!("{name}: {}", made.map_or_else(|error| error.to_string(), |_| "made".to_owned()));
    }
}

/// Returns the data directories in which the embedding programs look for backends. One contains files that only look like an
/// installation of Firecracker. The others contain real installations of Gondolin or Firecracker, if this host has any.
fn data_directories(place: &Path) -> Vec<PathBuf> {
    let pretended = place.join("data");
    pretend_installation(&pretended);
    let tests = std::env::var_os("AGENTD_TEST_DATA").map(PathBuf::from);
    let tests = tests.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/agentd"));
    let named = std::env::var_os("AGENTD_DATA_DIR").map(PathBuf::from);
    let is_installed =
        |data: &PathBuf| ["gondolin/installation.json", "vm/bin/firecracker"].iter().any(|file| data.join(file).exists());
    let real = [Some(tests), named].into_iter().flatten().filter(is_installed);
    [pretended].into_iter().chain(real.map(|data| data.canonicalize().unwrap())).collect()
}

/// Creates files that the firecracker backend accepts as an installation.
fn pretend_installation(data: &Path) {
    let (programs, assets) = (data.join("vm/bin"), data.join("vm/default"));
    for directory in [&programs, &assets] {
        fs::create_dir_all(directory).unwrap();
    }
    for program in ["firecracker", "jailer"] {
        fs::copy("/bin/true", programs.join(program)).unwrap();
    }
    let digest = r#"{"bytes":0,"sha256":""}"#;
    for file in ["vmlinux", "modules.cpio", "root.ext4"] {
        fs::write(assets.join(file), "").unwrap();
    }
    let manifest = format!(
        "{{\"format\":1,\"kernel\":{{\"release\":\"\"}},\"modules\":[],\"source\":\"\",\
         \"vmlinux\":{digest},\"modules_cpio\":{digest},\"root_ext4\":{digest}}}"
    );
    fs::write(assets.join("manifest.json"), manifest).unwrap();
}

fn inherited(fd: &OwnedFd, number: i32) -> OwnedFd {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, number).unwrap();
    assert_eq!(copy.as_raw_fd(), number);
    rustix::io::fcntl_setfd(&copy, FdFlags::empty()).unwrap();
    copy
}

/// Runs an embedding program, once for each data directory, until it and all its helpers have ended. Returns the number of
/// starts, and the output.
fn run_embedder(name: &str) -> Vec<(usize, Output)> {
    let place = tempfile::tempdir().unwrap();
    data_directories(place.path()).iter().map(|data| run_embedder_with(name, data)).collect()
}

fn run_embedder_with(name: &str, data: &Path) -> (usize, Output) {
    let (starts, report) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (permits, permit) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::write(&permit, &[b'.'; MAX_STARTS]).unwrap();
    drop(permit);
    let work = tempfile::tempdir().unwrap();
    let directory = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let kept = [
        inherited(&report, STARTS),
        inherited(&permits, PERMITS),
        inherited(&directory(data), DATA),
        inherited(&directory(work.path()), WORK),
    ];
    drop(report);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).env("AGENTD_DATA_DIR", data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(kept);
    let output = child.wait_with_output().unwrap();
    let mut started = Vec::new();
    File::from(starts).read_to_end(&mut started).unwrap();
    (started.len(), output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn program_without_role_handler_starts_once_and_gets_error() {
    for (starts, output) in run_embedder(WITHOUT_HANDLER) {
        let printed = text(&output.stdout);
        assert_eq!(starts, 1, "{printed}{}", text(&output.stderr));
        assert!(output.status.success(), "{output:?}");
        // If /dev/kvm or Gondolin is missing, that error comes first.
        let refused = |line: &&str| !line.contains("take_role") && !line.contains("is not available");
        assert_eq!(printed.lines().filter(refused).collect::<Vec<_>>(), Vec::<&str>::new());
        assert!(printed.lines().filter(|line| line.contains("take_role")).count() >= 5, "{printed}");
    }
}

fn helper_that_reaches_no_role_handler_exits_at_once() {
    for (starts, output) in run_embedder(CONDITIONAL) {
        let printed = text(&output.stdout);
        assert!(starts > 1 && starts < MAX_STARTS, "{starts} starts\n{printed}");
        assert!(!printed.contains("made") && !printed.contains("proven"), "{printed}");
        // The helpers print the reason.
        assert!(text(&output.stderr).contains("take_role"), "{printed}\n{}", text(&output.stderr));
    }
}

fn program_named_like_a_helper_keeps_its_own_main() {
    for name in ["agentd-launcher", "agentd-shim", "agentd-attack", "agentd-guest", "agentd-tool"] {
        let output = Command::new("/proc/self/exe").arg0(name).stdin(Stdio::null()).output().unwrap();
        assert_eq!(text(&output.stdout), "own main\n", "{name}: {output:?}");
    }
}

/// Runs in new pid and mount namespaces, with the name and the variables of a machine's first process.
fn first_process_of_container_never_becomes_machine() {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--"]);
    command.args(["bash", "-c", "exec -a /init \"$0\""]).arg(own);
    let output = command.env("AGENTD_GUEST", "1").stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output.stdout), "own main\n", "{output:?}");
    let output = command.env("AGENTD_ROLE", "agentd-init").output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), String::new()), "{output:?}");
    assert!(text(&output.stderr).contains("AGENTD_ROLE=agentd-init"), "{output:?}");
}
