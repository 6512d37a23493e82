//! The probe: creates objects on the host that a sandbox must not reach, creates a small sandbox, and runs the attack suite in
//! it.

mod egress;

pub use egress::granted_hosts;

use crate::{blocking::planning, targets::Targets};
use agentd_attack::{BUG, Check, Facts, Verdict};
use agentd_core::{
    Access, BackendCapabilities, Bytes, Claim, Command, EndReason, Evidence, EvidenceResult, Grant, GuardRule, IsolationBackend,
    IsolationError, Limits, NetworkMode, Outcome, Profile, Sandbox, SandboxSpec, Writable,
};
use agentd_kernel::privileges::Capabilities;
use agentd_supervisor::role::Role;
use async_trait::async_trait;
use std::{path::Path, sync::Arc, time::Duration};

/// The time limit of the whole attack suite.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A sandbox in which agentd's own executable can run.
#[async_trait]
pub trait AttackedSandbox: Sandbox {
    /// Runs agentd's own executable with `command`, to its end.
    ///
    /// # Errors
    /// The errors of [`Sandbox::exec`].
    async fn attack(&self, command: Command) -> Result<Outcome, IsolationError>;
}

/// A backend in whose sandboxes the attack suite can run.
#[async_trait]
pub trait Attackable: IsolationBackend {
    /// Returns true if sandboxes without writable grants map more ids than others. The attacks then run once more without grants.
    fn has_more_ids_without_grants(&self) -> bool {
        false
    }

    /// Creates a sandbox for the attacks.
    ///
    /// # Errors
    /// As [`IsolationBackend::create_sandbox`].
    async fn create_to_attack(&self, spec: SandboxSpec) -> Result<Arc<dyn AttackedSandbox>, IsolationError>;
}

fn nonce() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| u64::from(t.subsec_nanos()))
}

/// Runs the attacks in a sandbox of `backend` and returns the evidence.
///
/// # Errors
/// [`IsolationError::Io`] if the targets could not be created; otherwise the error of the backend.
pub async fn attack(backend: &impl Attackable, work_root: &Path) -> Result<Vec<Evidence>, IsolationError> {
    let mut evidence = attack_in(backend, work_root, true).await?;
    if backend.has_more_ids_without_grants() {
        let apart = |evidence: Evidence| Evidence { check: format!("subordinate_ids_{}", evidence.check), ..evidence };
        evidence.extend(attack_in(backend, work_root, false).await?.into_iter().map(apart));
    }
    Ok(evidence)
}

async fn attack_in(backend: &impl Attackable, work_root: &Path, with_grants: bool) -> Result<Vec<Evidence>, IsolationError> {
    let io = |source| IsolationError::Io { context: "create the targets of the probe's attacks".to_owned(), source };
    // The caller may name the directory by a symbolic link.
    let work_root = work_root.to_owned();
    let targets = planning(move || work_root.canonicalize().and_then(|real| Targets::make(&real)).map_err(io)).await?;
    let grant = |path: &Path, access| Grant { guard: GuardRule::Waive, ..Grant::new(path, access) };
    let grants = vec![grant(&targets.workspace, Access::ReadWrite), grant(&targets.readonly, Access::ReadOnly)];
    let traits = backend.traits();
    let mut facts = targets.facts.clone();
    if traits.own_root {
        // A payload with its own root keeps these capabilities.
        facts = facts.with("own_root", "1".to_owned()).with("capabilities", format!("{:x}", Capabilities::OWN_ROOT.0));
    }
    if traits.own_kernel {
        facts = facts.with("own_machine", "1".to_owned());
    }
    let (grants, facts) = match with_grants {
        true => (grants, facts),
        false => (Vec::new(), facts.with("workspace", "/tmp".to_owned()).with("no_grants", "1".to_owned())),
    };
    attack_sandbox(backend, SandboxSpec { grants, ..SandboxSpec::default() }, &facts).await
}

/// Runs the attacks for these facts in a sandbox of `spec`.
async fn attack_sandbox(backend: &impl Attackable, spec: SandboxSpec, facts: &Facts) -> Result<Vec<Evidence>, IsolationError> {
    let argv = [vec![Role::Attack.name().to_owned()], facts.to_args()].concat();
    let command = Command {
        argv: argv.into_iter().map(Into::into).collect(),
        env: vec![("HOME".into(), "/home/agent".into())],
        limits: Limits { wall: Some(TIMEOUT), ..Limits::default() },
        ..Command::default()
    };
    let sandbox = backend.create_to_attack(spec).await?;
    let outcome = sandbox.attack(command).await;
    sandbox.destroy().await?;
    let stdout = outcome?.stdout.to_bytes();
    let stdout = String::from_utf8_lossy(&stdout);
    let evidence = agentd_attack::checks(facts).map(|check| {
        let verdict = stdout.lines().filter_map(agentd_attack::parse_line).find(|(name, _)| *name == check.name);
        let result = match verdict {
            Some((_, Verdict::Held)) => EvidenceResult::Held,
            Some((_, Verdict::Broken(how))) => EvidenceResult::Broken(how),
            Some((_, Verdict::NotTried(why))) => EvidenceResult::NotTried(why),
            None => return no_result(check, "the attack reported no result".to_owned(), check.remedy),
        };
        Evidence { claim: check.claim, check: check.name.to_owned(), result, remedy: check.remedy.to_owned() }
    });
    Ok(evidence.collect())
}

