//! Quotas in use, which are reloaded without an interruption.

use super::{QuotaSet, file::QuotaError};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// Quotas in use. An intent is admitted by one set from beginning to end.
#[derive(Debug)]
pub struct LiveQuotas {
    file: PathBuf,
    current: RwLock<Arc<QuotaSet>>,
}

impl LiveQuotas {
    /// Loads the quotas of a file ([`QuotaSet::load`]).
    ///
    /// # Errors
    /// As for [`QuotaSet::load`].
    pub fn open(file: &Path) -> Result<Self, QuotaError> {
        Ok(Self { file: file.to_owned(), current: RwLock::new(Arc::new(QuotaSet::load(file)?)) })
    }

    /// Returns the set in use.
    pub fn current(&self) -> Arc<QuotaSet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the file again, and returns the new set. After an error, the set in use stays.
    ///
    /// # Errors
    /// As for [`QuotaSet::load`].
    pub fn reload(&self) -> Result<Arc<QuotaSet>, QuotaError> {
        let set = Arc::new(QuotaSet::load(&self.file)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = set.clone();
        Ok(set)
    }
}
