//! The probe: makes things on the host that a sandbox must not reach, builds a small sandbox, and lets the attack suite loose in it.

use crate::guest::GuestSandbox;
use agentd_attack::{Facts, Verdict};
use agentd_core::{
    Access, BackendCapabilities, Bit, Bytes, Command, EndReason, Evidence, EvidenceResult, Grant, IsolationBackend,
    IsolationError, Limits, Outcome, Sandbox, SandboxSpec, Writable,
};
use agentd_kernel::privileges::Capabilities;
use async_trait::async_trait;
use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// How long all attacks together may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A backend that the attack suite can be let loose in.
#[async_trait]
pub(crate) trait Attackable: IsolationBackend {
    /// The capabilities of a payload that has a root of its own; `None` where it has not.
    fn own_root(&self) -> Option<Capabilities>;

    /// Whether a sandbox has a machine of its own, with its programs, accounts and ids.
    fn own_machine(&self) -> bool {
        false
    }

    /// Whether a sandbox to which nothing writable is granted has ids that others have not.
    fn has_more_ids_without_grants(&self) -> bool {
        false
    }

    /// Runs a command of agentd's own image to its end, in a sandbox made for it.
    async fn attack_in(&self, spec: SandboxSpec, command: Command) -> Result<Outcome, IsolationError>;
}

/// What the attacks aim at; gone when dropped.
struct Targets {
    facts: Facts,
    workspace: PathBuf,
    readonly: PathBuf,
    root: PathBuf,
    shm_id: i32,
    shm_file: PathBuf,
    queue: std::ffi::CString,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Targets {
    fn make(work_root: &Path) -> std::io::Result<Self> {
        let unique = format!("agentd-probe-{}-{}", std::process::id(), nonce());
        let root = work_root.join(&unique);
        let (workspace, readonly) = (root.join("workspace"), root.join("readonly"));
        std::fs::create_dir_all(&workspace)?;
        std::fs::create_dir_all(&readonly)?;
        let root = root.canonicalize()?;
        let (workspace, readonly) = (root.join("workspace"), root.join("readonly"));
        let (secret, host_file, unix_path) = (root.join("secret"), root.join("host-file"), root.join("socket"));
        std::fs::write(readonly.join("file"), "read me")?;
        std::fs::write(&secret, "secret")?;
        std::fs::write(&host_file, "host")?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&unique)?)?;
        let file = UnixListener::bind(&unix_path)?;
        let shm_file = Path::new("/dev/shm").join(&unique);
        std::fs::write(&shm_file, "shared")?;
        // SAFETY: integers only; the segment is removed when this value is dropped.
        let shm_id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o666) };
        let queue = std::ffi::CString::new(format!("/{unique}"))?;
        // SAFETY: the name is NUL-terminated; null attributes mean the system's. The queue is removed when this value is dropped.
        let opened =
            unsafe { libc::mq_open(queue.as_ptr(), libc::O_CREAT | libc::O_RDONLY, 0o666, std::ptr::null::<libc::mq_attr>()) };
        if opened >= 0 {
            // SAFETY: `mq_open` gave this descriptor, and nobody else owns it.
            unsafe { libc::mq_close(opened) };
        }
        let show = |path: &Path| path.display().to_string();
        let facts = Facts::new(
            [
                ("secret_path", show(&secret)),
                ("host_file", show(&host_file)),
                ("unix_path", show(&unix_path)),
                ("workspace", show(&workspace)),
                ("readonly", show(&readonly)),
                ("shm_file", show(&shm_file)),
                ("shm_id", shm_id.to_string()),
                ("queue", unique.clone()),
                ("abstract_name", unique.clone()),
                ("loopback_port", tcp.local_addr()?.port().to_string()),
                ("host_pid", std::process::id().to_string()),
                ("host_marker", own_name()),
                ("env_marker", "PATH".to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        Ok(Self { facts, workspace, readonly, root, shm_id, shm_file, queue, _listeners: (tcp, name, file) })
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        // What cannot be removed is small and lies below the work root.
        std::fs::remove_dir_all(&self.root).ok();
        std::fs::remove_file(&self.shm_file).ok();
        // SAFETY: removing a segment by its number, and a queue by its NUL-terminated name.
        unsafe {
            libc::shmctl(self.shm_id, libc::IPC_RMID, std::ptr::null_mut());
            libc::mq_unlink(self.queue.as_ptr());
        }
    }
}

fn nonce() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| u64::from(t.subsec_nanos()))
}

