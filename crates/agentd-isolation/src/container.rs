//! `container`: a root of its own, in which the payload is root and which may be changed and thrown away.
//!
//! Beside what [`crate::LinuxNativeBackend`] has — namespaces, seccomp, Landlock, cgroups — the host's tree is gone (`pivot_root(2)`):
//! the root is an image's layers under a writable one, or a read-only view of the host's programs. As root's, each sandbox has
//! 65536 host ids that no other live one has; as an ordinary user's, its root is that user, and the others inside are subordinate ids of
//! theirs, where there are any.

use crate::{
    fallback, grants,
    linked::{Kind, LinkedBackend},
    linux_native::SCRATCH_BYTES,
};
use agentd_core::{Access, IsolationError, Root, SandboxSpec, Writable};
use agentd_kernel::{
    cgroup::CgroupPlan,
    landlock::{LandlockPlan, Rule},
    mount::root::{Base, RootPlan, Top},
    namespace::{Ids, NamespacePlan},
    privileges::Capabilities,
    seccomp::SeccompPlan,
};
use agentd_supervisor::{
    plan::{SandboxPlan, Tree},
    protocol,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The host's programs, and the parts of its `/etc` that they need and that tell nothing of its users. Those that exist are shown.
const SYSTEM: [&str; 21] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/debian_version",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/protocols",
    "/etc/ssl/certs",
];

/// Files of a root of the host's programs.
const FILES: [(&str, &str); 5] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost agentd\n::1 localhost\n"),
    ("/etc/hostname", "agentd\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// See the head of this module.
pub type ContainerBackend = LinkedBackend<Container>;

/// The kind of [`ContainerBackend`].
pub struct Container;

impl Kind for Container {
    const NAME: &'static str = "container";
    const BOUNDARY: Option<Capabilities> = Some(Capabilities::OWN_ROOT);
    const LAYERS: bool = true;

    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        plan(spec)
    }
}

fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    let layers = match &spec.root {
        Root::Host => Vec::new(),
        Root::Layers(layers) if layers.is_empty() => {
            return Err(IsolationError::Invalid {
                what: "root".to_owned(),
                reason: "an image has at least one layer".to_owned(),
            });
        }
        Root::Layers(layers) => layers.clone(),
    };
    let of_the_host = layers.is_empty();
    let (sealed, top) = match &spec.writable {
        Writable::Memory => (&[][..], None),
        Writable::Volume(bytes) => (&[][..], Some(Top::Volume(bytes.0))),
        Writable::Layers => {
            let reason = "its layers are made with the sandbox, and are not there before".to_owned();
            return Err(IsolationError::Invalid { what: "writable".to_owned(), reason });
        }
        Writable::Disk(disk) => (&disk.sealed[..], Some(Top::Directory(disk.top.clone()))),
    };
    let layers = [layers, sealed.to_vec()].concat();
    let (system, links) = if of_the_host { host_programs() } else { (Vec::new(), Vec::new()) };
    // They were made when the root was made first: what became of them since, nothing too, is in its layers.
    let made = !sealed.is_empty();
    let links = if made { Vec::new() } else { links };
    let files = if of_the_host && !made { &FILES[..] } else { &[] };
    let files = files.iter().map(|(path, content)| (PathBuf::from(path), (*content).to_owned())).collect();
    rooted(spec, Parts { base: Base::Stack { layers, top }, ids: Ids::Apart, system, links, files })
}

/// What a spec comes to in a machine that is the sandbox's alone, over a directory of it.
pub(crate) fn plan_over(directory: &Path, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    let base = Base::Directory(directory.to_path_buf());
    rooted(spec, Parts { base, ids: Ids::Same, system: Vec::new(), links: Vec::new(), files: Vec::new() })
}

/// What the root of a sandbox is made of.
struct Parts {
    base: Base,
    ids: Ids,
    system: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    files: Vec<(PathBuf, String)>,
}

fn rooted(spec: &SandboxSpec, parts: Parts) -> Result<SandboxPlan, IsolationError> {
    let Parts { base, ids, system, links, files } = parts;
    fallback::check(&spec.limits)?;
    let trees = base.trees();
    let room = protocol::MAX_FDS.checked_sub(trees).ok_or_else(|| IsolationError::Invalid {
        what: "root".to_owned(),
        reason: format!("{trees} layers are more than {}; squash the image", protocol::MAX_FDS),
    })?;
    let grants = grants::resolve(&spec.grants, room)?;
    let home = spec.home.clone().unwrap_or_else(|| PathBuf::from("/root"));
    grants::check_place("home", &home)?;
    let scratch_bytes = spec.limits.memory.map_or(SCRATCH_BYTES, |b| b.0);
    let mut cgroup = CgroupPlan::from_limits(&spec.limits);
    let process_rlimit = fallback::processes(&mut cgroup);
    let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
    // RLIMIT_NPROC counts the processes of each user apart (`setrlimit(2)`): there must be one only.
    let kept = if process_rlimit.is_some() { Capabilities::OWN_ROOT.as_one_user() } else { Capabilities::OWN_ROOT };
    // In its own root the bits mean nothing to anybody. In a granted directory they are the caller's, on a mount of the host's that obeys
    // them: whoever finds the file there would become the caller. The filter cannot tell the two apart.
    let set_ids = spec.grants.iter().all(|grant| grant.access == Access::ReadOnly);
    // All below it is the sandbox's own; what is not, its mounts keep read-only.
    let rules = vec![Rule { path: PathBuf::from("/"), access: Access::ReadWrite, optional: false }];
    Ok(SandboxPlan {
        namespaces: NamespacePlan { enabled: true, network: spec.network, ids },
        tree: Tree::Root(RootPlan { base, system, files, links, home, grants, devices: Vec::new(), scratch_bytes }),
        capabilities: kept,
        landlock: Some(LandlockPlan { rules, network: spec.network }),
        seccomp: Some(SeccompPlan { profile: spec.profile, network: spec.network, set_ids }),
        cgroup,
        process_rlimit,
        rlimit_notes,
        allow_degraded: spec.allow_degraded,
    })
}

/// What of the host's programs is there: directories and files to show, and links to make as the host has them.
fn host_programs() -> (Vec<PathBuf>, Vec<(PathBuf, PathBuf)>) {
    let (mut system, mut links) = (Vec::new(), Vec::new());
    for path in SYSTEM.map(Path::new) {
        match path.read_link() {
            Ok(target) => links.push((path.to_path_buf(), target)),
            // It is there, and no link (`readlink(2)`, `EINVAL`).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => system.push(path.to_path_buf()),
            Err(_) => {}
        }
    }
    (system, links)
}
