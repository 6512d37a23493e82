//! What `agentd bench` prints.

use super::{
    egress::{AT_ONCE, Granted},
    figure::{PROGRAM, ratio},
    protected::{DIRECTORIES, Protected},
};
use crate::cli::failure::Failure;
use std::{collections::BTreeMap, io::Write, time::Duration};

/// Names of two rows that are compared with each other.
pub(super) const RESTORE: &str = "firecracker: restore + first exec";
pub(super) const BARE: &str = "Firecracker alone: snapshot/load + round trip";

/// Names of the rows for an exec in a machine of Gondolin: by agentd's agent, and in the two ways that Gondolin provides.
pub(super) const GONDOLIN: [&str; 3] = [
    "gondolin: exec in a live machine",
    "Gondolin alone: exec through its session socket",
    "Gondolin alone: exec through its SDK",
];

/// Returns the name of the row for a whole sandbox of a backend.
pub(super) fn create(backend: &str) -> String {
    format!("{backend}: create + exec + destroy")
}

/// Returns the name of the same row with a granted host.
pub(super) fn create_granted(backend: &str) -> String {
    format!("{backend}: the same with a granted host")
}

/// The result of all measurements.
pub(super) struct Measurements {
    pub rounds: u32,
    /// The names of the rows and their medians. All other rows are compared with the first row.
    pub rows: Vec<(String, Duration)>,
    /// The time for file-heavy work in a sandbox of each backend, relative to outside.
    pub files: Vec<(&'static str, f64)>,
    /// The time of a whole run in a workspace with many directories.
    pub protected: Protected,
    /// The results for sandboxes with granted hosts.
    pub granted: Vec<Granted>,
    /// The number of leaves of the audit log that become durable in a second, with 64 clients.
    pub leaves_per_second: f64,
    /// Host memory of a machine of Gondolin that has just started, in bytes.
    pub memory: Option<u64>,
}

impl Measurements {
    pub(super) fn print_json(&self, out: &mut impl Write) -> Result<(), Failure> {
        let base = self.base();
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|(name, p50)| serde_json::json!({ "name": name, "p50_us": p50.as_micros() as f64, "ratio": ratio(*p50, base) }))
            .collect();
        let all = serde_json::json!({
            "rounds": self.rounds, "rows": rows, "gondolin_memory_bytes": self.memory,
            "durable_leaves_per_second": self.leaves_per_second,
            "firecracker_restore_ratio": self.restore_ratio(),
            "files_ratios": self.files.iter().copied().collect::<BTreeMap<_, _>>(),
            "protected_tree": {
                "directories": DIRECTORIES,
                "without_us": self.protected.none.as_micros() as f64,
                "first_us": self.protected.first.as_micros() as f64,
                "second_us": self.protected.second.as_micros() as f64,
            },
            "granted_hosts": self.granted.iter().map(|granted| self.granted_json(granted)).collect::<Vec<_>>(),
        });
        writeln!(out, "{all:#}")?;
        Ok(())
    }

    pub(super) fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        let base = self.base();
        writeln!(out, "{:<48}{:>12}{:>10}", format!("p50 of {} rounds of {PROGRAM}", self.rounds), "µs", "ratio")?;
        for (name, p50) in &self.rows {
            writeln!(out, "{name:<48}{:>12}{:>9.2}×", p50.as_micros(), ratio(*p50, base))?;
        }
        for (backend, ratio) in &self.files {
            writeln!(
                out,
                "{backend}: creating, reading the status of and removing 20,000 files on tmpfs takes {ratio:.2}× the time outside"
            )?;
        }
        writeln!(
            out,
            "agentd run in a workspace of {DIRECTORIES} directories: the first run takes {:.2}×, the second {:.2}× the time \
             without a workspace",
            ratio(self.protected.first, self.protected.none),
            ratio(self.protected.second, self.protected.none)
        )?;
        for granted in &self.granted {
            self.print_granted(granted, out)?;
        }
        writeln!(out, "audit log: {:.0} leaves per second become durable, for 64 clients", self.leaves_per_second)?;
        if let [Some(exec), Some(session), Some(sdk)] = GONDOLIN.map(|name| self.row(name)) {
            writeln!(
                out,
                "gondolin: exec takes {:.2}× the time of an exec through its session socket, {:.2}× that of its SDK",
                ratio(exec, session),
                ratio(exec, sdk)
            )?;
        }
        if let Some(memory) = self.memory {
            writeln!(out, "gondolin: host memory of a machine that has just started: {} MiB", memory >> 20)?;
        }
        if let Some(restore) = self.restore_ratio() {
            writeln!(out, "firecracker: restore + first exec takes {restore:.2}× the time of Firecracker alone")?;
        }
        Ok(())
    }

    fn granted_json(&self, granted: &Granted) -> serde_json::Value {
        serde_json::json!({
            "backend": granted.backend,
            "create_ratio": self.granted_ratio(granted),
            "bulk_ratio": granted.bulk,
            "bulk_to_slirp4netns_ratio": granted.bulk_to_slirp,
            "connect_ratio": granted.connect,
            "connect_longer_us": granted.connect_longer.as_micros() as f64,
            "at_once_ratio": granted.at_once,
            "beside_flood_p99_ratio": granted.beside_flood,
        })
    }

    fn print_granted(&self, granted: &Granted, out: &mut impl Write) -> Result<(), Failure> {
        let Granted { backend, bulk, bulk_to_slirp, connect, connect_longer, at_once, beside_flood } = granted;
        if let Some(create) = self.granted_ratio(granted) {
            writeln!(out, "{backend}: create + exec + destroy with a granted host takes {create:.2}× the time without one")?;
        }
        write!(out, "{backend}: a download through the gateway has {bulk:.2}× the rate of plain loopback")?;
        match bulk_to_slirp {
            Some(ratio) => writeln!(out, ", {ratio:.2}× that of slirp4netns")?,
            None => writeln!(out)?,
        }
        let longer = connect_longer.as_micros();
        writeln!(
            out,
            "{backend}: a connection that returns one byte takes {connect:.2}× the time of plain loopback, {longer} µs longer"
        )?;
        if let Some(ratio) = at_once {
            writeln!(out, "{backend}: {AT_ONCE} connections at once take {ratio:.2}× the time of plain loopback")?;
        }
        if let Some(ratio) = beside_flood {
            writeln!(
                out,
                "{backend}: the slowest connections (p99) take {ratio:.2}× as long while another sandbox floods its gateway"
            )?;
        }
        Ok(())
    }

    /// Returns the time of a whole sandbox with a granted host, relative to a sandbox without one.
    fn granted_ratio(&self, granted: &Granted) -> Option<f64> {
        let [with, without] = [create_granted(granted.backend), create(granted.backend)].map(|name| self.row(&name));
        with.zip(without).map(|(with, without)| ratio(with, without))
    }

    fn base(&self) -> Duration {
        self.rows.first().map(|(_, p50)| *p50).unwrap_or_default()
    }

    fn row(&self, name: &str) -> Option<Duration> {
        self.rows.iter().find_map(|(row, p50)| (row == name).then_some(*p50))
    }

    /// Returns the time of a restore relative to that of Firecracker alone.
    fn restore_ratio(&self) -> Option<f64> {
        self.row(RESTORE).zip(self.row(BARE)).map(|(restore, bare)| ratio(restore, bare))
    }
}