fn own_name() -> String {
    std::fs::read_to_string("/proc/self/comm").unwrap_or_default().trim().to_owned()
}

/// Lets the attacks loose in a sandbox of `backend`'s, and says what held.
pub(crate) async fn attack(backend: &impl Attackable, work_root: &Path) -> Result<Vec<Evidence>, IsolationError> {
    let mut evidence = attack_in(backend, work_root, true).await?;
    if backend.has_more_ids_without_grants() {
        let apart = |evidence: Evidence| Evidence { check: format!("subordinate_ids_{}", evidence.check), ..evidence };
        evidence.extend(attack_in(backend, work_root, false).await?.into_iter().map(apart));
    }
    Ok(evidence)
}

async fn attack_in(backend: &impl Attackable, work_root: &Path, with_grants: bool) -> Result<Vec<Evidence>, IsolationError> {
    let io = |source| IsolationError::Io { context: "prepare the probe".to_owned(), source };
    let targets = Targets::make(work_root).map_err(io)?;
    let grant = |path: &Path, access| Grant { path: path.to_path_buf(), target: None, access, protect: Vec::new() };
    let grants = vec![grant(&targets.workspace, Access::ReadWrite), grant(&targets.readonly, Access::ReadOnly)];
    let mut argv = vec![agentd_attack::ROLE.to_owned()];
    let facts = match backend.own_root() {
        Some(kept) => targets.facts.clone().with("own_root", "1".to_owned()).with("capabilities", format!("{:x}", kept.0)),
        None => targets.facts.clone(),
    };
    let facts = if backend.own_machine() { facts.with("own_machine", "1".to_owned()) } else { facts };
    let (grants, facts) = match with_grants {
        true => (grants, facts),
        false => (Vec::new(), facts.with("workspace", "/tmp".to_owned()).with("no_grants", "1".to_owned())),
    };
    argv.extend(facts.to_args());
    let command = Command {
        argv: argv.into_iter().map(Into::into).collect(),
        env: vec![("HOME".into(), "/home/agent".into())],
        limits: Limits { wall: Some(PATIENCE), ..Limits::default() },
        ..Command::default()
    };
    let outcome = backend.attack_in(SandboxSpec { grants, ..SandboxSpec::default() }, command).await?;
    let said = outcome.stdout.to_bytes();
    let said = String::from_utf8_lossy(&said);
    Ok(agentd_attack::checks(&facts)
        .map(|check| {
            let verdict = said.lines().filter_map(agentd_attack::parse_line).find(|(name, _)| *name == check.name);
            let result = match verdict {
                Some((_, Verdict::Held)) => EvidenceResult::Held,
                Some((_, Verdict::Broken(how))) => EvidenceResult::Broken(how),
                Some((_, Verdict::NotTried(why))) => EvidenceResult::NotTried(why),
                None => EvidenceResult::NotTried("the attack did not report".to_owned()),
            };
            Evidence { bit: check.bit, check: check.name.to_owned(), result, remedy: check.remedy.to_owned() }
        })
        .collect())
}