/// Returns the evidence of a check that was not tried.
fn no_result(check: &Check, why: String, remedy: &str) -> Evidence {
    Evidence {
        claim: check.claim,
        check: check.name.to_owned(),
        result: EvidenceResult::NotTried(why),
        remedy: remedy.to_owned(),
    }
}

/// Runs the attacks and the limit checks, and returns the proven capabilities of `backend`.
///
/// # Errors
/// As [`attack`]. A limit check that fails is evidence, not an error.
pub async fn probe(backend: &impl Attackable, work_root: &Path) -> Result<BackendCapabilities, IsolationError> {
    let mut evidence = attack(backend, work_root).await?;
    if backend.traits().own_root {
        evidence.push(change_own_root(backend).await);
    }
    if backend.traits().egress {
        evidence.extend(granted_hosts(backend, NetworkMode::Egress).await);
    }
    evidence.extend(limits(backend).await);
    Ok(capabilities(backend.name(), evidence))
}

/// Returns the capabilities that `evidence` proves for a backend whose sandboxes are persistent and have any profile.
pub fn capabilities(backend: &str, evidence: Vec<Evidence>) -> BackendCapabilities {
    BackendCapabilities {
        persistent_sandboxes: true,
        available_profiles: vec![Profile::Strict, Profile::Default, Profile::Permissive],
        platform_features: features(),
        ..BackendCapabilities::from_evidence(backend, evidence)
    }
}

/// Runs check A3: files created or removed in the sandbox's own root must not be created or removed on the host.
pub async fn change_own_root(backend: &dyn IsolationBackend) -> Evidence {
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
                Some(path) => EvidenceResult::Broken(format!("created {} on the host", path.display())),
                None if !Path::new("/etc/passwd").exists() || !Path::new("/bin").exists() => {
                    EvidenceResult::Broken("removed /etc/passwd or /bin of the host".to_owned())
                }
                None => EvidenceResult::Held,
            }
        }
        Ok(outcome) => EvidenceResult::NotTried(ending(&outcome)),
        Err(error) => EvidenceResult::NotTried(error.to_string()),
    };
    Evidence { claim: Claim::Filesystem, check: "a3_change_the_root".to_owned(), remedy: remedy_of(&result), result }
}

/// Returns the remedy for a check that no setting of the host influences.
fn remedy_of(result: &EvidenceResult) -> String {
    if matches!(result, EvidenceResult::Broken(_)) { BUG.to_owned() } else { String::new() }
}

/// Returns how a command ended, for a message.
fn ending(outcome: &Outcome) -> String {
    match (outcome.exit_code, outcome.signal) {
        (Some(code), _) => format!("the command ended with exit code {code}"),
        (None, Some(signal)) => format!("signal {signal} ended the command"),
        (None, None) => "the reason for the end of the command is unknown".to_owned(),
    }
}

/// Check A4 of one limit: the limit, a command that exceeds it, the test of the outcome, and the message if that test fails.
struct LimitCheck {
    name: &'static str,
    limits: Limits,
    script: &'static str,
    held: fn(&Outcome) -> bool,
    broken: &'static str,
}

