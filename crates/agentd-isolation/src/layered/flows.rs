//! The record of the flows of one sandbox on disk, in the sandbox's folder for logs. No payload can reach that folder.
//!
//! Each flow is a line of JSON. Granted and refused flows are in separate files, so that a flood of refused attempts does not
//! displace the record of a flow that took place. A full file replaces the older file of its kind, so the size on disk is
//! bounded.

use crate::blocking::blocking;
use agentd_core::{DatagramCount, DelayedBy, IsolationError, NetworkFlow, NetworkLog, NetworkVerdict};
use agentd_log::LogFailure as _;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The reason of a flow that was open when its writer ended without its end.
const LOST: &str = "agentd ended before the end of the flow was recorded";

/// Size in bytes of each of the four files.
const MAX_FILE: u64 = 1 << 20;

/// The names of the files: for granted flows, and for refused flows.
const KINDS: [&str; 2] = ["flows-granted", "flows-refused"];

/// One flow of a named sandbox. The texts come from the sandbox: escape them before printing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFlow {
    /// A number that the records of one connection share, until the sandbox starts again.
    #[serde(default)]
    pub id: Option<u64>,
    /// True if no end of the connection is recorded. The bytes and the time are those so far.
    #[serde(default)]
    pub open: bool,
    /// The time of the attempt, in microseconds since 1970.
    pub started_us: u64,
    /// The time until the end of the flow, in microseconds.
    pub lasted_us: u64,
    /// The name of the destination, if known.
    pub name: Option<String>,
    /// The address and port that the program used. `None` if the program only looked up the name.
    pub wanted: Option<SocketAddr>,
    /// The address outside of the sandbox to which the gateway connected, if any.
    pub connected: Option<SocketAddr>,
    /// False if a proxy resolved the name, so that the address was not checked.
    pub address_checked: bool,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// The carried datagrams of a flow of UDP. Records of earlier versions have none.
    #[serde(default)]
    pub datagrams: Option<DatagramCount>,
    /// The limits that delayed the flow.
    #[serde(default)]
    pub delayed: DelayedBy,
    /// The user who approved the destination, if its network grant needs an approval.
    #[serde(default)]
    pub approved_by: Option<String>,
    /// The method and path of a refused request.
    pub request: Option<String>,
    /// True if a network grant allows the flow.
    pub allowed: bool,
    /// The network grant that allows the flow.
    pub rule: Option<String>,
    /// The reason why the flow was refused, or ended before both sides closed it.
    pub reason: Option<String>,
    /// The network grant that would allow what was refused, if any.
    pub missing: Option<String>,
}

/// The recorded flows of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowHistory {
    /// The flows, in the order of their start.
    pub flows: Vec<RecordedFlow>,
    /// The number of flows that were not recorded, because too many came at once.
    pub dropped: u64,
    /// The number of incomplete lines, for example after a power failure.
    pub damaged: u64,
}

/// A line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Flow(Box<RecordedFlow>),
    Dropped(u64),
    /// The time at which the sandbox was started, in microseconds since 1970. No earlier flow is open any more.
    Started(u64),
}