/// Attacks `backend`, exceeds its limits, and says what it has proven.
pub(crate) async fn probe(backend: &impl Attackable, work_root: &Path) -> Result<BackendCapabilities, IsolationError> {
    let mut evidence = attack(backend, work_root).await?;
    if backend.own_root().is_some() {
        evidence.push(change_own_root(backend).await);
    }
    evidence.extend(limits(backend).await);
    let mut proven = BackendCapabilities::from_evidence(backend.name(), evidence);
    proven.platform_features = features();
    Ok(proven)
}

/// A3: what is made or taken away in a root of its own stays there.
pub(crate) async fn change_own_root(backend: &dyn IsolationBackend) -> Evidence {
    let mark = format!("agentd-probe-{}-{}", std::process::id(), nonce());
    let script =
        format!("for dir in / /etc /root /run /var /home /tmp; do echo x > $dir/{mark} || exit 9; done; rm -rf /etc/passwd /bin");
    let tried = async {
        let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
        let argv = ["/bin/sh", "-c", &script].map(Into::into).to_vec();
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let outcome = sandbox.exec(Command { argv, env, ..Command::default() }).await;
        sandbox.destroy().await?;
        outcome
    };
    let outside = |dir: &str| Path::new(dir).join(&mark);
    let result = match tried.await {
        Ok(outcome) if outcome.exit_code == Some(0) => {
            let left =
                ["/", "/etc", "/root", "/run", "/var", "/home", "/tmp"].map(outside).into_iter().find(|path| path.exists());
            match left {
                Some(path) => EvidenceResult::Broken(format!("made {}", path.display())),
                None if !Path::new("/etc/passwd").exists() || !Path::new("/bin").exists() => {
                    EvidenceResult::Broken("took away the host's files".to_owned())
                }
                None => EvidenceResult::Held,
            }
        }
        Ok(outcome) => EvidenceResult::NotTried(format!("it ended as {:?} {:?}", outcome.reason, outcome.exit_code)),
        Err(error) => EvidenceResult::NotTried(error.to_string()),
    };
    Evidence { bit: Bit::Filesystem, check: "a3_change_the_root".to_owned(), result, remedy: String::new() }
}

/// A4: a limit, a command that goes over it, and how that must end.
struct LimitCheck {
    name: &'static str,
    limits: Limits,
    script: &'static str,
    held: fn(&Outcome) -> bool,
}

fn limit_checks() -> Vec<LimitCheck> {
    // Only where a limit does not hold is this reached. An emulated machine takes its time to fill memory.
    let wall = Some(Duration::from_secs(150));
    vec![
        LimitCheck {
            name: "a4_allocate_beyond_the_memory_limit",
            limits: Limits { memory: Some(Bytes(32 << 20)), wall, ..Limits::default() },
            script: "head -c 134217728 /dev/zero | tail",
            held: |outcome| outcome.reason == EndReason::OutOfMemory,
        },
        LimitCheck {
            name: "a4_fork_beyond_the_process_limit",
            limits: Limits { processes: Some(8), wall, ..Limits::default() },
            script: "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; wait",
            held: |outcome| outcome.reason == EndReason::ProcessLimit,
        },
        LimitCheck {
            name: "a4_open_beyond_the_file_limit",
            limits: Limits { open_files: Some(6), wall, ..Limits::default() },
            script: "exec 3</dev/null 4</dev/null 5</dev/null && (exec 6</dev/null 7</dev/null && echo opened) 2>/dev/null; exit 0",
            held: |outcome| outcome.exit_code == Some(0) && outcome.stdout.total() == 0,
        },
        LimitCheck {
            name: "a4_write_beyond_the_file_size",
            limits: Limits { file_size: Some(Bytes(1 << 16)), wall, ..Limits::default() },
            script: "exec head -c 200000 /dev/zero > /tmp/big",
            held: |outcome| outcome.reason == EndReason::DiskLimit,
        },
        LimitCheck {
            name: "a4_print_beyond_the_output_limit",
            limits: Limits { output: Some(Bytes(1 << 16)), wall, ..Limits::default() },
            script: "exec yes",
            held: |outcome| outcome.reason == EndReason::OutputLimit,
        },
    ]
}

