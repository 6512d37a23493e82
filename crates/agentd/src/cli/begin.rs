//! The start of a run: selects the backend, and creates the sandbox.

use super::{
    args::RunArgs,
    comparison::Comparison,
    failure::Failure,
    grants,
    image::Image,
    protection::Advice,
    request::{self, BackendDescription},
    secrets::{self, ReadSecrets},
    selection::{self, Selected},
    stops::{StopSource, Stops},
};
use agentd_core::{Access, Command, Grant, IsolationBackend, IsolationError, NetworkMode, Sandbox, SandboxSpec};
use agentd_isolation::egress;
use std::{path::Path, sync::Arc};

/// The input from which a run is requested.
#[derive(Clone, Copy)]
pub(super) struct RunInput<'a> {
    pub args: &'a RunArgs,
    pub secrets: &'a ReadSecrets,
    pub image: Option<&'a Image>,
    /// Where requests to stop the run come from.
    pub stops: &'a StopSource,
}

impl RunInput<'_> {
    /// Returns the sandbox and the command that the run requests from `backend`.
    ///
    /// # Errors
    /// As for [`request::request`] and [`ReadSecrets::add_to`].
    pub(super) fn request(self, backend: &dyn IsolationBackend) -> Result<(SandboxSpec, Command), Failure> {
        let Self { args, secrets, image, .. } = self;
        let (mut spec, mut command) = request::request(args, &BackendDescription::new(backend), image)?;
        secrets::add_environment(&mut command, secrets::of_presets(&args.preset), &args.command.env);
        secrets.add_to(&mut spec, &command, &args.command.env)?;
        Ok((spec, command))
    }

    /// Returns the sandbox and the command, as [`RunInput::request`] does, and prepares this process for the sandbox's gateway.
    fn begin(self, backend: &dyn IsolationBackend) -> Result<(SandboxSpec, Command), Failure> {
        let (spec, command) = self.request(backend)?;
        if spec.network.mode() == NetworkMode::Egress {
            egress::raise_descriptor_limit()?;
        }
        Ok((spec, command))
    }
}

/// A run whose sandbox was created.
pub(super) struct Begun {
    pub selected: Selected,
    pub sandbox: Arc<dyn Sandbox>,
    pub spec: SandboxSpec,
    pub command: Command,
    pub before: Before,
}

/// The state that is recorded before the command starts.
pub(super) struct Before {
    pub advice: Advice,
    pub compared: Comparison,
    /// Once this value exists, a signal ends the command first, so that agentd can clean up. Before, a signal ends agentd, and
    /// the launcher destroys the sandbox.
    pub stops: Stops,
}

impl Before {
    /// Records the state of the protected paths, and then receives the requests of `source`. Returns the request that interrupted
    /// this, if one did.
    async fn record(
        spec: &SandboxSpec,
        backend: &dyn IsolationBackend,
        source: &StopSource,
    ) -> Result<Result<Self, i32>, Failure> {
        let advice = Advice::for_grants(&spec.grants);
        let (grants, limit) = (changeable(spec, backend), spec.limits.wall);
        let compared = match source {
            StopSource::Signals => Comparison::begin(grants, limit),
            // The process executes other intents in the meantime, and the caller may cancel this one.
            #[cfg(feature = "policy")]
            StopSource::Caller(_) => {
                let mut stops = Stops::of(source)?;
                match Comparison::begin_until(grants, limit, &mut stops).await? {
                    Ok(compared) => compared,
                    Err(stop) => return Ok(Err(stop)),
                }
            }
        };
        Ok(Ok(Self { advice, compared, stops: Stops::of(source)? }))
    }
}

