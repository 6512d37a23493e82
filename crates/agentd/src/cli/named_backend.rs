//! Creates the backend that an option names.

use super::{failure::Failure, suggestions};
use crate::isolation::{available_backends, create_backend};
use agentd_core::{IsolationBackend, IsolationError};
use std::{path::Path, sync::Arc};

/// Creates the backend that an option names. The error proposes a similar name.
pub(super) fn named_backend(name: &str, work_root: &Path) -> Result<Arc<dyn IsolationBackend>, Failure> {
    create_backend(name, work_root).map_err(|error| match &error {
        IsolationError::UnknownBackend { .. } => match suggestions::nearest(name, available_backends()) {
            Some(meant) => format!("{error} — did you mean '{meant}'?").into(),
            None => error.into(),
        },
        _ => error.into(),
    })
}