/// What holds in a guest, told by the agent of a machine that was made for it. Beside the limits, the checks are those that are tried against
/// the host too, and are named apart from them.
pub(crate) async fn inside(sandbox: &GuestSandbox) -> Result<Vec<Evidence>, IsolationError> {
    let probed = sandbox.probe_inside().await?;
    let named = |evidence: Evidence| match evidence.bit {
        Bit::Resources => evidence,
        _ => Evidence { check: format!("inside_{}", evidence.check), ..evidence },
    };
    Ok(probed.into_iter().map(named).collect())
}

/// Exceeds the limits of `backend`'s sandboxes, and says what held.
pub(crate) async fn limits(backend: &dyn IsolationBackend) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    for check in limit_checks() {
        evidence.push(exceed(backend, check).await);
    }
    evidence
}

async fn exceed(backend: &dyn IsolationBackend, check: LimitCheck) -> Evidence {
    let LimitCheck { name, limits, script, held } = check;
    let tried = async {
        let sandbox = backend.create_sandbox(SandboxSpec { limits, ..SandboxSpec::default() }).await?;
        let argv = ["/bin/sh", "-c", script].map(Into::into).to_vec();
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let outcome = sandbox.exec(Command { argv, env, ..Command::default() }).await;
        sandbox.destroy().await?;
        outcome
    };
    let (result, remedy) = match tried.await {
        Ok(outcome) if held(&outcome) => (EvidenceResult::Held, String::new()),
        Ok(outcome) => (EvidenceResult::Broken(format!("it ended as {:?}", outcome.reason)), String::new()),
        Err(IsolationError::Layer(error)) => {
            let remedy = error.remedy.clone();
            (EvidenceResult::NotTried(error.call), remedy)
        }
        Err(error) => (EvidenceResult::NotTried(error.to_string()), String::new()),
    };
    Evidence { bit: Bit::Resources, check: name.to_owned(), result, remedy }
}

/// Whether sandboxes whose changes are layers go back to what was saved, and share nothing with their copies; else why not.
pub(crate) async fn snapshots(backend: &dyn IsolationBackend) -> Result<(), String> {
    let told = |error: IsolationError| error.to_string();
    let spec = SandboxSpec { writable: Writable::Layers, ..SandboxSpec::default() };
    let sandbox = backend.create_sandbox(spec).await.map_err(told)?;
    let tried = snapshots_of(&*sandbox).await;
    sandbox.destroy().await.map_err(told)?;
    tried
}

/// The same of one that was made for it.
pub(crate) async fn snapshots_of(sandbox: &dyn Sandbox) -> Result<(), String> {
    let file = Path::new("/probe");
    let tried = async {
        sandbox.write_file(file, b"saved").await?;
        sandbox.snapshot("probe").await?;
        let copy = sandbox.fork().await?;
        copy.write_file(file, b"copy").await?;
        sandbox.write_file(file, b"later").await?;
        let kept = [copy.read_file(file, 100).await?, sandbox.read_file(file, 100).await?];
        copy.destroy().await?;
        sandbox.restore("probe").await?;
        Ok(kept == [&b"copy"[..], b"later"] && sandbox.read_file(file, 100).await? == b"saved")
    };
    match tried.await {
        Ok(true) => Ok(()),
        Ok(false) => Err("what was saved is not what comes back".to_owned()),
        Err(error) => Err(IsolationError::to_string(&error)),
    }
}

/// Facts about the platform.
pub(crate) fn features() -> Vec<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        format!("kernel {}", release.trim()),
        format!("landlock ABI {}", agentd_kernel::landlock::abi()),
        format!("cgroup: {}", agentd_kernel::cgroup::Hierarchy::detect().describe()),
        format!("user {}", if rustix::process::geteuid().is_root() { "root" } else { "ordinary" }),
    ]
}