impl From<NetworkFlow> for RecordedFlow {
    fn from(flow: NetworkFlow) -> Self {
        let open = matches!(flow.verdict, NetworkVerdict::Open { .. });
        let (allowed, rule, reason, missing) = match flow.verdict {
            NetworkVerdict::Granted { rule, cut } => (true, Some(rule), cut, None),
            NetworkVerdict::Open { rule } => (true, Some(rule), None, None),
            NetworkVerdict::RefusedLater { rule, reason, missing } => (true, Some(rule), Some(reason), missing),
            NetworkVerdict::Refused { reason, missing } => (false, None, Some(reason), missing),
            other => (false, None, Some(format!("{other:?}")), None),
        };
        Self {
            id: flow.id,
            open,
            started_us: since_epoch(flow.started),
            lasted_us: micros(flow.lasted),
            name: flow.name,
            wanted: flow.wanted,
            connected: flow.connected,
            address_checked: flow.address_checked,
            sent: flow.sent,
            received: flow.received,
            datagrams: flow.datagrams,
            delayed: flow.delayed,
            approved_by: flow.approved_by,
            request: flow.request,
            allowed,
            rule,
            reason,
            missing,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> u64 {
    micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Writes the flows of a running sandbox to its folder, until the sandbox has ended.
pub(super) struct FlowWriter(JoinHandle<()>);

impl FlowWriter {
    /// Starts the thread that writes the flows.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn start(log: Arc<dyn NetworkLog>, folder: PathBuf) -> io::Result<Self> {
        let started = since_epoch(SystemTime::now());
        let thread = thread::Builder::new().name("network-log".to_owned()).spawn(move || {
            let mut files = KINDS.map(|kind| FlowFile { folder: folder.clone(), kind, open: None });
            let mut keep = |kind: usize, line: Line| {
                // This flow is not recorded. The next flow may be, if the disk has space again.
                files[kind].append(&line).or_warn("record a flow", &folder);
            };
            if folder.join(KINDS[0]).exists() {
                keep(0, Line::Started(started));
            }
            while let Some(flow) = log.next(Duration::MAX) {
                let flow = RecordedFlow::from(flow);
                keep(usize::from(!flow.allowed), Line::Flow(Box::new(flow)));
                let dropped = log.take_dropped();
                if dropped > 0 {
                    keep(1, Line::Dropped(dropped));
                }
            }
        })?;
        Ok(Self(thread))
    }

    /// Waits until the last flow is recorded. The sandbox must have been destroyed.
    ///
    /// # Errors
    /// [`IsolationError::Internal`] if the thread that waits failed.
    pub(super) async fn finish(self) -> Result<(), IsolationError> {
        blocking(move || {
            // A panic of the thread has already been reported by the panic hook.
            let _ = self.0.join();
            Ok(())
        })
        .await
    }
}

/// The files of one kind.
struct FlowFile {
    folder: PathBuf,
    kind: &'static str,
    /// The current file and its size.
    open: Option<(File, u64)>,
}

impl FlowFile {
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let length = bytes.len() as u64;
        if self.open.as_ref().is_some_and(|(_, size)| size + length > MAX_FILE) {
            self.open = None;
            fs::rename(self.folder.join(self.kind), self.folder.join(older(self.kind)))?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            none => none.insert(open_to_append(&self.folder, self.kind)?),
        };
        let written = file.write_all(&bytes);
        *size += length;
        if written.is_err() {
            // Before the next line, the file is opened again and the end of its last line is checked.
            self.open = None;
        }
        written
    }
}

fn older(kind: &str) -> String {
    format!("{kind}.1")
}

/// Opens the current file of a kind. If its last line is incomplete, ends that line.
fn open_to_append(folder: &Path, kind: &str) -> io::Result<(File, u64)> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(folder.join(kind), flags, Mode::from(0o600))?);
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::Start(size - 1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok((file, size))
}

/// Returns the recorded flows of a sandbox, whose folder for logs is `folder`. The sandbox may be running.
///
/// # Errors
/// A file cannot be read.
pub fn read(folder: &Path) -> io::Result<FlowHistory> {
    let (mut history, mut started) = (FlowHistory::default(), 0);
    for kind in KINDS {
        // The current file is opened first. If it becomes the older file before the second call, both calls open the same file,
        // which is then read once.
        let current = open_to_read(&folder.join(kind))?;
        let before = open_to_read(&folder.join(older(kind)))?;
        let same = |file: &(File, fs::Metadata)| {
            current.as_ref().is_some_and(|(_, current)| (current.dev(), current.ino()) == (file.1.dev(), file.1.ino()))
        };
        for (file, _) in before.filter(|before| !same(before)).into_iter().chain(current) {
            started = started.max(add(&mut history, file)?);
        }
    }
    keep_last_records(&mut history.flows, started);
    history.flows.sort_by_key(|flow| flow.started_us);
    Ok(history)
}

/// Keeps the last record of each connection. `started` is the time of the last start of the sandbox.
fn keep_last_records(flows: &mut Vec<RecordedFlow>, started: u64) {
    let key = |flow: &RecordedFlow| flow.id.map(|id| (flow.started_us, id));
    let last: HashMap<_, _> = flows.iter().enumerate().map(|(index, flow)| (key(flow), index)).collect();
    let mut indexes = 0..;
    flows.retain(|flow| {
        let index = indexes.next();
        key(flow).is_none() || last.get(&key(flow)).copied() == index
    });
    for flow in flows.iter_mut().filter(|flow| flow.open && flow.started_us < started) {
        (flow.open, flow.reason) = (false, Some(LOST.to_owned()));
    }
}

fn open_to_read(path: &Path) -> io::Result<Option<(File, fs::Metadata)>> {
    match File::open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok(Some((file, metadata)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the lines of a file. Returns the time of the last start of the sandbox, or 0.
fn add(history: &mut FlowHistory, file: File) -> io::Result<u64> {
    let (mut bytes, mut started) = (Vec::new(), 0);
    file.take(2 * MAX_FILE).read_to_end(&mut bytes)?;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::Flow(flow)) => history.flows.push(*flow),
            Ok(Line::Dropped(dropped)) => history.dropped = history.dropped.saturating_add(dropped),
            Ok(Line::Started(at)) => started = at,
            Err(_) => history.damaged += 1,
        }
    }
    Ok(started)
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