/// Selects the backend of a run, and creates the sandbox. If a signal interrupts these steps, returns the signal instead.
///
/// If a certain backend on the host's kernel is expected, the sandbox is created in that backend immediately. In the meantime,
/// the selection reads the proof of the backend, or probes it, and the state of the protected paths is recorded. No command
/// starts in the sandbox before the selection has confirmed the backend (decision 0090).
pub(super) async fn begin(input: RunInput<'_>, work_root: &Path) -> Result<Result<Begun, i32>, Failure> {
    let args = input.args;
    let Some(expected) = selection::expected(args, work_root) else {
        let selected = selection::of_run(args, work_root).await?;
        let (spec, command) = input.begin(&*selected.backend)?;
        let before = match Before::record(&spec, &*selected.backend, input.stops).await? {
            Ok(before) => before,
            Err(stop) => return Ok(Err(stop)),
        };
        let made = selected.backend.create_sandbox(spec.clone()).await;
        return confirm(input, work_root, made, (selected, spec, command, before)).await;
    };
    let (spec, command) = input.begin(&*expected)?;
    let select = async {
        let selected = selection::of_run(args, work_root).await?;
        let before = Before::record(&spec, &*selected.backend, input.stops).await?;
        Ok::<_, Failure>((selected, before))
    };
    // The plan is sent to the launcher before the selection begins.
    let (made, selected) = tokio::join!(expected.create_sandbox(spec.clone()), select);
    let (selected, before) = selected?;
    let before = match before {
        Ok(before) => before,
        Err(stop) => {
            if let Ok(unused) = made {
                unused.destroy().await?;
            }
            return Ok(Err(stop));
        }
    };
    if selected.backend.name() == expected.name() {
        return confirm(input, work_root, made, (selected, spec, command, before)).await;
    }
    if let Ok(unused) = made {
        unused.destroy().await?;
    }
    again(input, selected, &spec, before.stops).await
}

/// Returns the run if its sandbox was created. If the proof of the backend is outdated, selects a backend and creates a sandbox
/// once more.
async fn confirm(
    input: RunInput<'_>,
    work_root: &Path,
    made: Result<Arc<dyn Sandbox>, IsolationError>,
    (selected, spec, command, before): (Selected, SandboxSpec, Command, Before),
) -> Result<Result<Begun, i32>, Failure> {
    match made {
        Ok(sandbox) => Ok(Ok(Begun { selected, sandbox, spec, command, before })),
        Err(error) if selected.is_outdated_by(&error) => {
            selected.forget();
            let selected = selection::of_run(input.args, work_root).await?;
            again(input, selected, &spec, before.stops).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates the sandbox of a run whose first sandbox was not created or not used. The grants are the objects that were granted
/// for the first one.
async fn again(
    input: RunInput<'_>,
    selected: Selected,
    earlier: &SandboxSpec,
    mut stops: Stops,
) -> Result<Result<Begun, i32>, Failure> {
    let (mut spec, command) = input.begin(&*selected.backend)?;
    grants::keep_objects(&earlier.grants, &mut spec.grants);
    let advice = Advice::for_grants(&spec.grants);
    let compared = match Comparison::begin_until(changeable(&spec, &*selected.backend), spec.limits.wall, &mut stops).await? {
        Ok(compared) => compared,
        Err(stop) => return Ok(Err(stop)),
    };
    let sandbox = selected.backend.create_sandbox(spec.clone()).await?;
    Ok(Ok(Begun { selected, sandbox, spec, command, before: Before { advice, compared, stops } }))
}

/// Returns the grants in which the command may change protected paths. Returns none if no grant is writable and the sandbox is
/// certain to enforce read-only grants.
fn changeable<'a>(spec: &'a SandboxSpec, backend: &dyn IsolationBackend) -> &'a [Grant] {
    let enforced = backend.traits().boundary && !spec.allow_degraded;
    let writable = spec.grants.iter().any(|grant| grant.access == Access::ReadWrite);
    if enforced && !writable { &[] } else { &spec.grants }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_isolation::{HostDirectBackend, LinuxNativeBackend};

    #[test]
    fn nothing_is_compared_only_if_read_only_grants_are_certainly_enforced() {
        let grant = |access| Grant::new("/a", access);
        let spec = |accesses: &[Access], allow_degraded| SandboxSpec {
            grants: accesses.iter().copied().map(grant).collect(),
            allow_degraded,
            ..SandboxSpec::default()
        };
        let root = tempfile::tempdir().unwrap();
        let (native, direct) = (LinuxNativeBackend::new(root.path()).unwrap(), HostDirectBackend::new(root.path()));
        let read_only = [Access::ReadOnly, Access::CopyOnWrite];
        assert_eq!(changeable(&spec(&read_only, false), &native).len(), 0);
        assert_eq!(changeable(&spec(&read_only, true), &native).len(), 2);
        assert_eq!(changeable(&spec(&read_only, false), &direct).len(), 2);
        assert_eq!(changeable(&spec(&[Access::ReadOnly, Access::ReadWrite], false), &native).len(), 2);
    }
}
