//! What tells one machine from another made of the same memory.

use agentd_core::IsolationError;
use agentd_kernel::individual::SEED;
use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    time::{SystemTime, UNIX_EPOCH},
};

/// Who a machine is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its host name.
    pub hostname: String,
    /// Its `machine-id(5)`.
    pub machine_id: [u8; 16],
    /// The time, in nanoseconds since 1970; made that of the moment at which it is told. Without it the machine's clock is right already, and
    /// is left alone.
    pub realtime_ns: Option<u64>,
    /// For the kernel's random numbers; counted as entropy.
    pub seed: [u8; SEED],
}

impl Identity {
    /// A new one, with the time of now.
    ///
    /// # Errors
    /// `getrandom(2)`.
    pub fn new(hostname: impl Into<String>) -> io::Result<Self> {
        let (mut machine_id, mut seed) = ([0; 16], [0; SEED]);
        for bytes in [&mut machine_id[..], &mut seed[..]] {
            let mut done = 0;
            while done < bytes.len() {
                done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())?;
            }
        }
        Ok(Self { hostname: hostname.into(), machine_id, realtime_ns: Some(now()), seed })
    }

    /// A new one whose host name is that of no other machine.
    ///
    /// # Errors
    /// `getrandom(2)`.
    pub fn individual() -> Result<Self, IsolationError> {
        let failed = |source| IsolationError::Io { context: "draw random numbers".to_owned(), source };
        let mut identity = Self::new("").map_err(failed)?;
        identity.hostname = format!("agentd-{}", &identity.machine_id_text()[..8]);
        Ok(identity)
    }

    /// As a machine's file has it.
    pub(super) fn machine_id_text(&self) -> String {
        let digits: String = self.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
        digits + "\n"
    }
}

/// The time, in nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

// The seed is a secret of the machine's.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, {})", self.hostname, self.machine_id_text().trim())
    }
}
