//! The steps that a prepared process takes before its plan arrives. These steps are the same for every plan that the process
//! suits; see [`ExpectedPlan`](crate::plan::ExpectedPlan).

use super::message::Ids;
use agentd_core::ControlError;
use agentd_kernel::{
    idmap,
    mount::ViewBase,
    privileges::{self, Capabilities},
};

/// The state of a prepared process after its early steps.
pub(super) struct Early {
    pub(super) ids: Ids,
    /// `None` if this process clones the trees of its grants. It must clone the trees before it builds the view.
    pub(super) base: Option<ViewBase>,
}

impl Early {
    /// Assumes the ids, and drops the bounding set and the keyring. If the launcher clones the grants, also begins to build the
    /// view.
    pub(super) fn apply(ids: Ids, scratch_bytes: u64) -> Result<Self, ControlError> {
        idmap::assume(ids.map, ids.privileged)?;
        // The change of ids has cleared the parent-death signal.
        privileges::die_with_parent(libc::SIGKILL)?;
        privileges::limit_bounding_set(Capabilities::NONE)?;
        privileges::own_keyring()?;
        let base = if ids.privileged { Some(ViewBase::build(scratch_bytes)?) } else { None };
        Ok(Self { ids, base })
    }
}
