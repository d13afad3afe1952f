//! Quotas in the model: what is used is counted anew each time.

use std::collections::BTreeMap;

use super::{
    super::{
        command::*,
        limits::QUOTAS_MAX,
        quota::{QuotaLimits, QuotaUnit, Scope},
    },
    Model,
};

#[derive(Debug, Clone)]
pub(super) struct Quota {
    limits: QuotaLimits,
    ready: bool,
    up_to: Option<String>,
}

impl Model {
    /// Names and bytes of all items that a quota is about, in order.
    fn items(&self, (scope, prefix): &(Scope, String)) -> BTreeMap<String, u64> {
        let counters = self.counters.keys().map(|name| (name, name.len() + 8));
        let keys = self.keys.iter().map(|(name, key)| (name, name.len() + key.value.len()));
        let items: Vec<(&String, usize)> = match scope {
            Scope::Counters => counters.collect(),
            Scope::Keys => keys.collect(),
        };
        let of_prefix = items.into_iter().filter(|(name, _)| name.starts_with(prefix));
        of_prefix.map(|(name, bytes)| (name.clone(), bytes as u64)).collect()
    }

    /// Goes on counting.
    pub(super) fn count_on(&mut self) {
        for of in self.quotas.keys().cloned().collect::<Vec<_>>() {
            if !self.count(&of) {
                break;
            }
        }
    }

    /// Counts a piece for a quota; whether it has all.
    fn count(&mut self, of: &(Scope, String)) -> bool {
        let items = self.items(of);
        let quota = self.quotas.get_mut(of).unwrap();
        for (name, bytes) in items {
            if quota.ready || quota.up_to.as_ref().is_some_and(|last| name <= *last) {
                continue;
            }
            if self.left.0 == 0 || self.left.1 == 0 {
                return false;
            }
            self.left = (self.left.0 - 1, self.left.1.saturating_sub(bytes));
            quota.up_to = Some(name);
        }
        quota.ready = true;
        true
    }

    /// Why an item of so many bytes may not become one of so many. What is used is counted anew.
    pub(super) fn over_quota(
        &self,
        of: Scope,
        name: &str,
        before: Option<u64>,
        after: u64,
    ) -> Option<Refusal> {
        for ((scope, prefix), quota) in &self.quotas {
            if *scope != of || !name.starts_with(prefix) || !quota.ready {
                continue;
            }
            let items = self.items(&(*scope, prefix.clone()));
            let QuotaLimits { hard_items, hard_bytes, .. } = quota.limits;
            let (count, bytes) = (items.len() as u64, items.values().sum::<u64>());
            let one = u64::from(before.is_none());
            let more = after.saturating_sub(before.unwrap_or(0));
            for (unit, used, grows_by, limit) in [
                (QuotaUnit::Items, count, one, hard_items),
                (QuotaUnit::Bytes, bytes, more, hard_bytes),
            ] {
                if let Some(limit) = limit
                    && grows_by > 0
                    && used + grows_by > limit
                {
                    let (scope, prefix) = (*scope, prefix.clone());
                    return Some(Refusal::QuotaExceeded {
                        scope,
                        prefix,
                        unit,
                        used,
                        limit,
                        grows_by,
                    });
                }
            }
        }
        None
    }

    pub(super) fn quota(&mut self, command: &QuotaCommand) -> Result<Answer, Refusal> {
        let existed = match command.clone() {
            QuotaCommand::Delete { scope, prefix } => {
                self.quotas.remove(&(scope, prefix)).is_some()
            }
            QuotaCommand::Set { scope, prefix, limits } => {
                let of = (scope, prefix);
                if let Some(quota) = self.quotas.get_mut(&of) {
                    quota.limits = limits;
                    return Ok(Answer::QuotaChanged { existed: true });
                }
                if self.quotas.len() == QUOTAS_MAX {
                    return Err(Refusal::QuotaTableFull { quotas_max: QUOTAS_MAX as u64 });
                }
                self.quotas.insert(of.clone(), Quota { limits, ready: false, up_to: None });
                self.count(&of);
                false
            }
        };
        Ok(Answer::QuotaChanged { existed })
    }
}

/// A refusal that leaves no trace.
pub(super) fn over_quota(reply: &Reply) -> bool {
    let refusal = match &reply.result {
        Err(Refusal::Step { refusal, .. }) => &**refusal,
        Err(refusal) => refusal,
        Ok(_) => return false,
    };
    matches!(refusal, Refusal::QuotaExceeded { .. })
}
