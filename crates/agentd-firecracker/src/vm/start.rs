//! The start of a Firecracker process: the files in its root, its process, and the connection to its API.

use super::{VSOCK, socket_path};
use crate::{
    api::Api,
    boot,
    config::{REMEDY, unavailable},
    files::{ASSETS, OUT, SNAPSHOT},
    jail::{self, Jail},
    metrics_pipe::MetricsPipe,
    process::Process,
};
use agentd_core::IsolationError;
use agentd_log::LogFailure as _;
use rustix::fs::{Mode, OFlags};
use std::{fs, os::fd::OwnedFd, path::Path, time::Duration};
use tokio::{net::UnixListener, time::timeout};

/// The time limit for Firecracker to answer on its API socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of attempts to connect to Firecracker's API socket. No event reports that the socket exists.
const PAUSE: Duration = Duration::from_millis(2);

/// A Firecracker process that does not answer yet. Ends when dropped.
pub(super) struct Starting {
    pub(super) root: OwnedFd,
    pub(super) process: Process,
    pub(super) metrics_pipe: MetricsPipe,
    pub(super) ready: UnixListener,
}

impl Starting {
    /// Creates the files of a machine in its folder and starts the shim. May block on disk I/O, and must be called in a tokio
    /// runtime.
    pub(super) fn begin(
        jail: &Jail,
        lock: fs::File,
        furnish: impl FnOnce(&Path) -> Result<(), IsolationError>,
    ) -> Result<Self, IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let path = jail::root(&jail.folder);
        for name in [OUT, ASSETS, SNAPSHOT] {
            fs::create_dir_all(path.join(name)).map_err(io("create the folders of a machine"))?;
        }
        furnish(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| io("open the root folder of a machine")(e.into()))?;
        let metrics_pipe = MetricsPipe::make(&path).map_err(io("create the metrics pipe of a machine"))?;
        let ready = UnixListener::bind(socket_path(&root, &format!("{VSOCK}_{}", boot::READY_PORT)))
            .map_err(io("listen on the vsock socket of a machine"))?;
        Ok(Self { process: Process::start(jail, lock)?, root, metrics_pipe, ready })
    }
}

/// Removes the folder of a machine that failed to start. The error of the start is the cause to report, so a failure to remove
/// the folder is only logged.
pub(super) fn remove_failed(folder: &Path) {
    fs::remove_dir_all(folder).or_warn("remove files of machine that failed to start", folder);
}

/// Connects to Firecracker's API, and retries until Firecracker listens.
pub(super) async fn connect(root: &OwnedFd, process: &Process) -> Result<Api, IsolationError> {
    let path = socket_path(root, jail::API);
    let connect = async {
        loop {
            match Api::connect(&path).await {
                Ok(api) => return api,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        connected = timeout(START_TIMEOUT, connect) => connected.map_err(|_| {
            let waited = START_TIMEOUT.as_secs();
            unavailable(format!("Firecracker's API socket did not answer within {waited} s: {} — {REMEDY}", process.log_tail()))
        }),
        () = process.gone() => {
            Err(unavailable(format!("Firecracker exited before its API socket answered: {} — {REMEDY}", process.log_tail())))
        }
    }
}
