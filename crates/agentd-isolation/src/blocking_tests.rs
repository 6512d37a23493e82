use super::*;
use crate::{
    registry::{BuiltIn, Registry},
    select::choose_backend,
    shared_kernel::{BackendKind, SharedKernelBackend},
};
use agentd_core::{Access, BackendTraits, Grant, IsolationBackend as _, SandboxSpec};
use agentd_supervisor::plan::SandboxPlan;
use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread::{self, ThreadId},
};

/// A kind that plans nothing. The reason in its error is the thread on which the plan was requested.
struct NamesThread;

impl BackendKind for NamesThread {
    const NAME: &'static str = "names-thread";
    const TRAITS: BackendTraits = BackendTraits { boundary: true, ..BackendTraits::UNKNOWN };
    type Config = ();

    fn plan((): &(), _: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        Err(IsolationError::Internal(format!("{:?}", thread::current().id())))
    }
}

async fn planned_on_runtime(grants: Vec<Grant>) -> bool {
    let backend = SharedKernelBackend::<NamesThread>::configured(&std::env::temp_dir(), ());
    let refused = backend.create_sandbox(SandboxSpec { grants, ..SandboxSpec::default() }).await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("ThreadId"), "{error}");
    error.contains(&format!("{:?}", thread::current().id()))
}

#[tokio::test]
async fn grants_are_resolved_off_the_runtime_unless_its_only_task_waits() {
    let granted = tempfile::tempdir().unwrap();
    let grants = || vec![Grant::new(granted.path().canonicalize().unwrap(), Access::ReadOnly)];
    assert!(!planned_on_runtime(grants()).await);
    assert!(as_sole_task(planned_on_runtime(grants())).await);
    assert!(planned_on_runtime(Vec::new()).await);
}

/// The thread that asked last for the files of a proof.
static PROOF_THREAD: Mutex<Option<ThreadId>> = Mutex::new(None);

fn note_thread(_: &Path) -> Vec<PathBuf> {
    *PROOF_THREAD.lock().unwrap() = Some(thread::current().id());
    Vec::new()
}

#[tokio::test]
async fn proofs_are_read_off_the_runtime_unless_its_only_task_waits() {
    let name = NamesThread::NAME;
    let backend = |root: &Path| Ok(SharedKernelBackend::<NamesThread>::configured(root, ()));
    let registry = Registry::new(vec![BuiltIn::new(name, &[], backend).proven_with(note_thread)]);
    let read_on_runtime = async || {
        assert!(choose_backend(&registry, &std::env::temp_dir(), &[name], &[]).await.is_err(), "no proof is kept");
        PROOF_THREAD.lock().unwrap().take().unwrap() == thread::current().id()
    };
    assert!(!read_on_runtime().await);
    assert!(as_sole_task(read_on_runtime()).await);
}
