//! The result of each control, while the process confines itself.

use agentd_core::{Control, ControlError, ControlReport, ControlStatus};

/// The reports of the controls applied so far.
pub(super) struct ControlRecord<'a> {
    pub(super) controls: &'a mut Vec<ControlReport>,
    pub(super) degrade: bool,
}

impl ControlRecord<'_> {
    pub(super) fn enforced(&mut self, control: Control, detail: String) {
        self.controls.push(ControlReport { control, status: ControlStatus::Enforced, detail });
    }

    /// Returns true if `control` could not be applied.
    pub(super) fn is_missing(&self, control: Control) -> bool {
        self.controls.iter().any(|report| report.control == control && matches!(report.status, ControlStatus::Missing(_)))
    }

    /// Applies one control. A failure ends the sandbox, unless the caller accepted degraded isolation. An error of
    /// [`Control::Grants`] always ends the sandbox, whichever control returns it: it reports a replaced object, not a missing
    /// feature of this host.
    pub(super) fn control(
        &mut self,
        control: Control,
        apply: impl FnOnce() -> Result<(ControlStatus, String), ControlError>,
    ) -> Result<(), ControlError> {
        match apply() {
            Ok((status, detail)) => self.controls.push(ControlReport { control, status, detail }),
            Err(error) if self.degrade && error.control != Control::Grants => {
                self.controls.push(ControlReport { control, status: ControlStatus::Missing(error), detail: String::new() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns the status of a control that was applied with `notes`.
pub(super) fn noted(notes: Vec<String>, detail: String) -> (ControlStatus, String) {
    if notes.is_empty() { (ControlStatus::Enforced, detail) } else { (ControlStatus::Partial(notes.join("; ")), detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degradable_sandbox_fails_on_replaced_grant_but_not_on_missing_control() {
        let mut controls = Vec::new();
        let mut record = ControlRecord { controls: &mut controls, degrade: true };
        for control in [Control::Landlock, Control::Mounts] {
            let replaced = ControlError::new(Control::Grants, "open /grant", None);
            assert_eq!(record.control(control, || Err(replaced.clone())), Err(replaced));
            record.control(control, || Err(ControlError::new(control, "call", None))).unwrap();
        }
        assert_eq!(controls.len(), 2);
    }
}
