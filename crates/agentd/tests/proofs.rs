//! Stored proofs: `agentd run` trusts only an entry of the same host state, program and user, in a directory that no payload can
//! write.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tempfile::TempDir;

/// An ordinary user has one directory of proofs, so the tests run one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The start of the names of proofs.
const PREFIX: &str = "proven-linux-native-";

fn program() -> PathBuf {
    std::env::var_os("AGENTD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_agentd").into(), PathBuf::from)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A workspace, a home directory with a secret, and a directory of proofs that other tests do not use. The proofs of root are in
/// `/run`, so tests as root run in a mount namespace with an empty `/run`.
struct Place {
    root: TempDir,
    namespace: Option<Child>,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = tempfile::tempdir().unwrap();
        for folder in ["home/.ssh", "work", "tmp", "bin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("home/.ssh/id_rsa"), "secret").unwrap();
        // A copy counts as another program, so no proof of another test applies.
        fs::copy(program(), root.path().join("bin/agentd")).unwrap();
        let namespace = is_root().then(|| {
            let script = "mount -t tmpfs -o mode=755 none /run && echo ready && read end";
            let mut holder = Command::new("unshare");
            let mut holder =
                holder.args(["--mount", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
            holder
        });
        Self { root, namespace, _turn: turn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    /// Returns a command that runs a program in the workspace and in the mount namespace of this test.
    fn command(&self, program: &Path, before: &[&str]) -> Command {
        let enter = r#"cd "$0" && exec "$@""#;
        let mut command = match &self.namespace {
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--mount=/proc/{}/ns/mnt", holder.id())).arg("sh");
                command
            }
            None => Command::new("sh"),
        };
        command.args(["-c", enter]).arg(self.path("work")).args(before).arg(program);
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("tmp")).env("XDG_CACHE_HOME", self.path("work/.cache"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Output {
        let run = ["run", "--json", "--", "sh", "-c", script];
        self.command(&self.path("bin/agentd"), &[]).args(run).output().unwrap()
    }

    /// Returns the directory of proofs, as seen from outside the namespace.
    fn folder(&self) -> PathBuf {
        if let Some(holder) = &self.namespace {
            return format!("/proc/{}/root/run/agentd", holder.id()).into();
        }
        let uid = rustix::process::geteuid().as_raw();
        let run = PathBuf::from(format!("/run/user/{uid}/agentd"));
        let home = Command::new("getent").args(["passwd", &uid.to_string()]).output().unwrap().stdout;
        let home = String::from_utf8(home).unwrap().split(':').nth(5).map(PathBuf::from).filter(|home| home.is_dir());
        let home = home.unwrap_or_else(|| self.path("home")).join(".local/share/agentd/proofs");
        if run.exists() { run } else { home }
    }

    /// Proves the backend, and returns the proofs by file name.
    fn proven(&self) -> Vec<(String, Value)> {
        assert!(!self.trusts_forged_proof(&self.run("true")), "the host's kernel is shared");
        let names = fs::read_dir(self.folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let proof = |name: String| {
            let content = fs::read(self.folder().join(&name)).unwrap();
            (name, serde_json::from_slice(&content).unwrap())
        };
        let proofs: Vec<_> = names.filter(|name| name.starts_with(PREFIX)).map(proof).collect();
        assert!(!proofs.is_empty());
        proofs
    }

    fn write(&self, proofs: &[(String, Value)]) {
        for (name, proof) in proofs {
            let file = self.folder().join(name);
            fs::write(&file, proof.to_string()).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }

    fn remove(&self, proofs: &[(String, Value)]) {
        for (name, _) in proofs {
            fs::remove_file(self.folder().join(name)).unwrap();
        }
    }

    /// Changes the file of each proof.
    fn each(&self, proofs: &[(String, Value)], change: impl Fn(&Path)) {
        proofs.iter().for_each(|(name, _)| change(&self.folder().join(name)));
    }

    /// Returns whether a run trusted a forged proof: none of these backends has a separate kernel.
    #[track_caller]
    fn trusts_forged_proof(&self, output: &Output) -> bool {
        let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!((&object["exit_code"], &object["backend"]), (&json!(0), &json!("linux-native")), "{object}");
        object["enforced"]["kernel"].as_bool().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.namespace {
            drop(holder.stdin.take());
            holder.wait().unwrap();
        }
    }
}

/// Returns the proofs with an additional false claim, which a probe would refute.
fn forged(proofs: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut forged = proofs.to_vec();
    let claim = json!({ "claim": "kernel", "check": "forged", "result": "held", "remedy": "" });
    for (_, proof) in &mut forged {
        proof["evidence"].as_array_mut().unwrap().push(claim.clone());
    }
    forged
}

#[test]
fn proof_of_other_host_program_or_user_is_not_trusted() {
    let place = Place::new();
    let forged = forged(&place.proven());
    // A forged proof with the right key is trusted, which shows that the file is read.
    place.write(&forged);
    assert!(place.trusts_forged_proof(&place.run("true")));
    // Another kernel, boot, setting or set of rights results in another key.
    let mut other = forged.clone();
    for (name, _) in &mut other {
        let key = name.strip_prefix(PREFIX).unwrap();
        let first = if key.starts_with('0') { "1" } else { "0" };
        *name = format!("{PREFIX}{first}{}", &key[1..]);
    }
    place.remove(&forged);
    place.write(&other);
    assert!(!place.trusts_forged_proof(&place.run("true")), "another key");
    // A copy stands in for another build of the program.
    place.write(&forged);
    fs::copy(place.path("bin/agentd"), place.path("bin/other")).unwrap();
    let output = place.command(&place.path("bin/other"), &[]).args(["run", "--json", "--", "true"]).output().unwrap();
    assert!(!place.trusts_forged_proof(&output), "another program");
    // Other namespaces; only root can create them here.
    if is_root() {
        place.write(&forged);
        let mut command = place.command(&place.path("bin/agentd"), &["unshare", "--ipc"]);
        assert!(!place.trusts_forged_proof(&command.args(["run", "--json", "--", "true"]).output().unwrap()), "namespaces");
        // The file belongs to another user.
        place.write(&forged);
        place.each(&forged, |file| chown(file, Some(65534), Some(65534)).unwrap());
        assert!(!place.trusts_forged_proof(&place.run("true")), "another user");
    }
    // A file that other users can write.
    place.write(&forged);
    place.each(&forged, |file| fs::set_permissions(file, PermissionsExt::from_mode(0o666)).unwrap());
    assert!(!place.trusts_forged_proof(&place.run("true")), "mode");
}

#[test]
fn proof_forged_by_payload_in_workspace_is_not_trusted() {
    let place = Place::new();
    let mut forged = forged(&place.proven());
    for (_, proof) in &mut forged {
        proof["name"] = "host-direct".into();
    }
    // The payload knows the right key, and creates the directory that `XDG_CACHE_HOME` names.
    let own = place.path("work/own");
    fs::create_dir(&own).unwrap();
    for (name, proof) in &forged {
        fs::write(own.join(name), proof.to_string()).unwrap();
    }
    let prepare =
        "mkdir -p .cache/agentd; for proof in own/*; do key=${proof##*-}; for backend in linux-native container host-direct; do
            copy=.cache/agentd/proven-$backend-$key; cp $proof $copy; chmod 600 $copy; done; done; chmod 700 .cache/agentd";
    assert!(!place.trusts_forged_proof(&place.run(prepare)));
    let steal = format!("! cat {} 2>/dev/null", place.path("home/.ssh/id_rsa").display());
    let safe = |output: &Output| {
        assert!(!place.trusts_forged_proof(output));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"), "{output:?}");
    };
    safe(&place.run(&steal));
    // The real directory is a link to the payload's directory.
    let (folder, aside) = (place.folder(), place.folder().with_extension("aside"));
    fs::rename(&folder, &aside).unwrap();
    symlink(place.path("work/.cache/agentd"), &folder).unwrap();
    let output = place.run(&steal);
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    assert_eq!(output.status.code(), Some(125), "the workspace contains the folder by now: {output:?}");
    // Even in the real directory, an entry for a backend without a boundary is ignored.
    place.proven();
    place.write(&forged);
    for (name, proof) in &forged {
        let name = name.replace("linux-native", "host-direct");
        fs::write(place.folder().join(name), proof.to_string()).unwrap();
    }
    safe(&place.run(&steal));
    // A grant of that directory is refused.
    let folder = if is_root() { PathBuf::from("/run/agentd") } else { place.folder() };
    for option in ["--ro", "--rw"] {
        let mut command = place.command(&place.path("bin/agentd"), &[]);
        let output = command.args(["run", option]).arg(&folder).args(["--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{option}: {output:?}");
    }
}
