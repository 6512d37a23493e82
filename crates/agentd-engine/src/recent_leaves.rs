//! The end of the audit log, read backwards.

use crate::{engine::Engine, error::EngineError};
use agentd_records::{KeyError, Leaf, LogError, LogReader, RecordsError, Timestamp, VerifyError};

/// How much earlier than in the store the time of an event in the log may be, in seconds.
const EARLIER: u64 = 3600;

impl Engine {
    /// Passes the leaves that are not much older than `since` to `visit`, the newest first. Ends with the bundle in which `visit`
    /// returns true.
    ///
    /// # Errors
    /// [`EngineError`] if the log cannot be read.
    pub(crate) fn leaves_since(&self, since: Timestamp, mut visit: impl FnMut(Leaf) -> bool) -> Result<(), EngineError> {
        let reader = self.parts.records.reader();
        let ring = match self.parts.records.ring() {
            Ok(ring) => ring,
            Err(KeyError::None(_)) => return Ok(()),
            Err(error) => return Err(RecordsError::from(error).into()),
        };
        let size = match reader.checkpoint(&ring) {
            Ok((_, checkpoint)) => checkpoint.size,
            Err(VerifyError::Log(LogError::None(_))) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for bundle in (0..LogReader::bundles(size)).rev() {
            let mut is_last = false;
            for bytes in reader.bundle(size, bundle)?.iter().rev() {
                let leaf = Leaf::parse(bytes)?;
                // The leaf of a request has the time at which the request was received, shortly before its begin in the store.
                is_last |= leaf.time.plus_seconds(EARLIER) < since;
                is_last |= visit(leaf);
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }
}