fn limit_checks() -> Vec<LimitCheck> {
    // Reached only if a limit does not hold. An emulated machine needs a long time to fill memory.
    let wall = Some(Duration::from_secs(150));
    vec![
        LimitCheck {
            name: "a4_allocate_beyond_the_memory_limit",
            limits: Limits { memory: Some(Bytes(32 << 20)), wall, ..Limits::default() },
            script: "head -c 134217728 /dev/zero | tail",
            held: |outcome| outcome.reason == EndReason::OutOfMemory,
            broken: "the command exceeded the memory limit, but did not end as out of memory",
        },
        LimitCheck {
            name: "a4_fork_beyond_the_process_limit",
            limits: Limits { processes: Some(8), wall, ..Limits::default() },
            script: "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; wait",
            held: |outcome| outcome.reason == EndReason::ProcessLimit,
            broken: "the command exceeded the process limit, but was not ended",
        },
        LimitCheck {
            name: "a4_change_the_group_that_is_shown",
            limits: Limits { memory: Some(Bytes(64 << 20)), wall, ..Limits::default() },
            script:
                "for f in /sys/fs/cgroup/* /sys/fs/cgroup/*/*; do test -f $f && { chmod 666 $f || echo 1 >$f; } 2>/dev/null && \
                    echo $f; done
                for d in /sys/fs/cgroup /sys/fs/cgroup/*; do test -e $d/cgroup.procs && mkdir $d/agentd-attack 2>/dev/null && \
                    echo $d; done; exit 0",
            held: |outcome| outcome.exit_code == Some(0) && outcome.stdout.total() == 0,
            broken: "the command could change files of the control group that it sees, or could not try",
        },
        LimitCheck {
            name: "a4_open_beyond_the_file_limit",
            limits: Limits { open_files: Some(6), wall, ..Limits::default() },
            script: "exec 3</dev/null 4</dev/null 5</dev/null && (exec 6</dev/null 7</dev/null && echo opened) 2>/dev/null; \
                exit 0",
            held: |outcome| outcome.exit_code == Some(0) && outcome.stdout.total() == 0,
            broken: "the command opened more files than the limit permits, or could not try",
        },
        LimitCheck {
            name: "a4_write_beyond_the_file_size",
            limits: Limits { file_size: Some(Bytes(1 << 16)), wall, ..Limits::default() },
            script: "exec head -c 200000 /dev/zero > /tmp/big",
            held: |outcome| outcome.reason == EndReason::FileSizeLimit,
            broken: "the command exceeded the file size limit, but was not ended",
        },
        LimitCheck {
            name: "a4_print_beyond_the_output_limit",
            limits: Limits { output: Some(Bytes(1 << 16)), wall, ..Limits::default() },
            script: "exec yes",
            held: |outcome| outcome.reason == EndReason::OutputLimit,
            broken: "the command exceeded the output limit, but was not ended",
        },
    ]
}

/// Runs check A16: the command must run on a different kernel. Each boot of a kernel has its own id (`random(4)`, `boot_id`).
pub async fn own_kernel(sandbox: &dyn Sandbox) -> Evidence {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let inside = async {
        let argv = ["/bin/cat", BOOT].map(Into::into).to_vec();
        let command = Command { argv, capture: 1 << 10, ..Command::default() };
        let outcome = sandbox.exec(command).await.map_err(|error| error.to_string())?;
        if outcome.exit_code != Some(0) {
            return Err(ending(&outcome));
        }
        let outside = std::fs::read(BOOT).map_err(|error| format!("read {BOOT} on the host: {error}"))?;
        Ok((outcome.stdout.to_bytes(), outside))
    };
    let result = match inside.await {
        Ok((inside, outside)) if inside == outside => EvidenceResult::Broken("the sandbox runs on the host's kernel".to_owned()),
        Ok(_) => EvidenceResult::Held,
        Err(why) => EvidenceResult::NotTried(why),
    };
    Evidence { claim: Claim::Kernel, check: "a16_run_on_the_kernel_of_the_host".to_owned(), remedy: remedy_of(&result), result }
}

/// Exceeds the limits of sandboxes of `backend` and returns the evidence.
pub async fn limits(backend: &dyn IsolationBackend) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    for check in limit_checks() {
        evidence.push(exceed(backend, check).await);
    }
    evidence
}

async fn exceed(backend: &dyn IsolationBackend, check: LimitCheck) -> Evidence {
    let LimitCheck { name, limits, script, held, broken } = check;
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
        Ok(outcome) => (EvidenceResult::Broken(format!("{broken}: {}", ending(&outcome))), BUG.to_owned()),
        Err(IsolationError::Control(error)) => (EvidenceResult::NotTried(error.call), error.remedy.into()),
        Err(error) => (EvidenceResult::NotTried(error.to_string()), String::new()),
    };
    Evidence { claim: Claim::Resources, check: name.to_owned(), result, remedy }
}

/// Checks in a new sandbox that snapshots restore the saved content, and that forks share no changes with the original.
///
/// # Errors
/// The reason why snapshots do not work.
pub async fn snapshots(backend: &dyn IsolationBackend) -> Result<(), String> {
    let text = |error: IsolationError| error.to_string();
    let spec = SandboxSpec { writable: Writable::TemporaryLayers, ..SandboxSpec::default() };
    let sandbox = backend.create_sandbox(spec).await.map_err(text)?;
    let tried = snapshots_of(&*sandbox).await;
    sandbox.destroy().await.map_err(text)?;
    tried
}

/// Runs the check of [`snapshots`] in an existing sandbox.
///
/// # Errors
/// The reason why snapshots do not work.
pub async fn snapshots_of(sandbox: &dyn Sandbox) -> Result<(), String> {
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
        Ok(false) => Err("a restored or forked sandbox does not have the saved content".to_owned()),
        Err(error) => Err(IsolationError::to_string(&error)),
    }
}

/// Returns facts about the platform: the kernel release, the Landlock ABI, the cgroup hierarchy and the kind of user.
fn features() -> Vec<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        format!("kernel {}", release.trim()),
        format!("landlock ABI {}", agentd_kernel::landlock::abi()),
        format!("cgroup: {}", agentd_kernel::cgroup::Hierarchy::detect().describe()),
        format!("user {}", if rustix::process::geteuid().is_root() { "root" } else { "ordinary" }),
    ]
}
