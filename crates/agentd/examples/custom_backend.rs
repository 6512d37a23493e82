//! A backend of an embedding program, registered under a name and selected by an alias.
//!
//! This backend wraps `linux-native` and logs each sandbox and the end of each command. Every backend implements two traits. Its
//! claims come from [`BackendCapabilities::from_evidence`]: a claim without a check that held stays false.
//!
//! Run it with `cargo run --example custom_backend`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use agentd::isolation::{
    BackendCapabilities, BackendTraits, Command, ControlReport, ExecHandle, IsolationBackend, IsolationError, Outcome, PlanLine,
    Sandbox, SandboxId, SandboxSpec, Usage, create_backend, register_backend_factory, take_role,
};
use async_trait::async_trait;
use std::{os::fd::OwnedFd, path::Path, sync::Arc};

struct Logged(Arc<dyn IsolationBackend>);

struct LoggedSandbox(Arc<dyn Sandbox>);

#[async_trait]
impl IsolationBackend for Logged {
    fn name(&self) -> &str {
        "logged"
    }

    fn traits(&self) -> BackendTraits {
        // Callers decide by traits, not by names. These traits are those of the inner backend.
        self.0.traits()
    }

    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        let mut plan = vec![PlanLine::new("log", "every sandbox and the end of each command")];
        plan.extend(self.0.explain(spec)?);
        Ok(plan)
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        // The inner backend provides the boundary, so its evidence applies.
        let inner = self.0.probe().await?;
        Ok(BackendCapabilities { name: self.name().to_owned(), ..inner })
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let sandbox = self.0.create_sandbox(spec).await?;
        println!("{}: created, {} controls", sandbox.id(), sandbox.controls().len());
        Ok(Arc::new(LoggedSandbox(sandbox)))
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        self.0.list_sandboxes().await
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        Ok(self.0.get_sandbox(id).await?.map(|sandbox| Arc::new(LoggedSandbox(sandbox)) as Arc<dyn Sandbox>))
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        self.0.destroy_all().await
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.0.health_check().await
    }
}

#[async_trait]
impl Sandbox for LoggedSandbox {
    fn id(&self) -> &SandboxId {
        self.0.id()
    }

    fn controls(&self) -> &[ControlReport] {
        self.0.controls()
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.0.capabilities().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        let outcome = self.0.exec(command).await?;
        println!("{}: {:?} after {:?}", self.id(), outcome.reason, outcome.usage.wall);
        Ok(outcome)
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        self.0.exec_streaming(command).await
    }

    async fn exec_tool(&self, command: Command) -> Result<Outcome, IsolationError> {
        self.0.exec_tool(command).await
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        self.0.read_file(path, limit).await
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError> {
        self.0.write_file(path, content).await
    }

    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError> {
        self.0.read_file_to(path, limit, to).await
    }

    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError> {
        self.0.write_file_from(path, from).await
    }

    async fn is_alive(&self) -> bool {
        self.0.is_alive().await
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        self.0.suspend().await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.0.resume().await
    }

    async fn snapshot(&self, name: &str) -> Result<(), IsolationError> {
        self.0.snapshot(name).await
    }

    async fn restore(&self, name: &str) -> Result<(), IsolationError> {
        self.0.restore(name).await
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        self.0.fork().await
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        self.0.resource_usage().await
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.0.destroy().await?;
        println!("{}: destroyed", self.id());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> Result<(), IsolationError> {
    register_backend_factory("logged", &["audited"], |work_root| {
        Ok(Arc::new(Logged(create_backend("linux-native", work_root)?)))
    })?;
    let backend = create_backend("Audited", &std::env::temp_dir())?;
    println!("{} proves a score of {}", backend.name(), backend.probe().await?.score());
    let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
    let command = Command { argv: vec!["/bin/echo".into(), "hello from inside".into()], ..Command::default() };
    print!("{}", String::from_utf8_lossy(&sandbox.exec(command).await?.stdout.to_bytes()));
    sandbox.destroy().await
}

fn main() -> Result<(), IsolationError> {
    // First of all: sandboxes are made by a helper process that is the same program.
    take_role();
    run()
}
