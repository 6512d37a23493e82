//! The properties that distinguish machines created from the same saved memory.

use agentd_core::IsolationError;
use agentd_kernel::machine_identity::SEED;
use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    time::{SystemTime, UNIX_EPOCH},
};

/// The identity of a machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineIdentity {
    /// The host name.
    pub hostname: String,
    /// The machine id, as in `machine-id(5)`.
    pub machine_id: [u8; 16],
    /// The real time in nanoseconds since 1970, replaced by the current time when the identity is sent. `None` leaves the
    /// machine's clock unchanged, because the clock is already right.
    pub realtime_ns: Option<u64>,
    /// Seed for the kernel's random number generator, credited as entropy.
    pub seed: [u8; SEED],
}

impl MachineIdentity {
    /// Creates an identity with a random machine id and seed, and the current time.
    ///
    /// # Errors
    /// Returns the error of `getrandom(2)`.
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

    /// Creates an identity whose host name is derived from its random machine id.
    ///
    /// # Errors
    /// Returns the error of `getrandom(2)`.
    pub fn generate() -> Result<Self, IsolationError> {
        let failed = |source| IsolationError::Io { context: "generate random bytes: getrandom".to_owned(), source };
        let mut identity = Self::new("").map_err(failed)?;
        identity.hostname = format!("agentd-{}", &identity.machine_id_text()[..8]);
        Ok(identity)
    }

    /// Returns the content of a `machine-id` file.
    pub(super) fn machine_id_text(&self) -> String {
        let digits: String = self.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
        digits + "\n"
    }
}

/// Returns the current time in nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

// Leaves out the seed, which is a secret of the machine.
impl fmt::Debug for MachineIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, {})", self.hostname, self.machine_id_text().trim())
    }
}
