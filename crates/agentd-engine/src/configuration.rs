//! The configuration in force: policies and quotas. Each change gets one leaf in the audit log, whichever process finds it.

use crate::{
    engine::Engine,
    error::EngineError,
    quota::{QuotaError, QuotaSet},
    set_digest::digest,
};
use agentd_policy::{PolicyError, PolicySets};
use agentd_records::{AuditEvent, ContentDigest, Label, Leaf, Timestamp};
use agentd_state::ConfigurationChange;
use std::{collections::BTreeMap, sync::Arc};

/// The name of the quotas in the store.
const QUOTAS: &str = "quotas";

/// The act of a change of the quotas.
const QUOTA_ACT: &str = "quotas-changed";

/// The result of a reload. What is refused stays as it was.
#[derive(Debug)]
pub struct Reloaded {
    /// The new sets of policies, or why they are refused.
    pub policies: Result<Arc<PolicySets>, PolicyError>,
    /// The new quotas, or why they are refused.
    pub quotas: Result<Arc<QuotaSet>, QuotaError>,
}

impl Engine {
    /// Loads policies and quotas again, and records in the audit log what has changed. A set that is not valid does not replace
    /// the set in use, and its error is returned. Intents that were submitted before keep their policies and quotas.
    ///
    /// # Errors
    /// [`EngineError`] if a change cannot be recorded. The new configuration is in use then, and the next reload or start records
    /// the change.
    pub async fn reload(&self) -> Result<Reloaded, EngineError> {
        let reloaded = Reloaded { policies: self.parts.policies.reload(), quotas: self.parts.quotas.reload() };
        self.record_configuration().await?;
        Ok(reloaded)
    }

    /// Records in the audit log how the configuration in use differs from the one that was recorded last.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(crate) async fn record_configuration(&self) -> Result<(), EngineError> {
        let sets = self.parts.policies.current();
        let enforced = (!sets.is_default).then(|| digest(&sets.enforced));
        let quotas = self.parts.quotas.current().digest();
        for (name, now) in [("enforced", enforced), ("shadow", sets.shadow.as_ref().map(digest)), (QUOTAS, quotas)] {
            self.record_part(name.try_into()?, now).await?;
        }
        Ok(())
    }

    async fn record_part(&self, name: Label, now: Option<ContentDigest>) -> Result<(), EngineError> {
        let state = &self.parts.state;
        if state.is_configured(name.clone(), now).await? {
            return Ok(());
        }
        let lock = state.lock_configuration().await?;
        // A change that another process has left pending comes first.
        while let Some(change) = state.begin_change(&lock, name.clone(), now).await? {
            let event = self.change_event(&name, &change)?;
            // A process that was killed may have recorded the change, and not finished it.
            if !change.is_old || !self.is_recorded(&event, change.since)? {
                self.parts.records.recorder()?.record(&Leaf::new(Timestamp::now(), event))?;
            }
            state.finish_change(&lock, name.clone()).await?;
        }
        Ok(())
    }

    fn change_event(&self, name: &Label, change: &ConfigurationChange) -> Result<AuditEvent, EngineError> {
        let (principal, ConfigurationChange { before, after, .. }) = (self.parts.operator.clone(), change.clone());
        if name.to_string() != QUOTAS {
            return Ok(AuditEvent::PolicyChange { principal, set: name.clone(), before, after });
        }
        let text = |digest: Option<ContentDigest>| digest.map_or_else(|| "default".to_owned(), |digest| digest.to_string());
        let details = [("before", text(before)), ("after", text(after))];
        let details = details.into_iter().map(|(name, text)| Ok((name.try_into()?, text.try_into()?)));
        let details: BTreeMap<Label, Label> = details.collect::<Result<_, EngineError>>()?;
        Ok(AuditEvent::Administrative { principal, act: QUOTA_ACT.try_into()?, details })
    }

    /// Returns true if the audit log has a leaf of the same change since this time. Whoever found the change does not matter.
    fn is_recorded(&self, wanted: &AuditEvent, since: Timestamp) -> Result<bool, EngineError> {
        let mut found = false;
        self.leaves_since(since, |leaf| {
            found |= leaf.time >= since && is_same_change(&leaf.event, wanted);
            found
        })?;
        Ok(found)
    }
}

fn is_same_change(one: &AuditEvent, other: &AuditEvent) -> bool {
    use AuditEvent::{Administrative, PolicyChange};
    match (one, other) {
        (PolicyChange { set, before, after, .. }, PolicyChange { set: of, before: from, after: to, .. }) => {
            (set, before, after) == (of, from, to)
        }
        (Administrative { act, details, .. }, Administrative { act: other, details: others, .. }) => {
            (act, details) == (other, others)
        }
        _ => false,
    }
}
