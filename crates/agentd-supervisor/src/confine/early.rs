//! The steps that a prepared process takes before its plan arrives. They are the same for every plan that the process suits; see
//! [`ExpectedPlan`](crate::plan::ExpectedPlan).

use super::message::Ids;
use agentd_core::ControlError;
use agentd_kernel::{
    idmap,
    mount::ViewBase,
    privileges::{self, Capabilities},
};

/// What a prepared process has applied.
pub(super) struct Early {
    pub(super) ids: Ids,
    /// `None` if this process clones the trees of its grants, because it must clone them before the view changes.
    pub(super) base: Option<ViewBase>,
}

impl Early {
    /// Assumes the ids and limits what the process can regain. If the launcher clones the grants, also begins to build the view.
    pub(super) fn apply(ids: Ids, scratch_bytes: u64) -> Result<Self, ControlError> {
        idmap::assume(ids.map, ids.privileged)?;
        // The change of ids has cleared the signal.
        privileges::die_with_parent(libc::SIGKILL)?;
        privileges::limit_bounding_set(Capabilities::NONE)?;
        privileges::own_keyring()?;
        let base = if ids.privileged { Some(ViewBase::build(scratch_bytes)?) } else { None };
        Ok(Self { ids, base })
    }
}
